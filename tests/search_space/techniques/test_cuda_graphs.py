"""A recording is never replayed over weights that are freed or stale: on a GPU, and with a stand-in for one."""

import contextlib
import gc
import inspect
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any, ClassVar, NamedTuple

import pytest
import torch
from paretune.search_space import technique
from paretune.search_space._call_shape import switches
from paretune.search_space._structure import watched_structure
from paretune.search_space.compiler import cuda_graphs
from paretune.testing import picture, tiny_sdxl
from paretune.testing.tiny_sdxl import ip_adapter
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

UNRECORDED = (
    "Denoiser was not recorded: its weights move, no call on the GPU without gradients repeated one, or what comes out "
    "of it cannot be copied"
)
NOISE = torch.linspace(-1, 1, 12).reshape(3, 4)


class Denoiser(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first = torch.nn.Linear(4, 4)
        self.last = torch.nn.Linear(4, 4)
        self.factor = 1.0

    def forward(self, sample: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = self.last(self.first(sample).sigmoid()) * self.factor
        return result


class Split(NamedTuple):
    first: torch.Tensor
    others: list[Any]


class Recording:
    """As a CUDA graph: computes what was recorded again, with the memory that tensors had then."""

    made_in: ClassVar[list[tuple[Any, Any]]] = []

    def __init__(self) -> None:
        self.operations: list[tuple[Any, Any, Any, Any]] = []

    def replay(self) -> None:
        for operation, args, kwargs, results in self.operations:
            again = operation(*args, **kwargs)
            for result, tensor in zip(tree_leaves(results), tree_leaves(again), strict=True):
                if torch.is_tensor(result):
                    result.copy_(tensor)


class Operations(TorchDispatchMode):
    """Keeps what torch does in a recording."""

    def __init__(self, recording: Recording) -> None:
        super().__init__()
        self.recording = recording

    def __torch_dispatch__(self, operation: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = operation(*args, **(kwargs or {}))
        # A weight that moves later leaves these where they are.
        kept = tree_map_only(torch.Tensor, torch.Tensor.detach, (args, kwargs or {}, result))
        self.recording.operations.append((operation, *kept))
        return result


@pytest.fixture
def recorded(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """`recorded` of cuda_graphs on the CPU, where a stand-in takes the place of the driver."""

    @contextlib.contextmanager
    def graph(recording: Recording, **options: Any) -> Iterator[None]:
        Recording.made_in.append((options["pool"], options["stream"]))
        with Operations(recording):
            yield

    new_stream = type("Stream", (), {"wait_stream": lambda self, other: None})
    stream = new_stream()
    Recording.made_in.clear()
    cuda = {
        "CUDAGraph": Recording,
        "graph": graph,
        "Stream": lambda device: new_stream(),
        "current_stream": lambda device=None: stream,
        "stream": lambda stream: contextlib.nullcontext(),
        "device": lambda device: contextlib.nullcontext(),
        "graph_pool_handle": lambda: object(),
        "is_current_stream_capturing": lambda: False,
    }
    for name, stand_in in cuda.items():
        monkeypatch.setattr(torch.cuda, name, stand_in)
    source = inspect.getsource(cuda_graphs.recorded)
    assert source.count('"cuda")') == 1  # of the inputs' device
    namespace: dict[str, Any] = {"Any": Any, "watched_structure": watched_structure, "switches": switches}
    exec(inspect.getsource(cuda_graphs.recording_place), namespace)
    exec(source.replace('device.type == "cuda"', 'device.type == "cpu"'), namespace)
    with torch.no_grad():
        yield namespace["recorded"]


def call_of(recorded: Any, module: Denoiser) -> tuple[Any, dict[str, int]]:
    counts = {"recorded": 0, "replayed": 0, "direct": 0}
    return recorded(module.forward, module, counts), counts


def other_weights(module: Denoiser) -> None:
    module.first.weight = torch.nn.Parameter(-module.first.weight.detach())


def another_layer(module: Denoiser) -> None:
    module.last = torch.nn.Linear(4, 4)


def moved(module: Denoiser) -> None:
    """As `.to()` does: the same parameters, in other memory."""
    module.first.weight.data = -module.first.weight.data


def a_setting(module: Denoiser) -> None:
    """As FreeU, an attention processor's scale, a layer's padding."""
    module.factor = 2.0


def written(module: Denoiser) -> None:
    module.first.weight.data.neg_()


@pytest.mark.parametrize(
    ("change", "records_again"),
    [(other_weights, True), (another_layer, True), (moved, True), (a_setting, True), (written, False)],
)
def test_a_recording_is_not_replayed_over_stale_weights(recorded: Any, change: Any, records_again: bool) -> None:
    module = Denoiser()
    call, counts = call_of(recorded, module)
    expected = module(NOISE)
    assert all(torch.equal(call(NOISE), expected) for _ in range(4))
    assert counts == {"recorded": 1, "replayed": 3, "direct": 1}
    change(module)
    changed = module(NOISE)
    assert not torch.allclose(changed, expected)
    assert all(torch.allclose(call(NOISE), changed) for _ in range(3))
    assert counts["recorded"] == (2 if records_again else 1)


def test_a_recording_is_not_replayed_under_other_switches(recorded: Any) -> None:
    call, counts = call_of(recorded, Denoiser())
    for _ in range(3):
        call(NOISE)
    cudnn = torch.backends.cudnn
    before, cudnn.allow_tf32 = cudnn.allow_tf32, not cudnn.allow_tf32
    try:
        for _ in range(3):
            call(NOISE)
    finally:
        cudnn.allow_tf32 = before
    assert counts["recorded"] == 2


def test_what_builds_code_records_nothing(recorded: Any) -> None:
    module = Denoiser()
    module.__dict__["compiled_parts"] = {"forward": {"building": 1, "ready": 0}}
    call, counts = call_of(recorded, module)
    assert all(torch.equal(call(NOISE), module(NOISE)) for _ in range(3))
    assert counts == {"recorded": 0, "replayed": 0, "direct": 3}


def test_recordings_of_all_shapes_and_modules_are_made_in_one_memory(recorded: Any) -> None:
    def record() -> Any:
        calls = []
        for module in (Denoiser(), Denoiser()):
            call, _ = call_of(recorded, module)
            calls.append(call)
            for rows in (1, 2, 3):
                for _ in range(2):
                    assert torch.allclose(call(NOISE[:rows]), Denoiser.forward(module, NOISE[:rows]))
        return calls

    calls = record()
    assert len(Recording.made_in) == 6
    assert len(set(Recording.made_in)) == 1
    del calls
    gc.collect()
    record()  # torch has given up the memory of recordings that are gone
    (first_pool, first_stream), (pool, stream) = Recording.made_in[0], Recording.made_in[-1]
    assert len(set(Recording.made_in)) == 2
    assert pool is not first_pool
    assert stream is first_stream


def test_a_module_beside_the_pipelines_is_ready_after_its_first_call(
    recorded: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cuda_graphs, "recorded", recorded)
    upscaler, never_called, known = Denoiser(), Denoiser(), technique("cuda_graphs_modules")
    pipelines = {"upscaler": upscaler, "again": upscaler, "matting": never_called}
    expected = upscaler(NOISE)
    known.apply(pipelines)
    assert known.took_effect(pipelines) == "none of the modules was called"
    assert torch.equal(upscaler(NOISE), expected)
    assert known.took_effect(pipelines) == UNRECORDED
    assert torch.equal(upscaler(NOISE), expected)
    assert upscaler.cuda_graph_counts == {"forward": {"recorded": 1, "replayed": 1, "direct": 1}}
    assert known.took_effect(pipelines) is None


def test_a_module_that_calls_itself_answers(recorded: Any) -> None:
    """As an upscaler does that works through a large picture in tiles."""
    module = Denoiser()
    counts = {"recorded": 0, "replayed": 0, "direct": 0}

    def forward(sample: torch.Tensor) -> torch.Tensor:
        if len(sample) > 1:
            return torch.cat([module(row[None]) for row in sample])
        return Denoiser.forward(module, sample)

    module.forward = recorded(forward, module, counts)  # type: ignore[method-assign]
    expected = Denoiser.forward(module, NOISE)
    assert torch.allclose(module(NOISE), expected)
    assert counts["direct"] == 1


def test_what_cannot_be_copied_is_not_recorded(recorded: Any) -> None:
    """Its tensors would lie where recordings of other modules compute."""
    module, counts = Denoiser(), {"recorded": 0, "replayed": 0, "direct": 0}
    call = recorded(lambda sample: SimpleNamespace(mask=Denoiser.forward(module, sample)), module, counts)
    masks = [call(scale * NOISE).mask for scale in (1, 2, 3)]
    assert counts == {"recorded": 0, "replayed": 0, "direct": 3}
    assert all(torch.equal(mask, module(scale * NOISE)) for mask, scale in zip(masks, (1, 2, 3), strict=True))


def test_results_keep_their_kind(recorded: Any) -> None:
    module, counts = Denoiser(), {"recorded": 0, "replayed": 0, "direct": 0}
    forward = module.forward
    call = recorded(lambda sample: Split(forward(sample), [None, {"as": "it is"}]), module, counts)
    for found in [call(NOISE) for _ in range(3)]:
        assert type(found) is Split
        assert torch.equal(found.first, module(NOISE))
        assert found.others == [None, {"as": "it is"}]
    assert counts["recorded"] == 1


def test_a_module_within_another_needs_no_recording_of_its_own(recorded: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuda_graphs, "recorded", recorded)
    inner, outer, known = Denoiser(), Denoiser(), technique("cuda_graphs_modules")
    forward = outer.forward
    outer.forward = lambda sample: forward(inner(sample))  # type: ignore[method-assign]
    pipelines = {"outer": outer, "inner": inner}
    known.apply(pipelines)
    for _ in range(3):
        outer(NOISE)
    assert outer.cuda_graph_counts["forward"]["replayed"] == 2
    assert inner.cuda_graph_counts == {"forward": {"recorded": 0, "replayed": 0, "direct": 0}}
    assert known.took_effect(pipelines) is None


def test_the_stand_in_would_show_it(recorded: Any) -> None:
    """Without the look at the module, what comes out is what the old weights make."""
    recorded.__globals__["watched_structure"] = lambda module: lambda: ("unchanged", {}, None)
    module = Denoiser()
    call, _ = call_of(recorded, module)
    expected = module(NOISE)
    for _ in range(2):
        call(NOISE)
    other_weights(module)
    assert torch.allclose(call(NOISE), expected), "stale"


@pytest.mark.gpu
@pytest.mark.parametrize("how", ["stash", "in_place", None])
def test_pictures_after_adapters_came_and_went_are_those_without_recordings(how: str | None) -> None:
    """Recorded graphs and IP-Adapters on a GPU: each picture is the one that nothing recorded makes."""
    torch.manual_seed(0)
    files = {name: ip_adapter(tiny_sdxl().unet) for name in ("ann", "ben")}

    def served(recorded: bool) -> list[torch.Tensor]:
        pipeline = tiny_sdxl("cuda", torch.float32)
        if recorded:
            if how is not None:
                technique("ip_adapter_swap").apply({"main": pipeline}, how=how)
            technique("cuda_graphs").apply({"main": pipeline}, modules="denoiser")
        made, loaded = [], "plain"
        for name in ("plain", "ann", "ben", "plain", "ben", "ann", "plain", "ann", "ben", "plain"):
            if name != loaded and loaded != "plain":
                pipeline.unload_ip_adapter()
            if name != loaded and name != "plain":
                pipeline.load_ip_adapter(files[name], subfolder="", weight_name="", image_encoder_folder=None)
                torch.cuda.empty_cache()  # what was freed is given back: a stale recording would read anything
            loaded = name
            more = {} if name == "plain" else {"ip_adapter_image_embeds": [torch.ones(2, 1, 8, device="cuda")]}
            made.append(picture(pipeline, batch=1, **more))
        if recorded:
            assert pipeline.unet.cuda_graph_counts["forward"]["replayed"]
        return made

    for with_graphs, without in zip(served(True), served(False), strict=True):
        assert torch.allclose(with_graphs, without, atol=1e-4)


@pytest.mark.gpu
@pytest.mark.parametrize(("rows", "times"), [((16384, 12000, 9000), 1.3), ((9000, 12000, 16384), 3.0)])
def test_recordings_share_memory(rows: tuple[int, ...], times: float) -> None:
    """The largest first, the others need none of their own; nine recordings one after the other would need 6.8 times
    as much.
    """

    def wide() -> Any:
        layers = torch.nn.Sequential(torch.nn.Linear(64, 8192), torch.nn.ReLU(), torch.nn.Linear(8192, 64))
        return layers.to("cuda")

    gc.collect()
    torch.cuda.empty_cache()
    before, modules = torch.cuda.memory_reserved(), [wide() for _ in range(3)]
    technique("cuda_graphs_modules").apply({str(number): module for number, module in enumerate(modules)})
    with torch.no_grad():
        for number in rows:
            for module in modules:
                given = torch.randn(number, 64, device="cuda")
                found = [module(given) for _ in range(3)]
                assert torch.equal(found[1], found[2])
                assert torch.allclose(found[0], found[2], atol=1e-5)
    torch.cuda.empty_cache()
    assert all(module.cuda_graph_counts["forward"]["recorded"] == len(rows) for module in modules)
    largest_bytes = 2 * 4 * 8192 * max(rows)  # of the first layer and of the second
    assert torch.cuda.memory_reserved() - before < times * largest_bytes


@pytest.mark.gpu
def test_what_one_module_has_made_lasts_while_another_is_replayed() -> None:
    torch.manual_seed(0)
    modules = [torch.nn.Sequential(torch.nn.Linear(64, size), torch.nn.Linear(size, 64)).cuda() for size in (4096, 256)]
    given = [torch.randn(2048, 64, device="cuda") for _ in range(4)]
    with torch.no_grad():
        expected = [[module(one) for one in given] for module in modules]
        technique("cuda_graphs_modules").apply({str(number): module for number, module in enumerate(modules)})
        for _ in range(3):
            found = [[module(one) for module in modules] for one in given]
    for number, (first, second) in enumerate(found):
        assert torch.allclose(first, expected[0][number], atol=1e-5)
        assert torch.allclose(second, expected[1][number], atol=1e-5)
