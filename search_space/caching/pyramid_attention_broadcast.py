"""Pyramid attention broadcast: attention layers give what they gave in an earlier step, in the middle of a picture.

Zhao et al.: "Real-Time Video Generation with Pyramid Attention Broadcast", arXiv 2408.12588. Attention to the prompt
changes least from step to step. The hooks are those of diffusers.
"""

from collections.abc import Mapping
from typing import Any, Literal

from .._hook_cache import HOOK_CACHE_HELPERS, hook_cache, hook_cache_effect
from .._modules import denoisers, torch_modules
from .._target import PipelineFacts, Role, Target
from .._technique import Axis, Loss, Parameters, Stage, Technique, Trait


class PyramidAttentionBroadcastParameters(Parameters):
    """self_interval, cross_interval: self-attention, and attention to the prompt, are computed in one step of so many;
    1 for every step. first_percent: so many of a picture's steps, from the first on, compute everything, and so do the
    last 10 %.
    """

    self_interval: Literal[1, 2, 3, 4] = 2
    cross_interval: Literal[1, 2, 3, 5] = 1
    first_percent: Literal[10, 20, 30] = 20


def pyramid_attention_broadcast(
    pipelines: dict[str, Any], *, self_interval: int, cross_interval: int, first_percent: int
) -> None:
    """Put diffusers' hook on the attention layers, with the place in the picture, in percent, for a timestep."""
    from diffusers.hooks import PyramidAttentionBroadcastConfig, apply_pyramid_attention_broadcast

    def apply_to(denoiser: Any) -> None:
        def install(place: Any) -> None:
            # Between these, exclusive; half a percent below, so that the first step after it is within.
            between = (first_percent - 0.5, 90)
            config = PyramidAttentionBroadcastConfig(
                spatial_attention_block_skip_range=self_interval if self_interval > 1 else None,
                cross_attention_block_skip_range=cross_interval if cross_interval > 1 else None,
                spatial_attention_timestep_skip_range=between,
                cross_attention_timestep_skip_range=between,
                current_timestep_callback=lambda: 100 * place["position"] / place["count"],
            )
            apply_pyramid_attention_broadcast(denoiser, config)

        hook_cache(denoiser, "pyramid_attention_broadcast", install, False)

    for denoiser in denoisers(pipelines):
        apply_to(denoiser)


def took_effect(
    pipelines: dict[str, Any], *, self_interval: int, cross_interval: int, first_percent: int
) -> str | None:
    """Whether attention layers were left out."""
    return hook_cache_effect(denoisers(pipelines))


def refuses(
    target: Target, pipelines: Mapping[str, PipelineFacts], parameters: PyramidAttentionBroadcastParameters
) -> str | None:
    """Intervals that leave nothing out, and attention to the prompt where there is none of its own."""
    found = [denoiser for pipeline in pipelines.values() for denoiser in pipeline.denoisers]
    if not found:
        return "no pipeline has a denoiser"
    if parameters.self_interval == parameters.cross_interval == 1:
        return "every attention layer would be computed in every step"
    for denoiser in found:
        if parameters.cross_interval > 1 and not (denoiser.has_cross_attention or denoiser.is_unet):
            return f"a {denoiser.class_name} has no attention layers for the prompt alone: cross_interval has to be 1"
    return None


TECHNIQUE = Technique(
    name="pyramid_attention_broadcast",
    axis=Axis.CACHING,
    loss=Loss.APPROXIMATE,
    summary="Computes attention in one step of several, and reuses it in the others.",
    source="https://arxiv.org/abs/2408.12588",
    parameters=PyramidAttentionBroadcastParameters,
    apply=pyramid_attention_broadcast,
    took_effect=took_effect,
    refuses=refuses,
    stage=Stage.WRAPPERS,
    traits=frozenset({Trait.CACHES_STEPS, Trait.HOOKS_LAYERS}),
    roles=frozenset({Role.DENOISER}),
    helpers=(torch_modules, denoisers, *HOOK_CACHE_HELPERS),
)
