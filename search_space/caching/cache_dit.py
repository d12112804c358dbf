"""cache-dit: a transformer's blocks are left out in steps in which its first ones change little.

The package's DBCache, and on request its TaylorSeer calibrator, which extrapolates what the blocks left out would have
given. It knows the blocks of most transformer pipelines of diffusers; U-Nets are none of them.
"""

from collections.abc import Mapping
from typing import Any, Literal

from .._modules import denoisers, torch_modules
from .._target import PipelineFacts, Role, Target
from .._technique import Axis, Loss, Parameters, Stage, Technique, Trait


class CacheDitParameters(Parameters):
    """threshold_permille: blocks are left out while the residual of the first ones differs from that of the last whole
    step by less, in thousandths of its mean. first_blocks: so many blocks are computed in every step, and compared.
    most_cached: so many steps in a row are cached at most; the first eight steps never are. taylorseer: what is left
    out is extrapolated instead of repeated.
    """

    threshold_permille: Literal[50, 80, 120, 240] = 80
    first_blocks: Literal[1, 4, 8] = 1
    most_cached: Literal[1, 2, 3] = 3
    taylorseer: bool = False


def cache_dit(
    pipelines: dict[str, Any], *, threshold_permille: int, first_blocks: int, most_cached: int, taylorseer: bool
) -> None:
    """Enable it for the transformer, and for all pipelines of one class that share it.

    To decide, the host waits for one number from the device in every step. The package begins anew in each call of a
    pipeline. It changes the pipeline's class, once in a process: raises ValueError for a second transformer.
    """
    import cache_dit as package

    with_denoiser = [pipeline for name, pipeline in pipelines.items() if denoisers({name: pipeline})]
    if len(denoisers(pipelines)) > 1 or len({type(pipeline) for pipeline in with_denoiser}) > 1:
        raise ValueError("cache_dit: the package takes one transformer and one class of pipelines in a process")
    for pipeline in with_denoiser[:1]:
        package.enable_cache(
            pipeline,
            cache_config=package.DBCacheConfig(
                Fn_compute_blocks=first_blocks,
                Bn_compute_blocks=0,
                max_warmup_steps=8,
                max_continuous_cached_steps=most_cached,
                residual_diff_threshold=threshold_permille / 1000,
            ),
            calibrator_config=package.TaylorSeerCalibratorConfig(taylorseer_order=1) if taylorseer else None,
        )


def took_effect(
    pipelines: dict[str, Any], *, threshold_permille: int, first_blocks: int, most_cached: int, taylorseer: bool
) -> str | None:
    """Whether blocks were left out, by the package's own count."""
    for denoiser in denoisers(pipelines):
        for module in denoiser.modules():
            if getattr(module, "_accumulated_cached_steps", 0) or getattr(module, "_cached_steps", ()):
                return None
    return "every block was computed in every step"


def refuses(target: Target, pipelines: Mapping[str, PipelineFacts], parameters: CacheDitParameters) -> str | None:
    """U-Nets, which the package does not support, and more than one kind of pipeline, of which it would take one."""
    with_denoiser = [pipeline for pipeline in pipelines.values() if pipeline.denoisers]
    if not with_denoiser:
        return "no pipeline has a denoiser"
    if any(denoiser.is_unet for pipeline in with_denoiser for denoiser in pipeline.denoisers):
        return "the denoiser is a U-Net, and cache-dit is for transformers"
    classes = {denoiser.class_name for pipeline in with_denoiser for denoiser in pipeline.denoisers}
    if parameters.taylorseer and "SD3Transformer2DModel" in classes:
        return "cache-dit's TaylorSeer fails on the last block of an SD3Transformer2DModel, which drops the prompt"
    kinds = sorted({pipeline.class_name for pipeline in with_denoiser})
    if len(kinds) > 1:
        return f"cache-dit takes one kind of pipeline, and there are {' and '.join(kinds)}"
    return None


TECHNIQUE = Technique(
    name="cache_dit",
    axis=Axis.CACHING,
    loss=Loss.APPROXIMATE,
    summary="Leaves out a transformer's blocks by the package cache-dit, where its first ones change little.",
    source="https://github.com/vipshop/cache-dit",
    parameters=CacheDitParameters,
    apply=cache_dit,
    took_effect=took_effect,
    refuses=refuses,
    stage=Stage.WRAPPERS,
    traits=frozenset({Trait.CACHES_STEPS, Trait.HOOKS_LAYERS}),
    roles=frozenset({Role.DENOISER}),
    helpers=(torch_modules, denoisers),
    packages=("cache-dit>=1.5",),
)
