"""A Flux pipeline with random weights that makes a 64x64 picture in a fraction of a second, offline."""

import copy
import functools
from typing import Any

import torch
from diffusers import FlowMatchEulerDiscreteScheduler, FluxPipeline, FluxTransformer2DModel
from transformers import T5Config, T5EncoderModel

from .tiny_sd3 import settle, tiny_vae, to_device
from .tiny_sdxl import TEXT_WIDTH, tiny_sdxl


def tiny_flux(device: str = "cpu", dtype: torch.dtype = torch.float32) -> Any:
    """A new pipeline; always the same weights. Its transformer takes the guidance as a number."""
    return to_device(copy.deepcopy(_template()), device, dtype)


@functools.cache
def _template() -> Any:
    text = tiny_sdxl()
    with torch.random.fork_rng():
        torch.manual_seed(0)
        transformer = FluxTransformer2DModel(
            patch_size=1,
            in_channels=16,
            num_layers=2,
            num_single_layers=4,
            attention_head_dim=16,
            num_attention_heads=2,
            joint_attention_dim=32,
            pooled_projection_dim=TEXT_WIDTH,
            axes_dims_rope=(4, 4, 8),
            guidance_embeds=True,
        )
        settle(transformer)
        reader = T5EncoderModel(
            T5Config(vocab_size=text.tokenizer.vocab_size, d_model=32, d_kv=8, d_ff=37, num_layers=2, num_heads=4)
        )
        pipeline = FluxPipeline(
            transformer=transformer.eval(),
            scheduler=FlowMatchEulerDiscreteScheduler(),
            vae=tiny_vae(),
            text_encoder=text.text_encoder,
            tokenizer=text.tokenizer,
            text_encoder_2=reader.eval(),
            tokenizer_2=text.tokenizer_2,
        )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline
