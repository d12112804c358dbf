"""First-block cache for transformers: each step computes the first block, and it decides whether the others run.

ParaAttention's, as a hook of diffusers. first_block_cache is the same for U-Nets.
"""

from collections.abc import Mapping
from typing import Any, Literal

from .._hook_cache import HOOK_CACHE_HELPERS, hook_cache, hook_cache_effect, transformer_refusal
from .._modules import denoisers, torch_modules
from .._target import PipelineFacts, Role, Target
from .._technique import Axis, Loss, Parameters, Stage, Technique, Trait


class TransformerFirstBlockCacheParameters(Parameters):
    """threshold_permille: the other blocks are left out while the first block's residual differs from that of the last
    whole step by less, in thousandths of its mean.
    """

    threshold_permille: Literal[50, 80, 120, 200] = 80


def transformer_first_block_cache(pipelines: dict[str, Any], *, threshold_permille: int) -> None:
    """Put diffusers' hooks on the blocks. To decide, the host waits for one number from the device in every step."""
    from diffusers.hooks import FirstBlockCacheConfig, apply_first_block_cache

    def apply_to(denoiser: Any) -> None:
        def install(place: Any) -> None:
            apply_first_block_cache(denoiser, FirstBlockCacheConfig(threshold=threshold_permille / 1000))

        hook_cache(denoiser, "transformer_first_block_cache", install, True)

    for denoiser in denoisers(pipelines):
        apply_to(denoiser)


def took_effect(pipelines: dict[str, Any], *, threshold_permille: int) -> str | None:
    """Whether blocks were left out."""
    return hook_cache_effect(denoisers(pipelines))


def refuses(
    target: Target, pipelines: Mapping[str, PipelineFacts], parameters: TransformerFirstBlockCacheParameters
) -> str | None:
    """U-Nets, and transformers on which diffusers' hooks fail."""
    for pipeline in pipelines.values():
        for denoiser in pipeline.denoisers:
            if denoiser.class_name == "SD3Transformer2DModel":
                return "diffusers' hook fails on the last block of an SD3Transformer2DModel, which drops the prompt"
    return transformer_refusal(pipelines, "first_block_cache")


TECHNIQUE = Technique(
    name="transformer_first_block_cache",
    axis=Axis.CACHING,
    loss=Loss.APPROXIMATE,
    summary="Leaves out a transformer's other blocks in steps whose first block says that little has changed.",
    source="https://huggingface.co/docs/diffusers/main/en/api/cache",
    parameters=TransformerFirstBlockCacheParameters,
    apply=transformer_first_block_cache,
    took_effect=took_effect,
    refuses=refuses,
    stage=Stage.WRAPPERS,
    traits=frozenset({Trait.CACHES_STEPS, Trait.HOOKS_LAYERS}),
    roles=frozenset({Role.DENOISER}),
    helpers=(torch_modules, denoisers, *HOOK_CACHE_HELPERS),
)
