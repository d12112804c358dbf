"""stable-fast's traces give the same picture in every call, also in the first: with a stand-in for the package."""

import sys
import types
from typing import Any

import pytest
import torch
from paretune.search_space import technique
from paretune.testing import tiny_sdxl


@pytest.fixture
def sfast(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """As on a GPU: the first call with any shapes rounds otherwise than all later ones. Returns what its calls were."""
    calls: list[str] = []

    def compile_unet(unet: Any, config: Any) -> None:
        inner, met = unet.forward, set()

        def traced(sample: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
            found = inner(sample, *args, **kwargs)
            calls.append("fused" if sample.shape in met else "profiled")
            if sample.shape not in met:
                met.add(sample.shape)
                found = (found[0] * 1.001, *found[1:])
            return found

        traced._cached = True  # type: ignore[attr-defined]
        unet.forward = traced

    class CompilationConfig:
        @staticmethod
        def Default() -> Any:
            return types.SimpleNamespace()

    module = types.ModuleType("sfast.compilers.diffusion_pipeline_compiler")
    module.compile_unet = compile_unet  # type: ignore[attr-defined]
    module.CompilationConfig = CompilationConfig  # type: ignore[attr-defined]
    for name in ("sfast", "sfast.compilers"):
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    monkeypatch.setitem(sys.modules, module.__name__, module)
    return calls


def answer(pipe: Any, side: int, **more: Any) -> torch.Tensor:
    """The U-Net's, for latents of that side; the same each time. more: arguments of its call."""
    torch.manual_seed(0)
    width = pipe.unet.config.cross_attention_dim
    added = {"text_embeds": torch.randn(1, pipe.text_encoder_2.config.projection_dim), "time_ids": torch.ones(1, 6)}
    with torch.no_grad():
        found: torch.Tensor = pipe.unet(
            torch.randn(1, pipe.unet.config.in_channels, side, side),
            10,
            encoder_hidden_states=torch.randn(1, 7, width),
            added_cond_kwargs=added,
            return_dict=False,
            **more,
        )[0]
    return found


def test_the_first_picture_is_like_all_later_ones(sfast: list[str]) -> None:
    pipe, known = tiny_sdxl(), technique("stable_fast")
    expected = answer(pipe, 8)
    known.apply({"main": pipe}, **known.parameters().model_dump())
    assert all(torch.equal(answer(pipe, 8), expected) for _ in range(3))
    assert sfast == ["profiled", "fused", "fused", "fused"]
    again = answer(pipe, 16)
    assert torch.equal(answer(pipe, 16), again)
    assert known.took_effect({"main": pipe}, **known.parameters().model_dump()) is None


def test_values_that_it_keeps_a_trace_for_are_new_calls_too(sfast: list[str]) -> None:
    pipe, known = tiny_sdxl(), technique("stable_fast")
    known.apply({"main": pipe}, **known.parameters().model_dump())
    made: list[str] = []
    inner = pipe.unet.stable_fast_traced
    for scale in (0.5, 0.8, 0.8):
        before = len(sfast)
        answer(pipe, 8, cross_attention_kwargs={"scale": scale})
        made.append(str(len(sfast) - before))
    assert made == ["2", "2", "1"]
    assert inner is pipe.unet.stable_fast_traced


def test_what_is_recorded_is_not_called_twice(sfast: list[str]) -> None:
    pipe, known = tiny_sdxl(), technique("stable_fast")
    known.apply({"main": pipe}, **{**known.parameters().model_dump(), "cuda_graph": True})
    answer(pipe, 8)
    assert sfast == ["profiled"]
