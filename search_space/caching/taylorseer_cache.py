"""TaylorSeer: attention of a transformer's blocks is continued as a Taylor series in the steps that are skipped.

Liu et al.: "From Reusing to Forecasting: Accelerating Diffusion Models with TaylorSeers", arXiv 2503.06923. The hooks
are those of diffusers. forecast_cache extrapolates the output of the whole transformer instead.
"""

from collections.abc import Mapping
from typing import Any, Literal

from .._hook_cache import HOOK_CACHE_HELPERS, hook_cache, hook_cache_effect, transformer_refusal
from .._modules import denoisers, torch_modules
from .._target import PipelineFacts, Role, Target
from .._technique import Axis, Loss, Parameters, Stage, Technique, Trait


class TaylorseerCacheParameters(Parameters):
    """interval: attention is computed in one step of so many. order: the highest of the series. first_steps: so many
    steps at the beginning of a picture are all computed.
    """

    interval: Literal[2, 3, 4, 5] = 3
    order: Literal[1, 2] = 1
    first_steps: Literal[3, 5, 8] = 3


def taylorseer_cache(pipelines: dict[str, Any], *, interval: int, order: int, first_steps: int) -> None:
    """Put diffusers' hook on the blocks' attention layers. Nothing waits for the device."""
    from diffusers.hooks import TaylorSeerCacheConfig, apply_taylorseer_cache

    def apply_to(denoiser: Any) -> None:
        def install(place: Any) -> None:
            config = TaylorSeerCacheConfig(
                cache_interval=interval,
                disable_cache_before_step=first_steps,
                max_order=order,
                taylor_factors_dtype=next(denoiser.parameters()).dtype,
            )
            apply_taylorseer_cache(denoiser, config)

        hook_cache(denoiser, "taylorseer_cache", install, True)

    for denoiser in denoisers(pipelines):
        apply_to(denoiser)


def took_effect(pipelines: dict[str, Any], *, interval: int, order: int, first_steps: int) -> str | None:
    """Whether attention layers were left out."""
    return hook_cache_effect(denoisers(pipelines))


def refuses(
    target: Target, pipelines: Mapping[str, PipelineFacts], parameters: TaylorseerCacheParameters
) -> str | None:
    """U-Nets, of whose layers diffusers' patterns match none."""
    return transformer_refusal(pipelines, "forecast_cache")


TECHNIQUE = Technique(
    name="taylorseer_cache",
    axis=Axis.CACHING,
    loss=Loss.APPROXIMATE,
    summary="Computes a transformer's attention in one step of several, and extrapolates it in the others.",
    source="https://arxiv.org/abs/2503.06923",
    parameters=TaylorseerCacheParameters,
    apply=taylorseer_cache,
    took_effect=took_effect,
    refuses=refuses,
    stage=Stage.WRAPPERS,
    traits=frozenset({Trait.CACHES_STEPS, Trait.HOOKS_LAYERS}),
    roles=frozenset({Role.DENOISER}),
    helpers=(torch_modules, denoisers, *HOOK_CACHE_HELPERS),
)
