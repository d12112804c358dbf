"""A LoRA that is written into the weights is in the picture, costs no layer, and leaves no trace when it goes."""

from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import StableDiffusionXLImg2ImgPipeline
from paretune.search_space import Configuration, ModuleFacts, PipelineFacts, Role, Target, impossible, technique
from paretune.search_space._module_state import module_state
from paretune.testing import picture, sibling, tiny_sdxl
from safetensors.torch import save_file

RANK, ALPHA = 4, 8.0


def lora_of(pipeline: Any, seed: int) -> dict[str, torch.Tensor]:
    """For some layers of the U-Net and of a text encoder, in the names that PEFT writes."""
    drawn, found = torch.Generator().manual_seed(seed), {}
    layers = [
        ("unet", name) for name, _ in pipeline.unet.named_modules() if name.endswith(("attn2.to_v", "attn1.to_q"))
    ]
    layers += [("text_encoder", n) for n, _ in pipeline.text_encoder.named_modules() if n.endswith("q_proj")]
    for part, name in layers:
        out, inside = getattr(pipeline, part).get_submodule(name).weight.shape
        found[f"{part}.{name}.lora_A.weight"] = torch.randn(RANK, inside, generator=drawn) * 0.3
        found[f"{part}.{name}.lora_B.weight"] = torch.randn(out, RANK, generator=drawn) * 0.3
    return found


def merged_by_hand(seed: int, scale: float = 1.0) -> torch.Tensor:
    pipeline = tiny_sdxl()
    lora = lora_of(pipeline, seed)
    for key, down in lora.items():
        if "lora_A" in key:
            part, _, name = key.removesuffix(".lora_A.weight").partition(".")
            weight = getattr(pipeline, part).get_submodule(name).weight.data
            weight += scale * (lora[key.replace("lora_A", "lora_B")] @ down)
    return picture(pipeline, steps=2, batch=1)


def test_loras_come_and_go_in_the_weights_and_leave_no_trace(tmp_path: Path) -> None:
    pipeline = tiny_sdxl()
    second = sibling(pipeline, pipeline.scheduler)
    plain = picture(pipeline, steps=2, batch=1)
    technique("lora_merge").apply({"main": pipeline, "second": second})
    look = module_state(pipeline.unet)
    before = look()
    save_file(lora_of(pipeline, 1), str(tmp_path / "rose.safetensors"))

    pipeline.load_lora_weights(str(tmp_path), weight_name="rose.safetensors", adapter_name="rose")
    rose = picture(pipeline, steps=2, batch=1)
    assert not torch.allclose(rose, plain, atol=0.01)
    assert torch.allclose(rose, merged_by_hand(1), atol=1e-5)
    pipeline.set_adapters("rose", 0.5)
    assert torch.allclose(picture(pipeline, steps=2, batch=1), merged_by_hand(1, 0.5), atol=1e-5)
    pipeline.unload_lora_weights()
    assert torch.equal(picture(pipeline, steps=2, batch=1), plain), "to the bit"

    second.load_lora_weights(lora_of(pipeline, 2))
    assert torch.allclose(picture(pipeline, steps=2, batch=1), merged_by_hand(2), atol=1e-5), "they share the U-Net"
    with pytest.raises(RuntimeError, match="one LoRA at a time"):
        pipeline.load_lora_weights(lora_of(pipeline, 1))
    pipeline.unload_lora_weights()
    assert torch.equal(picture(second, steps=2, batch=1), plain), "whichever of them unloads it"
    assert look() == before, "recorded code goes on: weights lie where they did, and no layer was added"
    assert technique("lora_merge").took_effect({"main": pipeline}) is None


