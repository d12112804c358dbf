"""What techniques refuse before anything is started, and what they refuse to do to a pipeline that is not ready."""

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
from paretune.search_space import PipelineFacts, Target, describe_pipelines, technique
from paretune.search_space.attention.fused_qkv import fused_qkv
from paretune.testing import (
    SAME_PICTURE,
    SIDE_PX,
    TINY_FACTS,
    ip_adapter,
    picture,
    relative_difference,
    tiny_sdxl,
)

CPU = Target(device="cpu", name="cpu", packages=frozenset({"torchao"}))


def _gpu(major: int, minor: int) -> Target:
    return Target(device="cuda", name="gpu", compute_capability=(major, minor), packages=frozenset({"torchao"}))


ONE_PICTURE = replace(TINY_FACTS, largest_batch=1)
SMALL = replace(TINY_FACTS, largest_side_px=32)
UNGUIDED = replace(TINY_FACTS, guided=False)
OTHER_UNET = replace(
    TINY_FACTS, modules={"unet": replace(TINY_FACTS.modules["unet"], class_name="UNetSpatioTemporalConditionModel")}
)
LARGE = replace(TINY_FACTS, largest_side_px=1024)
LARGE_TILES = replace(LARGE, modules={"vae": replace(TINY_FACTS.modules["vae"], tile_side_px=512)})
OTHER_VAE = replace(LARGE, modules={"vae": replace(TINY_FACTS.modules["vae"], tile_side_px=None)})
INPAINT = replace(TINY_FACTS, class_name="StableDiffusionXLInpaintPipeline")
ONE_LAYER = replace(TINY_FACTS, modules={"unet": replace(TINY_FACTS.modules["unet"], layers_per_block=1)})


@pytest.mark.parametrize(
    ("name", "parameters", "target", "facts", "reason"),
    [
        ("dtype", {"dtype": "float32"}, CPU, TINY_FACTS, "already"),
        ("dtype", {"dtype": "float16"}, CPU, TINY_FACTS, "many times slower"),
        ("dtype", {"dtype": "float16"}, _gpu(8, 9), TINY_FACTS, None),
        ("dtype", {"dtype": "bfloat16"}, _gpu(7, 5), TINY_FACTS, "8.0"),
        ("dtype", {"dtype": "bfloat16"}, _gpu(8, 0), TINY_FACTS, None),
        ("torchao_quantization", {"scheme": "float8_dynamic_tensor"}, CPU, TINY_FACTS, "8.9"),
        ("torchao_quantization", {"scheme": "float8_dynamic_row"}, _gpu(8, 6), TINY_FACTS, "8.9"),
        ("torchao_quantization", {"scheme": "float8_dynamic_row"}, _gpu(8, 9), TINY_FACTS, None),
        ("torchao_quantization", {"scheme": "int8_dynamic"}, _gpu(7, 0), TINY_FACTS, "7.5"),
        ("torchao_quantization", {}, Target(device="cpu", name="cpu"), TINY_FACTS, "not installed"),
        ("deepcache", {}, CPU, OTHER_UNET, "unknown"),
        ("deepcache", {"branch": 2}, CPU, ONE_LAYER, "no skip connection 2"),
        ("deepcache", {"branch": 1}, CPU, ONE_LAYER, None),
        ("guidance_cutoff", {}, CPU, UNGUIDED, "no request uses guidance"),
        ("vae_slicing", {}, CPU, ONE_PICTURE, "one picture"),
        ("vae_slicing", {}, CPU, TINY_FACTS, None),
        ("vae_tiling", {}, CPU, SMALL, "one tile"),
        ("vae_tiling", {}, CPU, TINY_FACTS, None),
        ("vae_tiling", {"tile_px": 256}, CPU, TINY_FACTS, "one tile"),
        ("vae_tiling", {"tile_px": 256}, CPU, LARGE, None),
        ("vae_tiling", {"tile_px": 512}, CPU, LARGE_TILES, "512 px already"),
        ("vae_tiling", {"tile_px": 512}, CPU, OTHER_VAE, "cannot be chosen"),
        ("torch_compile_vae", {"parts": "decoder_encoder"}, CPU, TINY_FACTS, "no pipeline encodes pictures"),
        ("torch_compile_vae", {"parts": "decoder_encoder"}, CPU, INPAINT, None),
        ("tf32", {}, CPU, TINY_FACTS, "8.0"),
        ("tf32", {}, _gpu(7, 5), TINY_FACTS, "8.0"),
        ("fp16_accumulation", {}, _gpu(8, 6), TINY_FACTS, None),
        ("text_encoder_offload", {}, CPU, TINY_FACTS, "no GPU memory"),
        ("attention_backend", {"backend": "_native_cudnn"}, CPU, TINY_FACTS, "CUDA"),
        ("attention_backend", {"backend": "_native_cudnn"}, _gpu(7, 5), TINY_FACTS, "8.0"),
        ("attention_backend", {"backend": "flash"}, _gpu(8, 9), TINY_FACTS, "flash-attn>=2.6.3 is not installed: pip"),
        (
            "stable_fast",
            {},
            CPU,
            TINY_FACTS,
            "stable-fast is not installed: pip install setuptools",
        ),
        ("torch_tensorrt", {}, _gpu(9, 0), TINY_FACTS, "torch-tensorrt is not installed: pip install"),
        ("scheduler", {"scheduler": "EulerDiscreteScheduler"}, CPU, TINY_FACTS, "already"),
        ("model_offload", {}, CPU, TINY_FACTS, "no GPU memory"),
        ("group_offload", {}, CPU, TINY_FACTS, "no GPU memory"),
        ("torch_compile", {"mode": "reduce-overhead"}, CPU, TINY_FACTS, "CUDA"),
    ],
)
def test_refuses(
    name: str, parameters: dict[str, Any], target: Target, facts: PipelineFacts, reason: str | None
) -> None:
    known = technique(name)
    said = known.why_not(target, {"main": facts}, known.parameters(**parameters))
    assert said is None if reason is None else said is not None and reason in said


