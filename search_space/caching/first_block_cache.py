"""First-block cache for U-Nets: each step computes the first layers, and they decide whether the deep ones run.

ParaAttention's first-block cache for transformers, which Comfy-WaveSpeed carried over to U-Nets; what is reused is what
DeepCache reuses (arXiv 2312.00858), and what is compared is TeaCache's idea (arXiv 2411.19108): how far the first
layers have moved their input, against the last step that was computed whole. Where that changed little, the features
that reach the last up block from below are taken from that step.
"""

from collections.abc import Mapping
from typing import Any, Literal

from .._modules import denoisers, torch_modules
from .._steps import STEP_HELPERS, wrap_steps
from .._target import PipelineFacts, Role, Target
from .._technique import Axis, Loss, Parameters, Stage, Technique, Trait
from .._unet_parts import UNET_PARTS, unet_parts, unet_refusal


class FirstBlockCacheParameters(Parameters):
    """threshold_permille: deep layers are left out while the first layers' residual differs from that of the last whole
    step by less, in thousandths of its mean. most_cached: so many steps in a row are cached at most. branch: the skip
    connection above which a cached step computes, as in deepcache; it is compared after so many layers.
    """

    threshold_permille: Literal[50, 100, 200, 400] = 200
    most_cached: Literal[1, 2, 3, 5] = 3
    branch: Literal[1, 2] = 1


def first_block_cache(pipelines: dict[str, Any], *, threshold_permille: int, most_cached: int, branch: int) -> None:
    """Split each U-Net into head, middle and tail, and leave out the middle where the head says so.

    To decide, the host waits for one number from the device in each step that has a choice. unet.forward_parts names
    the three parts, so that a compiler can compile each as one graph; the decision stays outside of any graph.
    """
    import torch

    def copies(value: Any) -> Any:
        """CUDA graphs write the next call's results over this one's."""
        if torch.is_tensor(value):
            return value.clone()
        if isinstance(value, (list, tuple)):
            return type(value)(copies(item) for item in value)
        return value

    def split(unet: Any) -> None:
        parts = unet_parts(unet, "first_block_cache", branch)
        state: dict[str, Any] = {"steps": 0, "computed": 0, "longest": 0, "whole": ""}

        def first_block_head(
            sample: Any,
            timestep: Any,
            encoder_hidden_states: Any,
            added_cond_kwargs: Any,
            cross_attention_kwargs: Any,
            residual: Any,
        ) -> Any:
            """What the head returns, the residual of the first layers, and how far it is from the one given."""
            skips, emb, prompt = parts["head"](
                sample, timestep, encoder_hidden_states, added_cond_kwargs, cross_attention_kwargs
            )
            now = skips[-1] - skips[0]
            if residual is None:
                return skips, emb, prompt, now, None
            change = (now - residual).float().abs().mean() / residual.float().abs().mean()
            return skips, emb, prompt, now, change

        def compute(inputs: Any, kept: Any) -> Any:
            cross_attention_kwargs = inputs[-1]
            undecided = "deep" in kept and kept["cached"] < most_cached
            found = unet.first_block_head(*inputs, kept["residual"] if undecided else None)
            skips, emb, prompt, residual, change = copies(found)
            # bool() is the wait for the device.
            if undecided and bool(change < threshold_permille / 1000):
                kept["cached"] += 1
                state["longest"] = max(state["longest"], kept["cached"])
            else:
                deep = unet.first_block_middle(skips, emb, prompt, cross_attention_kwargs)
                kept.update(deep=copies(deep), residual=residual, cached=0)
                state["computed"] += 1
            return unet.first_block_tail(skips, emb, prompt, cross_attention_kwargs, kept["deep"])

        run = parts["call"](compute)

        def first_block_step(inner: Any, named: Any, place: Any) -> Any:
            state["steps"] += 1
            whole = parts["why_whole"](named)
            if whole:
                state["whole"] = whole
                state["computed"] += 1
                place["kept"].clear()
                return inner(**named)
            return run(named, place["kept"])

        wrap_steps(unet, "first_block_cache", first_block_step)
        unet.first_block_head = first_block_head
        unet.first_block_middle = parts["middle"]
        unet.first_block_tail = parts["tail"]
        unet.forward_parts = ["first_block_head", "first_block_middle", "first_block_tail"]
        unet.first_block_state = state

    for unet in denoisers(pipelines):
        split(unet)


def took_effect(pipelines: dict[str, Any], *, threshold_permille: int, most_cached: int, branch: int) -> str | None:
    """Whether steps left out the deep layers, and never more in a row than allowed."""
    states = [getattr(unet, "first_block_state", {"steps": 0, "computed": 0}) for unet in denoisers(pipelines)]
    if all(state["steps"] == state["computed"] for state in states):
        why = next((state["whole"] for state in states if state.get("whole")), "")
        return f"every step computed the whole U-Net{': ' + why if why else ''}"
    longest = max(state.get("longest", 0) for state in states)
    return None if longest <= most_cached else f"{longest} steps in a row were cached, and {most_cached} are allowed"


def refuses(
    target: Target, pipelines: Mapping[str, PipelineFacts], parameters: FirstBlockCacheParameters
) -> str | None:
    """Pipelines whose denoiser is no U-Net of the known kind."""
    return unet_refusal(pipelines, parameters.branch)


TECHNIQUE = Technique(
    name="first_block_cache",
    axis=Axis.CACHING,
    loss=Loss.APPROXIMATE,
    summary="Leaves out a U-Net's deep layers in steps whose first layers say that little has changed.",
    source="https://github.com/chengzeyi/Comfy-WaveSpeed",
    parameters=FirstBlockCacheParameters,
    apply=first_block_cache,
    took_effect=took_effect,
    refuses=refuses,
    stage=Stage.STRUCTURE,
    traits=frozenset({Trait.CACHES_STEPS, Trait.CALLS_INNER_LAYERS}),
    roles=frozenset({Role.DENOISER}),
    helpers=(torch_modules, denoisers, *STEP_HELPERS, *UNET_PARTS),
)
