"""FasterCache: attention is continued from two earlier steps, and the unprompted half of guidance from its frequencies.

Lv et al.: "FasterCache: Training-Free Video Diffusion Model Acceleration with High Quality", arXiv 2410.19355. The
hooks are those of diffusers, and made for transformers.
"""

from collections.abc import Mapping
from typing import Any, Literal

from .._hook_cache import HOOK_CACHE_HELPERS, hook_cache, hook_cache_effect, transformer_refusal
from .._modules import denoisers, torch_modules
from .._target import PipelineFacts, Role, Target
from .._technique import Axis, Loss, Parameters, Stage, Technique, Trait


class FasterCacheParameters(Parameters):
    """attention_interval: attention is computed in one step of so many. unprompted_interval: the unprompted half of the
    batch is computed in one step of so many, where guidance doubles the batch. first_percent: so many of a picture's
    steps, from the first on, are all computed.
    """

    attention_interval: Literal[2, 3] = 2
    unprompted_interval: Literal[2, 3, 5] = 5
    first_percent: Literal[20, 30, 50] = 30


def faster_cache(
    pipelines: dict[str, Any], *, attention_interval: int, unprompted_interval: int, first_percent: int
) -> None:
    """Put diffusers' hooks on the denoiser and its attention layers, with the place in the picture, in percent that is
    left, for a timestep. Nothing waits for the device.
    """
    from diffusers.hooks import FasterCacheConfig, apply_faster_cache

    def apply_to(denoiser: Any) -> None:
        if hasattr(denoiser, "_hf_hook"):
            # Its hook on the denoiser would sit outside of accelerate's, and halve what is counted inside as whole.
            raise ValueError("faster_cache: accelerate's offload hook sits on the denoiser: offload after apply()")

        def install(place: Any) -> Any:
            # Below, exclusive; the hooks compare what is left, as timesteps fall.
            late = (-1, 100.5 - first_percent)
            config = FasterCacheConfig(
                spatial_attention_block_skip_range=attention_interval,
                spatial_attention_timestep_skip_range=late,
                unconditional_batch_skip_range=unprompted_interval,
                unconditional_batch_timestep_skip_range=late,
                # The paper weighs low frequencies up in the first half of the picture, high ones in the second.
                low_frequency_weight_update_timestep_range=(50, 101),
                high_frequency_weight_update_timestep_range=(-1, 50),
                attention_weight_callback=lambda module: 0.5,
                tensor_format="BCHW",
                # Without anything kept, in the middle of a picture, the hooks would look for it all the same.
                current_timestep_callback=lambda: (
                    101 if place["fresh"] else 100 - 100 * place["position"] / place["count"]
                ),
                _unconditional_conditional_input_kwargs_identifiers=[
                    "hidden_states",
                    "encoder_hidden_states",
                    "pooled_projections",
                    "timestep",
                ],
            )
            apply_faster_cache(denoiser, config)
            hooks = [
                hook
                for module in denoiser.modules()
                for hook in getattr(getattr(module, "_diffusers_hook", None), "hooks", {}).values()
                if hasattr(hook, "is_guidance_distilled")
            ]

            def say_who_guides() -> None:
                """Without guidance's two halves, half a batch would be other pictures."""
                for hook in hooks:
                    hook.is_guidance_distilled = not place["guided"]

            return say_who_guides

        hook_cache(denoiser, "faster_cache", install, False)

    for denoiser in denoisers(pipelines):
        apply_to(denoiser)


def took_effect(
    pipelines: dict[str, Any], *, attention_interval: int, unprompted_interval: int, first_percent: int
) -> str | None:
    """Whether attention layers were left out."""
    return hook_cache_effect(denoisers(pipelines))


def refuses(target: Target, pipelines: Mapping[str, PipelineFacts], parameters: FasterCacheParameters) -> str | None:
    """Transformers that are called with arguments which the hooks would not know how to halve."""
    refused = transformer_refusal(pipelines)
    if refused is not None:
        return refused
    for pipeline in pipelines.values():
        for denoiser in pipeline.denoisers:
            if denoiser.class_name not in ("SD3Transformer2DModel", "FluxTransformer2DModel"):
                return f"how a {denoiser.class_name} is guided is not known"
            if denoiser.class_name == "FluxTransformer2DModel" and parameters.unprompted_interval != 5:
                return "Flux takes its guidance as a number, without an unprompted half: leave unprompted_interval at 5"
    return None


TECHNIQUE = Technique(
    name="faster_cache",
    axis=Axis.CACHING,
    loss=Loss.APPROXIMATE,
    summary="Continues a transformer's attention from earlier steps, and guidance's other half from its frequencies.",
    source="https://arxiv.org/abs/2410.19355",
    parameters=FasterCacheParameters,
    apply=faster_cache,
    took_effect=took_effect,
    refuses=refuses,
    stage=Stage.WRAPPERS,
    traits=frozenset({Trait.CACHES_STEPS, Trait.HOOKS_LAYERS}),
    roles=frozenset({Role.DENOISER}),
    helpers=(torch_modules, denoisers, *HOOK_CACHE_HELPERS),
)
