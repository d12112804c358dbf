"""MagCache: steps are skipped as long as a transformer's residual is known to change little in them.

Ma et al.: "MagCache: Fast Video Generation with Magnitude-Aware Cache", arXiv 2506.09045. How much the residual's
magnitude changes from step to step was measured once for a model, and holds for all prompts. The hooks, and the ratios
of Flux, are those of diffusers.
"""

from collections.abc import Mapping
from typing import Any, Literal

from .._hook_cache import HOOK_CACHE_HELPERS, hook_cache, hook_cache_effect, transformer_refusal
from .._modules import denoisers, torch_modules
from .._target import PipelineFacts, Role, Target
from .._technique import Axis, Loss, Parameters, Stage, Technique, Trait


class MagCacheParameters(Parameters):
    """threshold_permille: steps are skipped until the error that has added up is larger, in thousandths. most_cached:
    so many steps in a row are skipped at most. first_percent: so many of a picture's steps, from the first on, are all
    computed.
    """

    threshold_permille: Literal[30, 60, 120, 240] = 60
    most_cached: Literal[2, 3, 5] = 3
    first_percent: Literal[10, 20, 30] = 20


def mag_cache(pipelines: dict[str, Any], *, threshold_permille: int, most_cached: int, first_percent: int) -> None:
    """Put diffusers' hooks on the blocks, and fit the ratios to each picture's number of steps. Nothing waits for the
    device.
    """
    from diffusers.hooks import MagCacheConfig, apply_mag_cache
    from diffusers.hooks.mag_cache import FLUX_MAG_RATIOS

    def config_for(steps: int) -> Any:
        return MagCacheConfig(
            threshold=threshold_permille / 1000,
            max_skip_steps=most_cached,
            retention_ratio=first_percent / 100,
            num_inference_steps=steps,
            mag_ratios=FLUX_MAG_RATIOS,
        )

    def apply_to(denoiser: Any) -> None:
        config = config_for(len(FLUX_MAG_RATIOS))

        def install(place: Any) -> Any:
            apply_mag_cache(denoiser, config)

            def fit() -> None:
                if place["count"] != config.num_inference_steps:
                    config.num_inference_steps = place["count"]
                    config.mag_ratios = config_for(place["count"]).mag_ratios

            return fit

        hook_cache(denoiser, "mag_cache", install, True)

    for denoiser in denoisers(pipelines):
        apply_to(denoiser)


def took_effect(
    pipelines: dict[str, Any], *, threshold_permille: int, most_cached: int, first_percent: int
) -> str | None:
    """Whether blocks were left out."""
    return hook_cache_effect(denoisers(pipelines))


def refuses(target: Target, pipelines: Mapping[str, PipelineFacts], parameters: MagCacheParameters) -> str | None:
    """Denoisers whose ratios diffusers does not have."""
    refused = transformer_refusal(pipelines)
    if refused is not None:
        return refused
    for pipeline in pipelines.values():
        for denoiser in pipeline.denoisers:
            if denoiser.class_name != "FluxTransformer2DModel":
                return f"how much a {denoiser.class_name} changes from step to step is not known, only that of Flux"
    return None


TECHNIQUE = Technique(
    name="mag_cache",
    axis=Axis.CACHING,
    loss=Loss.APPROXIMATE,
    summary="Skips Flux's blocks in steps in which their residual is known to change little.",
    source="https://arxiv.org/abs/2506.09045",
    parameters=MagCacheParameters,
    apply=mag_cache,
    took_effect=took_effect,
    refuses=refuses,
    stage=Stage.WRAPPERS,
    traits=frozenset({Trait.CACHES_STEPS, Trait.HOOKS_LAYERS}),
    roles=frozenset({Role.DENOISER}),
    helpers=(torch_modules, denoisers, *HOOK_CACHE_HELPERS),
)