def test_tiny_facts_are_what_describe_pipelines_says() -> None:
    request = SimpleNamespace(pipeline="main", batch=2, width_px=SIDE_PX, height_px=SIDE_PX, guidance=5.0, adapters=())
    described = describe_pipelines({"main": tiny_sdxl()}, [request])["main"]
    assert {name: replace(m, parameters_m=0) for name, m in described.modules.items()} == {
        name: replace(m, parameters_m=0) for name, m in TINY_FACTS.modules.items()
    }
    assert replace(described, modules={}) == replace(TINY_FACTS, modules={})


def test_fused_qkv_does_not_drop_adapters_in_silence() -> None:
    pipeline = tiny_sdxl()
    pipeline.unet.peft_config = {"style": object()}
    with pytest.raises(ValueError, match="LoRA"):
        fused_qkv({"main": pipeline})

    pipeline = tiny_sdxl()
    pipeline.load_ip_adapter(ip_adapter(pipeline.unet), subfolder="", weight_name="", image_encoder_folder=None)
    with pytest.raises(ValueError, match="IP-Adapter"):
        fused_qkv({"main": pipeline})


def test_tiles_of_a_chosen_size() -> None:
    pipeline = tiny_sdxl()
    known = technique("vae_tiling")
    known.apply({"main": pipeline}, tile_px=48)
    assert (pipeline.vae.tile_sample_min_size, pipeline.vae.tile_latent_min_size) == (48, 12)
    assert known.took_effect({"main": pipeline}, tile_px=48) is None
    assert known.took_effect({"main": pipeline}, tile_px=512) == "the VAE's tiles have a side of 48 px"
    assert relative_difference(picture(pipeline), picture(tiny_sdxl())) < SAME_PICTURE


def test_weights_in_float8_are_refused_for_an_ip_adapter_that_is_there_already() -> None:
    pipeline = tiny_sdxl()
    pipeline.load_ip_adapter(ip_adapter(pipeline.unet), subfolder="", weight_name="", image_encoder_folder=None)
    with pytest.raises(ValueError, match="IP-Adapter"):
        technique("layerwise_casting").apply({"main": pipeline}, storage="float8_e4m3fn")


def test_a_unet_of_another_family_is_refused_before_anything_starts() -> None:
    """Kandinsky's: blocks that step caches cannot take apart, attention with projections of its own for the prompt."""
    from diffusers import DDIMScheduler, KandinskyV22Pipeline, UNet2DConditionModel, VQModel

    unet = UNet2DConditionModel(
        addition_embed_type="image",
        attention_head_dim=4,
        block_out_channels=(32, 64),
        cross_attention_dim=32,
        down_block_types=("ResnetDownsampleBlock2D", "SimpleCrossAttnDownBlock2D"),
        encoder_hid_dim=32,
        encoder_hid_dim_type="image_proj",
        layers_per_block=1,
        mid_block_type="UNetMidBlock2DSimpleCrossAttn",
        out_channels=8,
        resnet_time_scale_shift="scale_shift",
        up_block_types=("SimpleCrossAttnUpBlock2D", "ResnetUpsampleBlock2D"),
    )
    pipeline = KandinskyV22Pipeline(unet=unet, scheduler=DDIMScheduler(), movq=VQModel())
    facts = describe_pipelines({"main": pipeline}, [])
    for name, reason in {
        "fused_qkv": "cannot fuse",
        "deepcache": "first and last one are unknown",
        "first_block_cache": "first and last one are unknown",
    }.items():
        known = technique(name)
        assert reason in (known.refuses(CPU, facts, known.parameters()) or "")
