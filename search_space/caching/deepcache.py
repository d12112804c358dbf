"""DeepCache: most denoising steps compute only the U-Net's outermost layers and reuse the deep features.

Ma, Fang, Wang: "DeepCache: Accelerating Diffusion Models for Free", CVPR 2024, arXiv 2312.00858.

Skip connection number k of a U-Net leads from the input convolution (k = 0) or from layer k of the first down block to
one layer of the last up block. What reaches that layer from below, its main-branch input, changes slowly from step to
step: a full step keeps it, and the shallow steps that follow compute the layers above that skip connection only.
"""

from collections.abc import Mapping
from typing import Any, Literal

from .._calls import calling_pipeline, step_of_call, wrap_forward
from .._modules import denoisers, torch_modules
from .._target import PipelineFacts, Role, Target, known_steps
from .._technique import Axis, Loss, Parameters, Stage, Technique, Trait
from .._unet_parts import UNET_PARTS, unet_parts, unet_refusal


class DeepCacheParameters(Parameters):
    """interval: one step in so many is a full one. branch: the skip connection above which shallow steps compute; a
    higher number computes more and loses less. full_percent: how many of a picture's steps, from the first on, are all
    full ones (see deepcache_plan); the composition is decided there.
    """

    interval: Literal[2, 3, 4, 5] = 3
    branch: Literal[0, 1, 2] = 0
    full_percent: Literal[0, 30, 50, 70] = 0


def deepcache_plan(count: int, interval: int, full_percent: int) -> list[bool]:
    """Which of a call's `count` steps are full ones.

    Full are the first full_percent of them, rounded down, but one at least, and from the last of these on every
    interval-th. A step is a call of the denoiser: schedulers of second order take two for most of theirs. Image to
    image takes only the end of the schedule, and the percentage is of that.
    """
    last = max(0, count * full_percent // 100 - 1)
    return [step <= last or (step - last) % interval == 0 for step in range(count)]


def deepcache(pipelines: dict[str, Any], *, interval: int, branch: int, full_percent: int) -> None:
    """Split each U-Net's forward() into two functions of tensors, and replace it by a dispatcher between them.

    The functions are unet.deepcache_full and unet.deepcache_shallow; unet.forward_parts names them, so that a compiler
    can compile each as one graph. The dispatcher stays outside of any graph. Where it is not known what a shallow step
    may leave out, it computes the whole U-Net: outside of a pipeline, with a ControlNet, and so on.
    """
    import weakref

    def split(unet: Any) -> None:
        by_torch = hasattr(unet.forward, "_torchdynamo_orig_callable") and not hasattr(
            unet.forward, "_torchdynamo_disable"
        )
        if hasattr(unet, "_orig_mod") or by_torch:
            raise ValueError("deepcache: the U-Net is compiled already, and it is to be split into parts before that")
        parts = unet_parts(unet, "deepcache", branch)
        # full_steps, shallow_steps: over the U-Net's life. seen, full: steps of the last call, and the full ones among
        # them. excused: steps of that call that were to be shallow and had to be full, because the batch or the prompt
        # had changed. whole: why the last step that did so took no part in all this.
        state: dict[str, Any] = {"full_steps": 0, "shallow_steps": 0}
        state.update(seen=0, full=0, excused=0, whole="")
        # Of each pipeline that is at work, as several may be, in threads of their own.
        calls: Any = weakref.WeakKeyDictionary()

        def is_stale(call: Any, sample: Any, encoder_hidden_states: Any) -> bool:
            """Whether the call has kept no features, or they are for another batch, or for another prompt."""
            deep, prompt = call.get("deep"), call.get("prompt")
            return bool(
                deep is None
                # A pipeline passes the same memory in every step, unless a callback has replaced the prompt.
                or encoder_hidden_states.data_ptr() != prompt.data_ptr()
                or encoder_hidden_states.shape != prompt.shape
                or (deep.shape[0], deep.shape[-2:]) != (sample.shape[0], sample.shape[-2:])
                or (deep.dtype, deep.device) != (sample.dtype, sample.device)
            )

        def compute(inputs: Any, call: Any, full: bool) -> Any:
            if not full:
                return unet.deepcache_shallow(*inputs, call["deep"])
            noise, deep = unet.deepcache_full(*inputs)
            # A copy, because CUDA graphs write the next call's results over this one's.
            call.update(deep=deep.clone(), prompt=inputs[2])
            return noise

        run = parts["call"](compute)

        def deepcache_forward(
            inner: Any, sample: Any, timestep: Any, encoder_hidden_states: Any, *args: Any, **kwargs: Any
        ) -> Any:
            pipeline = calling_pipeline()[0]
            if pipeline is None:
                state["whole"] = "the U-Net was called outside of a pipeline with a scheduler"
                return inner(sample, timestep, encoder_hidden_states, *args, **kwargs)
            call = calls[pipeline] = step_of_call("deepcache", pipeline, timestep, calls.get(pipeline))
            position = call["index"] - call["first"]
            planned = position >= call["count"] or deepcache_plan(call["count"], interval, full_percent)[position]
            whole = "the U-Net was called with more than three positional arguments" if args else ""
            named = {"sample": sample, "timestep": timestep, "encoder_hidden_states": encoder_hidden_states, **kwargs}
            whole = whole or parts["why_whole"](named)
            # More than one call for a step: windows of a large picture, say, or guidance in turns. What one of them
            # keeps is not for the next.
            full = bool(planned or whole or call["again"] or is_stale(call, sample, encoder_hidden_states))
            call["full"] = call.get("full", 0) + full
            call["excused"] = call.get("excused", 0) + (full and not planned)
            state["full_steps" if full else "shallow_steps"] += 1
            state.update(seen=position + 1, full=call["full"], excused=call["excused"])
            if whole:
                state["whole"] = whole
                call.update(deep=None, prompt=None)
                return inner(sample, timestep, encoder_hidden_states, *args, **kwargs)
            result = run(named, call, full)
            if position + 1 >= call["count"]:
                # The picture is done; what was kept need not fill memory until the next.
                call.update(deep=None, prompt=None)
            return result

        wrap_forward(unet, "deepcache", deepcache_forward)
        unet.deepcache_full, unet.deepcache_shallow = parts["full"], parts["shallow"]
        unet.forward_parts = ["deepcache_full", "deepcache_shallow"]
        unet.deepcache_state = state

    for unet in denoisers(pipelines):
        split(unet)


def took_effect(pipelines: dict[str, Any], *, interval: int, branch: int, full_percent: int) -> str | None:
    """Whether shallow steps ran, and as many as the parameters say."""
    states = [getattr(unet, "deepcache_state", {}) for unet in denoisers(pipelines)]
    if not any(state.get("shallow_steps") for state in states):
        why = next((f": {state['whole']}" for state in states if state.get("whole")), "")
        return f"every step computed the whole U-Net{why}"
    for state in states:
        planned = sum(deepcache_plan(state["seen"], interval, full_percent)) + state["excused"]
        if state["full"] != planned:
            return f"{state['full']} of {state['seen']} steps computed the whole U-Net, and {planned} were to"
    return None


def refuses(target: Target, pipelines: Mapping[str, PipelineFacts], parameters: DeepCacheParameters) -> str | None:
    """Pipelines whose denoiser is no U-Net of the known kind."""
    return unet_refusal(pipelines, parameters.branch)


def plan(pipelines: Mapping[str, PipelineFacts], parameters: DeepCacheParameters) -> Any:
    """Which steps are shallow, and what they compute; None where every step is a full one."""
    counts = known_steps(pipelines)
    if counts is None:
        return parameters.model_dump()
    patterns = [deepcache_plan(count, parameters.interval, parameters.full_percent) for count in counts]
    return None if all(map(all, patterns)) else [parameters.branch, patterns]


TECHNIQUE = Technique(
    name="deepcache",
    axis=Axis.CACHING,
    loss=Loss.APPROXIMATE,
    summary="Computes the whole U-Net in one step of several, and only its outermost layers in the others.",
    source="https://arxiv.org/abs/2312.00858",
    parameters=DeepCacheParameters,
    apply=deepcache,
    took_effect=took_effect,
    refuses=refuses,
    stage=Stage.STRUCTURE,
    roles=frozenset({Role.DENOISER}),
    traits=frozenset({Trait.CALLS_INNER_LAYERS, Trait.CACHES_STEPS}),
    adapters_later="LoRAs and IP-Adapters may be loaded after it, between pictures.",
    plan=plan,
    helpers=(torch_modules, denoisers, wrap_forward, calling_pipeline, step_of_call, *UNET_PARTS, deepcache_plan),
)
