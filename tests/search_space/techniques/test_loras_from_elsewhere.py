"""A LoRA that a technique for LoRAs has not loaded itself is refused: it would neither be unloaded nor scaled.
So is one that a copy of the pipeline loads: it would go into the pipeline's own weights.
"""

import copy
from typing import Any

import pytest
import torch
from paretune.search_space import technique
from paretune.testing import picture, tiny_sdxl

peft = pytest.importorskip("peft")
LORA = {"unet.conv_in.lora_A.weight": torch.ones(1, 4, 3, 3), "unet.conv_in.lora_B.weight": torch.ones(4, 1, 1, 1)}


@pytest.mark.parametrize("part", ["unet", "text_encoder"])
@pytest.mark.parametrize(("name", "values"), [("lora_hotswap", {"most_rank": 16}), ("lora_merge", {})])
def test_loras_that_were_loaded_otherwise_are_an_error(name: str, values: dict[str, Any], part: str) -> None:
    pipeline = tiny_sdxl()
    config = peft.LoraConfig(r=2, target_modules=["to_q", "q_proj"])
    module = getattr(pipeline, part)
    peft.inject_adapter_in_model(config, module, "before")
    module.peft_config = {"before": config}
    with pytest.raises(RuntimeError, match=r"call unload_lora_weights\(\) before apply"):
        technique(name).apply({"main": pipeline}, **values)
    pipeline.unload_lora_weights()
    technique(name).apply({"main": pipeline}, **values)
    peft.inject_adapter_in_model(config, module, "later")
    module.peft_config = {"later": config}
    for change in (lambda: pipeline.load_lora_weights(LORA), pipeline.unload_lora_weights):
        with pytest.raises(RuntimeError, match=f"that {name} did not load; load the pipeline anew"):
            change()


@pytest.mark.parametrize(("name", "values"), [("lora_hotswap", {"most_rank": 16}), ("lora_merge", {})])
def test_a_copy_of_the_pipeline_never_writes_into_the_pipeline_itself(name: str, values: dict[str, Any]) -> None:
    pipeline = tiny_sdxl()
    technique(name).apply({"main": pipeline}, **values)
    copied = copy.deepcopy(pipeline)
    plain = picture(pipeline, steps=1, batch=1)
    with pytest.raises(RuntimeError, match=rf"{name}: this .* is a copy of one that apply\(\) was given"):
        copied.load_lora_weights(LORA)
    with pytest.raises(RuntimeError, match=r"is a copy of one"):
        copied.unet.unload_lora()
    assert torch.equal(picture(pipeline, steps=1, batch=1), plain)
