"""diffusers' attention kernels in U-Nets and transformers, with adapters that come and go."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from diffusers import FluxTransformer2DModel
from diffusers.models.attention_dispatch import _AttentionBackendRegistry
from paretune.search_space import Target, describe_pipelines, technique
from paretune.testing import ip_adapter, picture, relative_difference, tiny_sdxl

KNOWN = technique("attention_backend")
CPU = Target(device="cpu", name="cpu")


def tiny_flux() -> Any:
    torch.manual_seed(0)
    return FluxTransformer2DModel(
        in_channels=4,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=32,
        pooled_projection_dim=32,
        axes_dims_rope=(4, 4, 8),
    ).eval()


def kernels(denoiser: Any) -> set[str]:
    return {str(getattr(p, "_attention_backend", None)) for p in denoiser.attn_processors.values()}


def test_the_kernel_of_the_process_stays_what_it_was() -> None:
    """set_attention_backend() sets it for every other model of the process, and nothing takes it back."""
    before = _AttentionBackendRegistry.get_active_backend()
    pipeline = tiny_sdxl()
    KNOWN.apply({"main": pipeline}, backend="_native_math")
    KNOWN.apply({"flux": SimpleNamespace(transformer=tiny_flux())}, backend="_native_math")
    assert _AttentionBackendRegistry.get_active_backend() == before


def test_it_survives_an_ip_adapter_that_comes_and_goes() -> None:
    torch.manual_seed(0)
    embeds = [torch.randn(2, 1, 8)]
    untouched, pipeline = tiny_sdxl(), tiny_sdxl()
    adapter = ip_adapter(untouched.unet)
    KNOWN.apply({"main": pipeline}, backend="_native_math")
    before = picture(pipeline)
    for each in (untouched, pipeline):
        each.load_ip_adapter(adapter, subfolder="", weight_name="", image_encoder_folder=None)
    assert KNOWN.took_effect({"main": pipeline}, backend="_native_math") is None
    with_adapter = picture(pipeline, ip_adapter_image_embeds=embeds)
    assert relative_difference(with_adapter, picture(untouched, ip_adapter_image_embeds=embeds)) < 1e-4
    pipeline.unload_ip_adapter()
    assert len(kernels(pipeline.unet)) == 1, "the cross attention has it again as well"
    assert torch.equal(picture(pipeline), before)


def test_a_transformer_takes_the_kernel_where_diffusers_dispatches_to_it() -> None:
    transformer = tiny_flux()
    pipelines = {"main": SimpleNamespace(transformer=transformer)}
    facts = describe_pipelines(pipelines, [])
    assert KNOWN.why_not(CPU, facts, KNOWN.parameters(backend="_native_math")) is None
    inputs = {
        "hidden_states": torch.randn(1, 16, 4),
        "encoder_hidden_states": torch.randn(1, 5, 32),
        "pooled_projections": torch.randn(1, 32),
        "timestep": torch.tensor([0.5]),
        "img_ids": torch.zeros(16, 3),
        "txt_ids": torch.zeros(5, 3),
    }
    with torch.no_grad():
        expected = transformer(**inputs).sample
        assert KNOWN.took_effect(pipelines, backend="_native_math") is not None
        KNOWN.apply(pipelines, backend="_native_math")
        assert torch.allclose(transformer(**inputs).sample, expected, atol=1e-5)
    assert KNOWN.took_effect(pipelines, backend="_native_math") is None


@pytest.mark.usefixtures("traced_only")
def test_it_compiles_as_one_graph() -> None:
    pipeline = tiny_sdxl()
    KNOWN.apply({"main": pipeline}, backend="_native_math")
    compiler = technique("torch_compile")
    how = compiler.parameters(fullgraph=True).model_dump()
    compiler.apply({"main": pipeline}, **how)
    picture(pipeline, batch=1, steps=1)
    assert compiler.took_effect({"main": pipeline}, **how) is None
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 1
