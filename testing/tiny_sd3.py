"""A Stable Diffusion 3 pipeline with random weights that makes a 64x64 picture in a fraction of a second, offline."""

import copy
import functools
from typing import Any

import torch
from diffusers import AutoencoderKL, FlowMatchEulerDiscreteScheduler, SD3Transformer2DModel, StableDiffusion3Pipeline
from transformers import CLIPTextModelWithProjection

from ..search_space import torch_modules
from .tiny_sdxl import SIDE_PX, tiny_sdxl


def tiny_sd3(device: str = "cpu", dtype: torch.dtype = torch.float32) -> Any:
    """A new pipeline; always the same weights. Its transformer guides by a doubled batch."""
    return to_device(copy.deepcopy(_template()), device, dtype)


def to_device(pipeline: Any, device: str, dtype: torch.dtype) -> Any:
    """The pipeline, with every module there and in that number format."""
    for module in torch_modules(pipeline).values():
        torch.nn.Module.to(module, device=device, dtype=dtype)
    return pipeline


def transformer_picture(
    pipeline: Any,
    prompt: str = "a cat",
    *,
    batch: int = 2,
    steps: int = 4,
    seed: int = 0,
    guidance: float = 5.0,
    side_px: int = SIDE_PX,
    **kwargs: Any,
) -> torch.Tensor:
    """(batch, 3, side_px, side_px) float32 on the CPU, in [0, 1], of the pipelines tiny_sd3 and tiny_flux."""
    images: torch.Tensor = pipeline(
        prompt,
        num_images_per_prompt=batch,
        num_inference_steps=steps,
        guidance_scale=guidance,
        generator=[torch.Generator("cpu").manual_seed(seed + i) for i in range(batch)],
        height=side_px,
        width=side_px,
        output_type="pt",
        max_sequence_length=77,
        **kwargs,
    ).images
    return images.float().cpu()


def tiny_vae() -> Any:
    """An autoencoder of flow pipelines: four pixels to a latent's side, four channels."""
    return AutoencoderKL(
        block_out_channels=(32, 32, 32),
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        latent_channels=4,
        sample_size=32,
        norm_num_groups=8,
        shift_factor=0.06,
        scaling_factor=1.5,
    ).eval()


def settle(transformer: Any) -> None:
    """Make it more like a trained one: as its weights are drawn, the prompt would hardly show in the picture, and each
    step would be another world.
    """
    for name, module in transformer.named_modules():
        if name.endswith(("add_v_proj", "to_v", "proj_out", "context_embedder")):
            module.weight.data *= 4
        if name.endswith(("norm.linear", "norm1.linear", "norm1_context.linear")):
            module.weight.data *= 0.1


@functools.cache
def _template() -> Any:
    text = tiny_sdxl()
    with torch.random.fork_rng():
        torch.manual_seed(0)
        transformer = SD3Transformer2DModel(
            sample_size=16,
            patch_size=2,
            in_channels=4,
            out_channels=4,
            num_layers=4,
            attention_head_dim=8,
            num_attention_heads=4,
            caption_projection_dim=32,
            joint_attention_dim=64,
            pooled_projection_dim=64,
            pos_embed_max_size=32,
        )
        settle(transformer)
        pipeline = StableDiffusion3Pipeline(
            transformer=transformer.eval(),
            scheduler=FlowMatchEulerDiscreteScheduler(),
            vae=tiny_vae(),
            text_encoder=CLIPTextModelWithProjection(text.text_encoder_2.config).eval(),
            tokenizer=text.tokenizer,
            text_encoder_2=text.text_encoder_2,
            tokenizer_2=text.tokenizer,
            text_encoder_3=None,
            tokenizer_3=None,
        )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline
