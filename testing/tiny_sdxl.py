"""A Stable Diffusion XL pipeline with random weights that makes a 64x64 picture in a fraction of a second, offline."""

import copy
import functools
from typing import Any

import torch
from diffusers import AutoencoderKL, EulerDiscreteScheduler, StableDiffusionXLPipeline, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

from ..search_space import ModuleFacts, PipelineFacts, Role, torch_modules

SIDE_PX = 64
TEXT_WIDTH = 32

TINY_FACTS = PipelineFacts(
    class_name="StableDiffusionXLPipeline",
    modules={
        "unet": ModuleFacts(
            class_name="UNet2DConditionModel",
            role=Role.DENOISER,
            dtype="float32",
            parameters_m=1.218,
            layers_per_block=2,
            fuses_qkv=True,
            has_repeated_blocks=True,
            has_cross_attention=True,
            casts_layers=True,
            has_blocks=True,
        ),
        "vae": ModuleFacts(
            class_name="AutoencoderKL",
            role=Role.VAE,
            dtype="float32",
            parameters_m=0.3,
            tile_side_px=32,
            force_upcast=True,
            fuses_qkv=True,
            casts_layers=True,
        ),
        "text_encoder": ModuleFacts(
            class_name="CLIPTextModel", role=Role.TEXT_ENCODER, dtype="float32", parameters_m=0.03
        ),
        "text_encoder_2": ModuleFacts(
            class_name="CLIPTextModelWithProjection", role=Role.TEXT_ENCODER, dtype="float32", parameters_m=0.03
        ),
    },
    largest_batch=2,
    largest_side_px=SIDE_PX,
    guided=True,
    scheduler="EulerDiscreteScheduler",
)
"""What describe_pipelines says about the pipeline (sizes aside), for tests that only need the description."""


def tiny_sdxl(device: str = "cpu", dtype: torch.dtype = torch.float32) -> Any:
    """A new pipeline; always the same weights."""
    pipeline = copy.deepcopy(_template())
    for module in torch_modules(pipeline).values():
        # Called on the class: the `to` of diffusers' models warns of modules to keep in float32, also of none.
        torch.nn.Module.to(module, device=device, dtype=dtype)
    return pipeline


def sibling(pipeline: Any, scheduler: Any) -> Any:
    """A second pipeline of the same modules, with a scheduler of its own."""
    second = type(pipeline)(**{**pipeline.components, "scheduler": scheduler})
    second.set_progress_bar_config(disable=True)
    return second


def picture(
    pipeline: Any,
    prompt: str = "a cat",
    *,
    batch: int = 2,
    steps: int = 4,
    seed: int = 0,
    guidance: float = 5.0,
    **kwargs: Any,
) -> torch.Tensor:
    """(batch, 3, 64, 64) float32 on the CPU, in [0, 1]."""
    # Drawn in float32, whatever the pipeline's dtype: some hosts draw other numbers for each.
    side = SIDE_PX // pipeline.vae_scale_factor
    shape = (1, pipeline.unet.config.in_channels, side, side)
    noise = [torch.randn(shape, generator=torch.Generator("cpu").manual_seed(seed + i)) for i in range(batch)]
    images: torch.Tensor = pipeline(
        prompt,
        latents=torch.cat(noise).to(pipeline.unet.dtype),
        num_images_per_prompt=batch,
        num_inference_steps=steps,
        guidance_scale=guidance,
        generator=[torch.Generator("cpu").manual_seed(seed + i) for i in range(batch)],
        height=SIDE_PX,
        width=SIDE_PX,
        output_type="pt",
        **kwargs,
    ).images
    return images.float().cpu()


def relative_difference(image: torch.Tensor, reference: torch.Tensor) -> float:
    """The L2 norm of the difference over the L2 norm of the reference."""
    return float((image - reference).norm() / reference.norm())


def ip_adapter(unet: Any, width: int = 8) -> dict[str, dict[str, torch.Tensor]]:
    """Random weights of an IP-Adapter for image embeddings of that width, as load_ip_adapter takes them."""
    context = unet.config.cross_attention_dim
    adapter = {
        "image_proj": {
            "proj.weight": torch.randn(context * 4, width) * 0.05,
            "proj.bias": torch.zeros(context * 4),
            "norm.weight": torch.ones(context),
            "norm.bias": torch.zeros(context),
        },
        "ip_adapter": {},
    }
    number = 1
    for name in unet.attn_processors:
        if not name.endswith("attn1.processor"):
            inner = unet.get_submodule(name.removesuffix(".processor")).inner_dim
            for key in ("k", "v"):
                adapter["ip_adapter"][f"{number}.to_{key}_ip.weight"] = torch.randn(inner, context) * 0.05
            number += 2
    return adapter


@functools.cache
def _template() -> Any:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        unet = UNet2DConditionModel(
            sample_size=16,
            block_out_channels=(32, 64),
            layers_per_block=2,
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
            transformer_layers_per_block=1,
            attention_head_dim=(2, 4),
            cross_attention_dim=2 * TEXT_WIDTH,
            addition_embed_type="text_time",
            addition_time_embed_dim=8,
            projection_class_embeddings_input_dim=TEXT_WIDTH + 6 * 8,
            use_linear_projection=True,
        )
        # With weights as they are drawn, the prompt would hardly show in the picture.
        for name, module in unet.named_modules():
            if name.endswith("attn2.to_v"):
                module.weight.data *= 10
        vae = AutoencoderKL(
            block_out_channels=(32, 32, 32),
            down_block_types=("DownEncoderBlock2D",) * 3,
            up_block_types=("UpDecoderBlock2D",) * 3,
            latent_channels=4,
            sample_size=32,
            norm_num_groups=8,
        )
        words = ["a", "cat", "dog", "red", "photo", "of", "the", "sea"]
        vocabulary = {"<|startoftext|>": 0, "<|endoftext|>": 1}
        for letter in "abcdefghijklmnopqrstuvwxyz":
            vocabulary[letter] = len(vocabulary)
            vocabulary[f"{letter}</w>"] = len(vocabulary)
        for word in words:
            vocabulary.setdefault(f"{word}</w>", len(vocabulary))
        tokenizer = CLIPTokenizer(vocab=vocabulary, merges=[])
        tokenizer.model_max_length = 77
        text = CLIPTextConfig(
            vocab_size=len(vocabulary),
            hidden_size=TEXT_WIDTH,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=4,
            projection_dim=TEXT_WIDTH,
            bos_token_id=0,
            eos_token_id=1,
            pad_token_id=1,
        )
        pipeline = StableDiffusionXLPipeline(
            unet=unet.eval(),
            vae=vae.eval(),
            text_encoder=CLIPTextModel(text).eval(),
            text_encoder_2=CLIPTextModelWithProjection(text).eval(),
            tokenizer=tokenizer,
            tokenizer_2=tokenizer,
            scheduler=EulerDiscreteScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear"),
            add_watermarker=False,
        )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline
