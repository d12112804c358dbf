"""CUDA graphs: the kernels of a call are recorded once, and launched again all at once.

A U-Net of SDXL's size starts some 1,700 kernels in each step. Where the host takes longer to start them than the GPU
to run them, the GPU waits; a recording starts them in one go. The arithmetic is the same, kernel by kernel.
"""

from collections.abc import Mapping
from typing import Any, Literal

from .._call_shape import described_switches, switches
from .._modules import denoisers, text_encoders, torch_modules, vaes
from .._structure import WATCHING, watched_structure
from .._target import PipelineFacts, Role, Target
from .._technique import Axis, Loss, Parameters, Stage, Technique, Trait


class CudaGraphsParameters(Parameters):
    """modules: which are recorded, as they are or compiled; the VAE's decoder only where its weights stay in place."""

    modules: Literal["denoiser", "denoiser_vae", "denoiser_vae_text"] = "denoiser"


def recording_place(device: int | None) -> Any:
    """What all recordings made here on a CUDA device have in common: the `pool` of memory in which they compute, the
    `stream` on which they are made, the `graphs` that there are, the stream that was `used` last, a `lock` for all of
    these, and, for each thread, whether it is `inside` a call.

    Recordings are replayed one after the other, and what goes in and comes out lies elsewhere, so that those of all
    shapes and modules can compute in the same memory. The stream has to be the same as well: torch's allocator gives
    freed memory to the stream only on which it was asked for.
    Source: https://docs.pytorch.org/docs/stable/notes/cuda.html#graph-memory-management
    """
    import threading
    from types import SimpleNamespace
    from weakref import WeakSet

    import torch

    places = vars(recording_place).setdefault("places", {})
    if device not in places:
        place = SimpleNamespace(pool=None, stream=torch.cuda.Stream(device), lock=threading.RLock())
        place.graphs, place.used, place.inside = WeakSet(), [], threading.local()
        places.setdefault(device, place)
    return places[device]


def recorded(function: Any, module: Any, counts: dict[str, int], *, at_once: bool = False) -> Any:
    """`function`, which computes with the weights of `module`, as CUDA graphs: one for each combination of shapes,
    number formats and other arguments, and for each state that the module is in (watched_structure).

    The first call of a combination runs as it is, which compiles what has to be compiled; the second is recorded, or
    with `at_once` the first, once it has run: what is called once in a picture is then ready after the first picture.
    Nothing is recorded where compiled code is put into artefacts: that takes memory enough. What comes out is a copy,
    so that no later call writes over it; what comes out in objects of other kinds than tensors, plain values and
    containers of them could not be, and is never recorded. Nor can a hook keep a tensor from inside of it. counts:
    "recorded", "replayed" and "direct" calls are counted in it.
    """
    import threading
    from collections import OrderedDict

    import torch

    most_graphs, most_states = 32, 4
    look = watched_structure(module)
    parts = [counts for layer in module.modules() for counts in vars(layer).get("compiled_parts", {}).values()]
    building = any(counts.get("building") for counts in parts)
    states: list[tuple[Any, Any]] = []  # (what the module was, the graphs recorded then), the last used at the end
    lock = threading.RLock()

    def flatten(value: Any, tensors: list[Any]) -> Any:
        """The structure of an argument, hashable, with its tensors taken out into `tensors`."""
        if torch.is_tensor(value):
            tensors.append(value)
            return ("tensor", value.shape, value.stride(), value.dtype, value.device.type)
        if isinstance(value, dict):
            return (type(value), tuple((name, flatten(item, tensors)) for name, item in value.items()))
        if isinstance(value, (list, tuple)):
            return (type(value), tuple(flatten(item, tensors) for item in value))
        if value is None or isinstance(value, (bool, int, float, str, torch.dtype, torch.device)):
            return value
        raise TypeError("an argument whose changes would not be seen")

    def rebuild(value: Any, copied: Any) -> Any:
        """The same structure with every tensor passed through `copied`."""
        if torch.is_tensor(value):
            return copied(value)
        if hasattr(value, "__dataclass_fields__"):  # diffusers' and transformers' results, which are dictionaries too
            return type(value)(**{name: rebuild(item, copied) for name, item in value.items()})
        if isinstance(value, dict):
            return {name: rebuild(item, copied) for name, item in value.items()}
        if hasattr(value, "_fields"):
            return type(value)(*(rebuild(item, copied) for item in value))
        if isinstance(value, (list, tuple)):
            return type(value)(rebuild(item, copied) for item in value)
        return value

    def can_be_copied(result: Any) -> bool:
        """Whether there is nothing in a result whose tensors rebuild() would not see."""
        try:
            flatten(result, [])
        except TypeError:
            return False
        return True

    def graphs_now() -> Any:
        """The graphs that fit the state which the module is in."""
        # What was compiled meanwhile, in another thread, takes the place of what was recorded without it.
        settings, _, state = look()
        now = (settings, state, [counts.get("ready", 0) for counts in parts])
        for position, (then, graphs) in enumerate(states):
            if then == now:
                states.append(states.pop(position))
                return graphs
        # What was recorded with other weights may read memory that is no longer theirs; it is used again only when the
        # module is found in exactly that state, and forgotten when there have been a few others since.
        states.append((now, OrderedDict()))
        del states[:-most_states]
        return states[-1][1]

    def static(args: Any, kwargs: Any, device: Any) -> Any:
        """The arguments that a recording is made with, and their tensors in a list."""
        inputs: list[Any] = []

        def copied(tensor: Any) -> Any:
            # Never a CPU tensor: a recording cannot fetch what lies in main memory.
            # With the strides of the original: empty_like keeps the layout of dense tensors.
            copy = torch.empty_like(tensor, device=device)
            copy.copy_(tensor)
            inputs.append(copy)
            return copy

        return rebuild(args, copied), rebuild(kwargs, copied), inputs

    def record(place: Any, args: Any, kwargs: Any, device: Any) -> Any:
        static_args, static_kwargs, inputs = static(args, kwargs, device)
        before = torch.cuda.current_stream(device)
        # Replays and this stream share what libraries compute in.
        for stream in (before, *place.used):
            place.stream.wait_stream(stream)
        with torch.cuda.stream(place.stream):
            # Libraries set up what they need for a stream in its first call, which cannot be recorded.
            result = function(*static_args, **static_kwargs)
        before.wait_stream(place.stream)
        # In the pool it would stay in the way of the next recording, of which it splits the memory.
        kept = rebuild(result, torch.empty_like)
        outputs: list[Any] = []
        flatten(kept, outputs)
        others = list(place.graphs)  # torch gives up a pool that no graph is left of: none may go from now on
        if not others:
            place.pool = torch.cuda.graph_pool_handle()
        graph = torch.cuda.CUDAGraph()
        try:
            # Other threads may use the GPU meanwhile, to watch its memory for example.
            with torch.cuda.graph(graph, pool=place.pool, stream=place.stream, capture_error_mode="thread_local"):
                made: list[Any] = []
                flatten(function(*static_args, **static_kwargs), made)
                for output, tensor in zip(outputs, made, strict=True):
                    output.copy_(tensor)
        except Exception as error:
            torch.cuda.set_stream(before)  # which torch does not do after all errors
            name = type(module).__name__
            raise RuntimeError(
                f"cuda_graphs: a call of {name} cannot be recorded, because something in it waits for the GPU or reads "
                f"from main memory: {error}"
            ) from error
        place.graphs.add(graph)
        counts["recorded"] += 1
        return graph, inputs, kept

    def replay(place: Any, recording: Any, tensors: list[Any]) -> Any:
        graph, inputs, outputs = recording
        stream = torch.cuda.current_stream()
        if place.used and place.used[0] != stream:
            stream.wait_stream(place.used[0])
        place.used[:] = [stream]
        for kept, tensor in zip(inputs, tensors, strict=True):
            kept.copy_(tensor, non_blocking=True)
        graph.replay()
        counts["replayed"] += 1
        return rebuild(outputs, torch.clone)

    def answer(place: Any, key: Any, tensors: list[Any], device: Any, args: Any, kwargs: Any) -> Any:
        """From the recording of such a call, or as it is the first time."""
        graphs = graphs_now()
        if graphs.get(key, never) is never:
            counts["direct"] += 1
            result = function(*args, **kwargs)
            # In the state after it: transformers puts hooks on a text encoder's layers in its first call.
            graphs = graphs_now()
            if not can_be_copied(result):
                graphs[key] = never
            elif graphs.setdefault(key, None) is None and at_once:
                with place.lock:
                    graphs[key] = record(place, args, kwargs, device)
            if len(graphs) > most_graphs:
                graphs.popitem(last=False)
            return result
        graphs.move_to_end(key)
        with place.lock:
            if graphs[key] is None:
                graphs[key] = record(place, args, kwargs, device)
            return replay(place, graphs[key], tensors)

    def call(*args: Any, **kwargs: Any) -> Any:
        tensors: list[Any] = []
        try:
            structure = flatten((args, kwargs), tensors)
        except TypeError:
            tensors = []
        device = next((tensor.device for tensor in tensors if tensor.device.type == "cuda"), None)
        if device is None or torch.is_grad_enabled():
            counts["direct"] += 1
            return function(*args, **kwargs)
        place = recording_place(device.index)
        if vars(place.inside):
            # In a call of a module around it, or of itself, for the tiles of a picture say: that one is recorded.
            return function(*args, **kwargs)
        if torch.cuda.is_current_stream_capturing():
            counts["direct"] += 1
            return function(*args, **kwargs)
        if building:
            # No request comes again, so that recordings would be of no use; but code for them has to be built too.
            counts["direct"] += 1
            if any(tensor.device != device for tensor in tensors):
                static_args, static_kwargs, _ = static(args, kwargs, device)
                function(*static_args, **static_kwargs)
            return function(*args, **kwargs)
        key = (structure, device.index, (*switches(), torch.is_inference_mode_enabled()))
        with lock, torch.cuda.device(device):
            place.inside.now = True
            try:
                return answer(place, key, tensors, device, args, kwargs)
            finally:
                del place.inside.now

    never = object()
    return call


