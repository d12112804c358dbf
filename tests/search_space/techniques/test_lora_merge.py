"""A LoRA that is written into the weights is in the picture, costs no layer, and leaves no trace when it goes."""

from pathlib import Path
from typing import Any

import pytest
import torch
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
