"""What happens to a pipeline that is changed after apply(), and to one that apply() is called with twice."""

import functools
import importlib.util
import tempfile
from collections.abc import Callable
from typing import Any

import pytest
import torch
from paretune.search_space import Configuration, apply_source, watch
from paretune.search_space._module_state import stays_as_it_is
from paretune.search_space.attention.fused_qkv import fused_qkv
from paretune.testing import (
    CLOSE,
    fuse_lora,
    ip_adapter,
    load_lora,
    relative_difference,
    sibling,
    tiny_sdxl,
)
from paretune.testing import picture as batch_of_pictures

FUSED: dict[str, dict[str, Any]] = {"fused_qkv": {}}


picture = functools.partial(batch_of_pictures, batch=1, steps=2)


def exported(techniques: dict[str, dict[str, Any]]) -> Callable[[Any], None]:
    """The apply() of a bundle."""
    namespace: dict[str, Any] = {}
    exec(compile(apply_source(Configuration.of(techniques)), "apply.py", "exec"), namespace)
    apply: Callable[[Any], None] = namespace["apply"]
    return apply


def applied(techniques: dict[str, dict[str, Any]]) -> Any:
    """A pipeline that a bundle was applied to."""
    pipeline = tiny_sdxl()
    exported(techniques)(pipeline)
    return pipeline


def load_ip_adapter(pipeline: Any) -> None:
    pipeline.load_ip_adapter(ip_adapter(pipeline.unet), subfolder="", weight_name="", image_encoder_folder=None)


def stronger(pipeline: Any, assign: bool = False) -> None:
    """Another checkpoint."""
    weights = {key: 1.1 * weight for key, weight in pipeline.unet.state_dict().items() if "kv." not in key}
    pipeline.unet.load_state_dict(weights, strict=False, assign=assign)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (load_lora, "layer to_q was replaced"),
        (fuse_lora, "weights of the projections were changed"),
        (stronger, "weights of the projections were changed"),
        (lambda pipeline: stronger(pipeline, assign=True), "weights of the projections were changed"),
        (load_ip_adapter, "attention processors were replaced"),
        (lambda pipeline: pipeline.unet.unfuse_qkv_projections(), "attention processors were replaced"),
        (lambda pipeline: setattr(pipeline, "unet", tiny_sdxl().unet), "another unet"),
    ],
    ids=["lora", "fused-lora", "weights", "assigned-weights", "ip-adapter", "unfused", "another-unet"],
)
def test_a_bundle_with_fused_qkv_says_what_later_change_it_does_not_survive(
    change: Callable[[Any], None], said: str
) -> None:
    pipeline = applied(FUSED)
    change(pipeline)
    with pytest.raises(RuntimeError, match=said):
        picture(pipeline)


def test_fused_qkv_itself_notices_too_without_the_rest_of_a_bundle() -> None:
    pipeline = tiny_sdxl()
    fused_qkv({"main": pipeline})
    before = picture(pipeline)
    load_lora(pipeline)
    with pytest.raises(RuntimeError, match="LoRA"):
        picture(pipeline)
    layers = [(parent, name) for parent in pipeline.unet.modules() for name in ("to_q", "to_k", "to_v")]
    for parent, name in layers:
        if hasattr(getattr(parent, name, None), "base_layer"):
            setattr(parent, name, getattr(parent, name).base_layer)
    assert torch.equal(picture(pipeline), before), "unloaded again, the LoRA is forgotten"


@pytest.mark.skipif(importlib.util.find_spec("peft") is None, reason="needs peft")
@pytest.mark.parametrize("fuse", [False, True])
def test_a_real_lora_after_a_bundle_with_fused_qkv(fuse: bool) -> None:
    from diffusers import StableDiffusionXLPipeline
    from diffusers.utils import convert_state_dict_to_diffusers
    from peft import LoraConfig, get_peft_model_state_dict

    maker = tiny_sdxl()
    maker.unet.add_adapter(LoraConfig(r=8, init_lora_weights=False, target_modules=["to_q", "to_k", "to_v"]))
    layers = convert_state_dict_to_diffusers(get_peft_model_state_dict(maker.unet))
    with tempfile.TemporaryDirectory() as folder:
        StableDiffusionXLPipeline.save_lora_weights(folder, unet_lora_layers=layers)
        pipeline = applied(FUSED)
        pipeline.load_lora_weights(folder)
    if fuse:
        pipeline.fuse_lora()
        pipeline.unload_lora_weights()
    with pytest.raises(RuntimeError, match="fused_qkv"):
        picture(pipeline)


