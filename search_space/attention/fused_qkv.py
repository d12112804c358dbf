"""One matrix product for query, key and value instead of three, in the denoiser's attention layers."""

from collections.abc import Mapping
from typing import Any

from .._modules import denoisers, torch_modules
from .._target import PipelineFacts, Role, Target
from .._technique import Axis, Loss, NoParameters, Stage, Technique, Trait


def fused_qkv(pipelines: dict[str, Any]) -> None:
    """Fuse the projections of every denoiser. The separate weights stay beside the fused ones: memory grows."""
    for denoiser in denoisers(pipelines):
        # diffusers would replace an IP-Adapter's processors, and ignore LoRA layers on q, k and v, without a word.
        if any("IPAdapter" in type(processor).__name__ for processor in denoiser.attn_processors.values()):
            raise ValueError("fused_qkv: unload the IP-Adapter first, and load it again after")
        if getattr(denoiser, "peft_config", None):
            raise ValueError("fused_qkv: fuse LoRA adapters into the weights first (fuse_lora, unload_lora_weights)")
        denoiser.fuse_qkv_projections()


def took_effect(pipelines: dict[str, Any]) -> str | None:
    """Whether attention layers have fused weights and processors that use them."""
    for denoiser in denoisers(pipelines):
        if not any(getattr(module, "fused_projections", False) for module in denoiser.modules()):
            return "no attention layer of the denoiser is fused"
        # The processors of most transformers see for themselves whether a layer is fused; those of U-Nets do not.
        processors = [type(processor).__name__ for processor in denoiser.attn_processors.values()]
        if "UNet" in type(denoiser).__name__ and not any(name.startswith("Fused") for name in processors):
            return "the U-Net's attention processors were replaced by ones that do not use the fused weights"
    return None


def refuses(target: Target, pipelines: Mapping[str, PipelineFacts], parameters: NoParameters) -> str | None:
    """Pipelines without a denoiser, and denoisers whose projections diffusers cannot fuse."""
    found = [denoiser for pipeline in pipelines.values() for denoiser in pipeline.denoisers]
    if not found:
        return "no pipeline has a denoiser"
    for denoiser in found:
        if not denoiser.fuses_qkv:
            return f"diffusers cannot fuse the projections of the denoiser, a {denoiser.class_name}"
    return None


TECHNIQUE = Technique(
    name="fused_qkv",
    axis=Axis.ATTENTION,
    loss=Loss.REORDERED,
    summary="Computes query, key and value of each attention layer in one matrix product: fewer, larger kernels.",
    source="https://huggingface.co/docs/diffusers/optimization/fp16#fuse-projection-matrices",
    parameters=NoParameters,
    apply=fused_qkv,
    took_effect=took_effect,
    refuses=refuses,
    stage=Stage.LAYERS,
    roles=frozenset({Role.DENOISER}),
    traits=frozenset({Trait.REPLACES_PROCESSORS}),
    helpers=(torch_modules, denoisers),
)
