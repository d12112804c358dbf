"""The tiny pipeline's relatives: an SD 1.5, image to image, inpainting, a ControlNet, and a LoRA to load."""

from typing import Any

import torch
from diffusers import (
    ControlNetModel,
    EulerDiscreteScheduler,
    StableDiffusionPipeline,
    StableDiffusionXLControlNetPipeline,
    StableDiffusionXLImg2ImgPipeline,
    StableDiffusionXLInpaintPipeline,
    UNet2DConditionModel,
)

from .tiny_sdxl import TEXT_WIDTH, tiny_sdxl


def tiny_sd(device: str = "cpu", dtype: torch.dtype = torch.float32) -> Any:
    """A new Stable Diffusion 1.5 pipeline, without safety checker; always the same weights."""
    xl = tiny_sdxl(device, dtype)
    with torch.random.fork_rng():
        torch.manual_seed(1)
        unet = UNet2DConditionModel(
            sample_size=16,
            block_out_channels=(32, 64),
            layers_per_block=2,
            down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
            up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
            attention_head_dim=4,
            cross_attention_dim=TEXT_WIDTH,
        )
    for name, module in unet.named_modules():
        if name.endswith("attn2.to_v"):
            module.weight.data *= 10  # as in tiny_sdxl: the prompt would hardly show otherwise
    pipeline = StableDiffusionPipeline(
        unet=unet.eval().to(device=device, dtype=dtype),
        vae=xl.vae,
        text_encoder=xl.text_encoder,
        tokenizer=xl.tokenizer,
        scheduler=EulerDiscreteScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear"),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def image_to_image(pipeline: Any) -> Any:
    """Of the same modules as the tiny SDXL pipeline `pipeline`."""
    return _of(pipeline, StableDiffusionXLImg2ImgPipeline)


def inpainting(pipeline: Any) -> Any:
    """Of the same modules as the tiny SDXL pipeline `pipeline`."""
    return _of(pipeline, StableDiffusionXLInpaintPipeline)


def with_controlnet(pipeline: Any) -> Any:
    """Of the same modules as the tiny SDXL pipeline `pipeline`, and a ControlNet that shows in the picture."""
    with torch.random.fork_rng():
        torch.manual_seed(2)
        # The tiny VAE makes a picture smaller by 4, not by 8.
        controlnet = ControlNetModel.from_unet(pipeline.unet, conditioning_embedding_out_channels=(8, 16, 32))
        # Those of a ControlNet that was not trained add nothing.
        projections = [*controlnet.controlnet_down_blocks, controlnet.controlnet_mid_block]
        for projection in [*projections, controlnet.controlnet_cond_embedding.conv_out]:
            torch.nn.init.normal_(projection.weight, std=0.1)
    return _of(pipeline, StableDiffusionXLControlNetPipeline, controlnet=controlnet.eval())


class LoraLayer(torch.nn.Module):
    """A linear layer and a change of low rank beside it."""

    def __init__(self, base_layer: torch.nn.Linear, generator: torch.Generator) -> None:
        super().__init__()
        self.base_layer = base_layer
        rank, weight = 4, base_layer.weight
        self.down = torch.randn(rank, base_layer.in_features, generator=generator).to(weight.device) * 0.2
        self.up = torch.randn(base_layer.out_features, rank, generator=generator).to(weight.device) * 0.2

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Both together."""
        changed = torch.nn.functional.linear(torch.nn.functional.linear(x, self.down.to(x)), self.up.to(x))
        return torch.as_tensor(self.base_layer(x)) + changed


def attach_lora(unet: Any) -> None:
    """Put a LoRA on the attention of a U-Net as peft does, which need not be installed; always the same."""
    generator = torch.Generator().manual_seed(3)
    for name, module in list(unet.named_modules()):
        if name.endswith((".to_q", ".to_k", ".to_v", ".to_out.0")) and isinstance(module, torch.nn.Linear):
            unet.set_submodule(name, LoraLayer(module, generator))
    unet.peft_config = {"style": object()}


def detach_lora(unet: Any) -> None:
    """The inverse of attach_lora."""
    for name, module in list(unet.named_modules()):
        if isinstance(module, LoraLayer):
            unet.set_submodule(name, module.base_layer)
    del unet.peft_config


def _of(pipeline: Any, kind: Any, **more: Any) -> Any:
    made = kind(**pipeline.components, **more)
    made.set_progress_bar_config(disable=True)
    return made