def record_parts(module: Any, parts: list[str], *, at_once: bool = False) -> None:
    """Put recordings in the place of a module's functions. What they were asked is counted in `cuda_graph_counts`."""
    module.cuda_graph_counts = {}
    for part in parts:
        counts = {"recorded": 0, "replayed": 0, "direct": 0}
        module.cuda_graph_counts[part] = counts
        setattr(module, part, recorded(getattr(module, part), module, counts, at_once=at_once))


def cuda_graphs(pipelines: dict[str, Any], *, modules: str) -> None:
    """Record in place of `forward`: hooks on the module stay outside. A step cache's parts are recorded one by one."""
    for denoiser in denoisers(pipelines):
        record_parts(denoiser, getattr(denoiser, "forward_parts", ["forward"]))
    if modules != "denoiser":
        for vae in vaes(pipelines):
            record_parts(vae.decoder, ["forward"], at_once=True)
    if modules == "denoiser_vae_text":
        for encoder in text_encoders(pipelines):
            record_parts(encoder, ["forward"], at_once=True)


def took_effect(pipelines: dict[str, Any], *, modules: str) -> str | None:
    """Whether every module ran from its recordings."""
    chosen = denoisers(pipelines)
    chosen += [vae.decoder for vae in vaes(pipelines)] if modules != "denoiser" else []
    chosen += text_encoders(pipelines) if modules == "denoiser_vae_text" else []
    for module in chosen:
        for part, counts in getattr(module, "cuda_graph_counts", {"forward": {"replayed": 0}}).items():
            if not counts["replayed"]:
                return (
                    f"{part} of {type(module).__name__} was not recorded: its weights move, no call repeated one, or "
                    "what comes out of it cannot be copied"
                )
    return None


def refuses(target: Target, pipelines: Mapping[str, PipelineFacts], parameters: CudaGraphsParameters) -> str | None:
    """Devices other than CUDA, and pipelines without the modules."""
    if target.device != "cuda":
        return "CUDA graphs need a CUDA device"
    if not any(pipeline.denoisers for pipeline in pipelines.values()):
        return "no pipeline has a denoiser"
    if parameters.modules != "denoiser" and not any(pipeline.vaes for pipeline in pipelines.values()):
        return "no pipeline has a VAE"
    if parameters.modules == "denoiser_vae_text" and not any(p.text_encoders for p in pipelines.values()):
        return "no pipeline has a text encoder"
    return None


def roles(parameters: CudaGraphsParameters) -> frozenset[Role]:
    """The modules that are recorded."""
    chosen = {
        "denoiser": {Role.DENOISER},
        "denoiser_vae": {Role.DENOISER, Role.VAE},
        "denoiser_vae_text": {Role.DENOISER, Role.VAE, Role.TEXT_ENCODER},
    }
    return frozenset(chosen[parameters.modules])


TECHNIQUE = Technique(
    name="cuda_graphs",
    axis=Axis.COMPILER,
    loss=Loss.BIT_IDENTICAL,
    summary="Records the kernels of a call once and starts them all at once: the GPU no longer waits for the host.",
    source="https://docs.pytorch.org/docs/stable/notes/cuda.html#cuda-graphs",
    parameters=CudaGraphsParameters,
    apply=cuda_graphs,
    took_effect=took_effect,
    refuses=refuses,
    stage=Stage.COMPILATION,
    roles=roles,
    traits=frozenset({Trait.CUDA_GRAPHS}),
    helpers=(
        torch_modules,
        denoisers,
        vaes,
        text_encoders,
        *WATCHING,
        switches,
        described_switches,
        recording_place,
        recorded,
        record_parts,
    ),
    adapters_later=(
        "Adapters may be loaded and unloaded later: what was recorded with other weights or layers is not replayed, "
        "and the first or second call of each new state records again."
    ),
)
