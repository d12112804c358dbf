"""Text encoders leave the GPU before the denoiser runs, whatever else wraps that."""

from types import SimpleNamespace
from typing import Any

import accelerate
import pytest
import torch
from accelerate.hooks import ModelHook, add_hook_to_module, remove_hook_from_module
from paretune.search_space import technique
from paretune.testing import tiny_sd


@pytest.fixture
def left(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The encoders that were told to leave; here they are said to be on a GPU, and stay where they are."""
    left: list[Any] = []

    def hook_of(encoder: Any, device: Any) -> tuple[Any, Any]:
        monkeypatch.setattr(encoder, "parameters", lambda: iter([SimpleNamespace(device=torch.device("cuda"))]))
        return encoder, SimpleNamespace(offload=lambda: left.append(encoder))

    monkeypatch.setattr(accelerate, "cpu_offload_with_hook", hook_of)
    return left


def test_a_hook_on_the_denoiser_that_comes_and_goes_takes_nothing_away(left: list[Any]) -> None:
    """As pipelines take off and put on accelerate's hooks when adapters are loaded."""
    pipeline = tiny_sd()
    unet = pipeline.unet
    add_hook_to_module(unet, ModelHook())
    technique("text_encoder_offload").apply({"main": pipeline})
    for _ in range(2):
        left.clear()
        unet(torch.zeros(1, 4, 32, 32), 1, torch.zeros(1, 77, unet.config.cross_attention_dim))
        assert left == [pipeline.text_encoder]
        remove_hook_from_module(unet)


def test_applied_twice_is_refused(left: list[Any]) -> None:
    pipeline = tiny_sd()
    technique("text_encoder_offload").apply({"main": pipeline})
    with pytest.raises(ValueError, match="text_encoder_offload: it is applied to this UNet2DConditionModel already"):
        technique("text_encoder_offload").apply({"main": pipeline})
