"""One matrix product for query, key and value instead of three, in the U-Net's attention layers."""

from collections.abc import Mapping
from typing import Any

from .._modules import unique_modules
from .._target import PipelineFacts, Target
from .._technique import Axis, Loss, NoParameters, Technique


def fused_qkv(pipelines: dict[str, Any]) -> None:
    """Fuse the projections of every U-Net. The separate weights stay beside the fused ones: memory grows."""
    for unet in unique_modules(pipelines, "unet"):
        # diffusers would replace an IP-Adapter's processors, and ignore LoRA layers on q, k and v, without a word.
        if any("IPAdapter" in type(processor).__name__ for processor in unet.attn_processors.values()):
            raise ValueError("fused_qkv: unload the IP-Adapter first, and load it again after")
        if getattr(unet, "peft_config", None):
            raise ValueError("fused_qkv: fuse LoRA adapters into the weights first (fuse_lora, unload_lora_weights)")
        unet.fuse_qkv_projections()


def took_effect(pipelines: dict[str, Any]) -> str | None:
    """Whether attention layers have fused weights and processors that use them."""
    for unet in unique_modules(pipelines, "unet"):
        if not any(getattr(module, "fused_projections", False) for module in unet.modules()):
            return "no attention layer of the U-Net is fused"
        if not any(type(processor).__name__.startswith("Fused") for processor in unet.attn_processors.values()):
            return "the U-Net's attention processors were replaced by ones that do not use the fused weights"
    return None


def refuses(target: Target, pipelines: Mapping[str, PipelineFacts], parameters: NoParameters) -> str | None:
    """Pipelines without a U-Net."""
    if not any("unet" in pipeline.modules for pipeline in pipelines.values()):
        return "no pipeline has a U-Net"
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
    helpers=(unique_modules,),
)