def test_what_cannot_be_merged_is_an_error_and_never_a_picture_without_it() -> None:
    pipeline = tiny_sdxl()
    technique("lora_merge").apply({"main": pipeline})
    lora = lora_of(pipeline, 1)
    pipeline.load_lora_weights(lora, adapter_name="rose")
    with pytest.raises(RuntimeError, match="one LoRA at a time"):
        pipeline.load_lora_weights(lora, adapter_name="night")
    with pytest.raises(RuntimeError, match="only the LoRA that was loaded, rose, can be set"):
        pipeline.set_adapters(["rose", "night"], [1.0, 0.5])
    pipeline.unload_lora_weights()
    with pytest.raises(RuntimeError, match=r"for unet.nowhere, which the pipeline has not"):
        pipeline.load_lora_weights({f"unet.nowhere.lora_{part}.weight": torch.ones(4, 4) for part in "AB"})


def test_it_is_refused_where_no_lora_comes_or_goes_and_with_quantized_weights() -> None:
    unet = ModuleFacts(class_name="UNet2DConditionModel", role=Role.DENOISER, dtype="float32", parameters_m=1.0)
    cpu = Target(device="cpu", name="cpu", packages=frozenset({"torchao"}))
    facts = PipelineFacts(class_name="P", modules={"unet": unet}, adapters=True, adapter_kinds=("lora",))
    merge = {"lora_merge": {}}
    assert impossible(Configuration.of(merge), cpu, {"main": facts}) is None
    none = PipelineFacts(class_name="P", modules={"unet": unet})
    assert "no request loads or unloads a LoRA" in str(impossible(Configuration.of(merge), cpu, {"main": none}))
    both = Configuration.of({**merge, "torchao_quantization": {}})
    assert "cannot be written into quantized weights" in str(impossible(both, cpu, {"main": facts}))


def test_weights_that_others_write_to_are_neither_lost_nor_mixed_up() -> None:
    pipeline = tiny_sdxl()
    second = sibling(pipeline, pipeline.scheduler)
    technique("lora_merge").apply({"main": pipeline, "second": second})
    rose, weight = lora_of(pipeline, 1), pipeline.unet.mid_block.attentions[0].transformer_blocks[0].attn1.to_q.weight
    pipeline.load_lora_weights(rose)
    with pytest.raises(RuntimeError, match="one LoRA at a time"):
        second.load_lora_weights(lora_of(pipeline, 2))
    pipeline.unload_lora_weights()

    # Another checkpoint between two LoRAs is what the second is added to.
    pipeline.unet.load_state_dict({name: 1.1 * each for name, each in pipeline.unet.state_dict().items()})
    checkpoint = weight.detach().clone()
    second.load_lora_weights(rose)
    second.unload_lora_weights()
    assert torch.equal(weight, checkpoint)

    pipeline.load_lora_weights(rose)
    pipeline.unet.load_state_dict(pipeline.unet.state_dict())
    with pytest.raises(RuntimeError, match="were written to while a LoRA was in them"):
        pipeline.unload_lora_weights()


LEFT_TO_DIFFUSERS: dict[str, Any] = {
    "fused": lambda pipeline: pipeline.fuse_lora(lora_scale=0.5),
    "disabled": lambda pipeline: pipeline.disable_lora(),
    "deleted": lambda pipeline: pipeline.delete_adapters("rose"),
    "scaled past the pipeline": lambda pipeline: pipeline.unet.set_adapters(["rose"], [0.25]),
    "scaled by a call": lambda pipeline: picture(pipeline, steps=1, batch=1, cross_attention_kwargs={"scale": 0.3}),
    "scaled by encode_prompt": lambda pipeline: pipeline.encode_prompt("a cat", lora_scale=0.3),
    "loaded past the pipeline": lambda pipeline: pipeline.unet.load_lora_adapter({}, prefix="unet"),
    "loaded by another pipeline": lambda pipeline: StableDiffusionXLImg2ImgPipeline.from_pipe(
        pipeline
    ).load_lora_weights(lora_of(pipeline, 2)),
}


