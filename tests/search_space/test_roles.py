"""Modules are found by what they are for, in whatever a workload loads."""

import json
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from diffusers import SD3Transformer2DModel
from paretune.search_space import (
    PipelineFacts,
    Role,
    Target,
    denoisers,
    describe_pipelines,
    other_modules,
    technique,
    text_encoders,
    vaes,
)
from paretune.testing import sibling, tiny_sdxl
from torch.nn import Linear

CPU = Target(device="cpu", name="cpu", packages=frozenset({"torchao"}))


def tiny_transformer() -> Any:
    return SD3Transformer2DModel(
        sample_size=8,
        patch_size=1,
        in_channels=4,
        out_channels=4,
        num_layers=1,
        attention_head_dim=8,
        num_attention_heads=4,
        caption_projection_dim=32,
        joint_attention_dim=32,
        pooled_projection_dim=64,
    )


def test_modules_that_pipelines_share_are_found_once() -> None:
    main = tiny_sdxl()
    pipelines = {"main": main, "second": sibling(main, main.scheduler)}
    assert denoisers(pipelines) == [main.unet]
    assert vaes(pipelines) == [main.vae]
    assert text_encoders(pipelines) == [main.text_encoder, main.text_encoder_2]
    assert other_modules(pipelines) == []


def test_every_denoiser_of_a_pipeline_is_found_and_what_has_no_role_is_another_module() -> None:
    modules = {name: Linear(1, 1) for name in ("transformer", "transformer_2", "vae", "text_encoder_3", "controlnet")}
    pipelines = {"main": SimpleNamespace(components={**modules, "scheduler": object(), "image_encoder": None})}
    assert denoisers(pipelines) == [modules["transformer"], modules["transformer_2"]]
    assert vaes(pipelines) == [modules["vae"]]
    assert text_encoders(pipelines) == [modules["text_encoder_3"]]
    assert other_modules(pipelines) == [modules["controlnet"]]


def test_anything_may_stand_beside_the_pipelines() -> None:
    main, alone = tiny_sdxl(), Linear(1, 1)
    beside = {"upscaler": alone, "again": main.unet, "settings": {"unet": 3}, "number": 7, "nothing": None}
    pipelines = {"main": main, **beside}
    assert denoisers(pipelines) == [main.unet]
    assert other_modules(pipelines) == [alone]

    facts = describe_pipelines(pipelines, [])
    assert {name: module.role for name, module in facts["main"].modules.items()} == {
        "unet": Role.DENOISER,
        "vae": Role.VAE,
        "text_encoder": Role.TEXT_ENCODER,
        "text_encoder_2": Role.TEXT_ENCODER,
    }
    assert [module.role for module in facts["upscaler"].modules.values()] == [Role.OTHER]
    assert not facts["settings"].modules
    read_back = {name: PipelineFacts.from_dict(json.loads(json.dumps(each.to_dict()))) for name, each in facts.items()}
    assert read_back == facts
    assert [len(found) for found in (facts["main"].denoisers, facts["main"].vaes, facts["main"].text_encoders)] == [
        1,
        1,
        2,
    ]


def test_dtype_converts_every_module_of_a_pipeline_and_none_beside_it() -> None:
    main, alone = tiny_sdxl(), Linear(1, 1)
    main.register_modules(image_encoder=Linear(1, 1))
    known = technique("dtype")
    known.apply({"main": main, "upscaler": alone, "settings": 3}, dtype="bfloat16")
    assert {
        p.dtype for module in (main.unet, main.text_encoder_2, main.image_encoder) for p in module.parameters()
    } == {torch.bfloat16}
    # What the workload's own code passes to it is in its own format: module_dtype converts that as well.
    assert alone.weight.dtype is torch.float32
    assert known.took_effect({"main": main, "upscaler": alone}, dtype="bfloat16") is None
    main.register_modules(image_encoder=Linear(1, 1))
    assert known.took_effect({"main": main}, dtype="bfloat16") == "Linear has weights in float32"


@pytest.mark.parametrize(
    ("name", "parameters", "reason"),
    [
        (
            "deepcache",
            {},
            "the denoiser is a transformer (SD3Transformer2DModel), without the skip connections of a U-Net",
        ),
        (
            "guidance_cutoff",
            {},
            "the denoiser is a transformer (SD3Transformer2DModel), which is not called as a U-Net is",
        ),
        ("torch_compile", {"region": "repeated_blocks"}, "diffusers does not say which blocks of the denoiser, a SD3"),
        ("torch_compile", {"region": "whole"}, None),
        ("fused_qkv", {}, None),
        ("channels_last", {}, None),
        ("sdpa_kernel", {"unet": "math"}, None),
        ("torchao_quantization", {"scheme": "int8_weight_only"}, None),
        ("vae_slicing", {}, "no pipeline has a VAE"),
    ],
)
def test_what_is_refused_for_a_transformer(name: str, parameters: dict[str, Any], reason: str | None) -> None:
    facts = describe_pipelines({"main": SimpleNamespace(transformer=tiny_transformer())}, [])
    known = technique(name)
    said = known.why_not(CPU, facts, known.parameters(**parameters))
    assert said is None if reason is None else said is not None and said.startswith(reason)


def test_what_is_refused_for_a_denoiser_that_diffusers_cannot_fuse() -> None:
    facts = describe_pipelines({"main": SimpleNamespace(unet=Linear(1, 1))}, [])
    known = technique("fused_qkv")
    said = known.why_not(CPU, facts, known.parameters())
    assert said == "diffusers cannot fuse the projections of the denoiser, a Linear"


def test_a_transformer_is_changed_as_a_unet_is() -> None:
    transformer = tiny_transformer()
    pipelines = {"main": SimpleNamespace(transformer=transformer)}
    generator = torch.Generator().manual_seed(0)
    inputs = {
        "hidden_states": torch.randn(2, 4, 8, 8, generator=generator),
        "encoder_hidden_states": torch.randn(2, 5, 32, generator=generator),
        "pooled_projections": torch.randn(2, 64, generator=generator),
        "timestep": torch.tensor([500, 500]),
    }
    with torch.no_grad():
        expected = transformer(**inputs).sample
        for name, values in (
            ("fused_qkv", {}),
            ("channels_last", {}),
            ("sdpa_kernel", {"unet": "math", "vae": "default"}),
        ):
            technique(name).apply(pipelines, **values)
        changed = transformer(**inputs).sample
    assert torch.allclose(changed, expected, atol=1e-5)
    for name, values in (("fused_qkv", {}), ("channels_last", {}), ("sdpa_kernel", {"unet": "math", "vae": "default"})):
        assert technique(name).took_effect(pipelines, **values) is None