def test_what_fused_qkv_does_survive_raises_nothing() -> None:
    pipeline = applied(FUSED)
    before = picture(pipeline)
    pipeline.unet.to(memory_format=torch.channels_last)
    pipeline.unet.load_state_dict(pipeline.unet.state_dict())
    second = sibling(pipeline, type(pipeline.scheduler).from_config(pipeline.scheduler.config))
    assert relative_difference(picture(second), before) < CLOSE["cpu"]
    assert relative_difference(picture(pipeline), before) < CLOSE["cpu"]


@pytest.mark.parametrize("how", ["in place", "around", "forward"])
def test_what_is_watched_does_not_break_a_graph(how: str) -> None:
    pipeline = applied(FUSED)
    options: dict[str, Any] = {"backend": "eager", "fullgraph": True}
    if how == "in place":
        pipeline.unet.compile(**options)
    elif how == "around":
        pipeline.unet = torch.compile(pipeline.unet, **options)
    else:
        pipeline.unet.forward = torch.compile(pipeline.unet.forward, **options)
    assert relative_difference(picture(pipeline), picture(tiny_sdxl())) < CLOSE["cpu"]
    load_lora(pipeline)
    with pytest.raises(RuntimeError, match="LoRA"):
        picture(pipeline)


def test_a_denoiser_that_is_converted_after_dtype_is_noticed() -> None:
    pipeline = applied({"dtype": {"dtype": "bfloat16"}})
    pipeline.to(torch.float32)
    with pytest.raises(RuntimeError, match="convert it back"):
        picture(pipeline)
    pipeline.to(torch.bfloat16)
    picture(pipeline)


def test_quantized_weights_that_are_replaced_are_noticed() -> None:
    pytest.importorskip("torchao")
    pipeline = applied({"torchao_quantization": {"scheme": "int8_weight_only"}})
    pipeline.unet.load_state_dict(tiny_sdxl().unet.state_dict(), assign=True)
    with pytest.raises(RuntimeError, match="quantized weights were replaced"):
        picture(pipeline)


@pytest.mark.parametrize("second", [FUSED, {"torchao_quantization": {"scheme": "int8_weight_only"}}, {"deepcache": {}}])
def test_apply_twice_says_so(second: dict[str, dict[str, Any]]) -> None:
    if "torchao_quantization" in second:
        pytest.importorskip("torchao")
    pipeline = applied(second)
    before = picture(pipeline)
    for again in (second, FUSED):
        with pytest.raises(RuntimeError, match="apply\\(\\) was called before with this UNet2DConditionModel"):
            exported(again)(pipeline)
    assert torch.equal(picture(pipeline), before), "and changes nothing"


def test_two_bundles_may_share_what_neither_changes() -> None:
    first, other = tiny_sdxl(), tiny_sdxl()
    other = type(first)(**{**first.components, "unet": other.unet})
    exported(FUSED)(first)
    exported(FUSED)(other)  # another U-Net; only the VAE and the text encoders are the same
    with pytest.raises(RuntimeError, match="Load the pipelines anew"):
        exported({"vae_tiling": {}, "channels_last": {}})(other)


def test_quantizing_what_is_quantized_is_refused_in_a_sentence() -> None:
    pytest.importorskip("torchao")
    from paretune.search_space.precision.torchao_quantization import torchao_quantization

    pipeline = tiny_sdxl()
    torchao_quantization({"main": pipeline}, scheme="int8_weight_only")
    with pytest.raises(ValueError, match="quantized already"):
        torchao_quantization({"main": pipeline}, scheme="int8_dynamic")


def test_a_second_lora_that_is_fused_between_two_calls_is_noticed_too() -> None:
    """diffusers leaves the same attribute every time."""
    pipeline = applied(FUSED)
    pipeline.unet._hf_peft_config_loaded = None  # one came and went, and changed nothing
    picture(pipeline)
    fuse_lora(pipeline)
    with pytest.raises(RuntimeError, match="weights of the projections were changed"):
        picture(pipeline)


@pytest.mark.parametrize(
    "change",
    [load_lora, fuse_lora, load_ip_adapter, stronger],
    ids=["lora", "fused-lora", "ip-adapter", "another checkpoint"],
)
def test_what_a_tracer_would_ignore_is_noticed_at_the_next_call(change: Callable[[Any], None]) -> None:
    pipeline = tiny_sdxl()
    watch({"main": pipeline}, stays_as_it_is("stable_fast", pipeline.unet))
    before = picture(pipeline)
    assert torch.equal(picture(pipeline), before)
    change(pipeline)
    with pytest.raises(RuntimeError, match="stable_fast: layers of the UNet2DConditionModel were changed"):
        picture(pipeline)