@pytest.mark.parametrize("way", LEFT_TO_DIFFUSERS.values(), ids=LEFT_TO_DIFFUSERS)
def test_other_ways_of_driving_a_lora_are_an_error_that_says_what_to_do(way: Any) -> None:
    pytest.importorskip("peft")
    pipeline = tiny_sdxl()
    technique("lora_merge").apply({"main": pipeline})
    plain = picture(pipeline, steps=1, batch=1, cross_attention_kwargs={"scale": 0.3})
    pipeline.load_lora_weights(lora_of(pipeline, 1), adapter_name="rose")
    rose = picture(pipeline, steps=1, batch=1, cross_attention_kwargs={"scale": 1.0})
    with pytest.raises(RuntimeError, match=r"lora_merge: .*set_adapters\("):
        way(pipeline)
    assert torch.equal(picture(pipeline, steps=1, batch=1), rose), "nothing has changed"
    assert pipeline.get_active_adapters() == ["rose"]
    assert pipeline.get_list_adapters() == {"unet": ["rose"], "text_encoder": ["rose"]}
    StableDiffusionXLImg2ImgPipeline.from_pipe(pipeline).unload_lora_weights()
    assert torch.equal(picture(pipeline, steps=1, batch=1), plain), "a pipeline that is made later unloads it"
    assert pipeline.get_list_adapters() == {}


def as_kohya_names_it(lora: dict[str, torch.Tensor], *alphas: float) -> dict[str, torch.Tensor]:
    """alphas: of the layers in turn."""
    found = {}
    for number, (key, weight) in enumerate(lora.items()):
        name = key.replace("unet.", "lora_unet_").replace("text_encoder.", "lora_te1_")
        layer, _, half = name.replace(".weight", "").replace(".lora_", "/").partition("/")
        layer = layer.replace(".", "_")
        found[f"{layer}.lora_{'down' if half == 'A' else 'up'}.weight"] = weight
        found[f"{layer}.alpha"] = torch.tensor(alphas[number // 2 % len(alphas)])
    return found


def test_loras_in_the_names_of_kohya_have_their_layers_and_their_scale() -> None:
    pipeline = tiny_sdxl()
    technique("lora_merge").apply({"main": pipeline})
    lora = lora_of(pipeline, 1)
    for name, layer in pipeline.unet.named_modules():
        if name.endswith(("attn2.to_out.0", "ff.net.2")):
            out, inside = layer.weight.shape
            lora[f"unet.{name}.lora_A.weight"] = torch.full((RANK, inside), 0.01)
            lora[f"unet.{name}.lora_B.weight"] = torch.full((out, RANK), 0.01)
    pipeline.load_lora_weights(as_kohya_names_it(lora, 2.0))
    kohya = picture(pipeline, steps=1, batch=1)
    pipeline.unload_lora_weights()
    plain = picture(pipeline, steps=1, batch=1)
    pipeline.load_lora_weights(lora, adapter_name="it")
    assert not torch.allclose(picture(pipeline, steps=1, batch=1), kohya, atol=1e-3)
    pipeline.set_adapters("it", 2.0 / RANK)
    assert torch.allclose(picture(pipeline, steps=1, batch=1), kohya, atol=1e-5)
    pipeline.unload_lora_weights()
    with pytest.raises(RuntimeError, match="has another scale in each layer"):
        pipeline.load_lora_weights(as_kohya_names_it(lora, 2.0, 4.0))
    assert torch.equal(picture(pipeline, steps=1, batch=1), plain)

    pytest.importorskip("peft")
    of_unet = {key: weight for key, weight in lora.items() if key.startswith("unet.")}
    unchanged = tiny_sdxl()
    unchanged.load_lora_weights(as_kohya_names_it(of_unet, 2.0))
    pipeline.load_lora_weights(as_kohya_names_it(of_unet, 2.0))
    expected = picture(unchanged, steps=1, batch=1)
    assert torch.allclose(picture(pipeline, steps=1, batch=1), expected, atol=1e-5)
