"""The forecasting cache: its plan, its polynomial, and the parts that a compiler finds."""

from typing import Any

import pytest
import torch
from paretune.search_space.caching.forecast_cache import forecast_cache, forecast_plan, forecast_weights, took_effect
from paretune.search_space.caching.guidance_cutoff import guidance_cutoff
from paretune.search_space.compiler.torch_compile import torch_compile
from paretune.testing import picture, relative_difference, tiny_sdxl

LINE = {"interval": 3, "order": 1, "first_percent": 20, "forecast": "output"}


def test_the_plan_computes_the_first_steps_then_every_nth_and_the_last() -> None:
    def computed(*arguments: int) -> list[int]:
        return [step for step, here in enumerate(forecast_plan(*arguments)) if here]

    assert computed(10, 3, 1, 20) == [0, 1, 4, 7, 9]
    assert computed(10, 2, 2, 10) == [0, 1, 2, 4, 6, 8, 9]
    assert computed(30, 5, 1, 50) == [*range(15), 19, 24, 29]
    assert computed(2, 5, 2, 50) == [0, 1]
    assert computed(1, 2, 1, 10) == [0]


def test_the_weights_continue_a_polynomial_exactly() -> None:
    def cubic(step: int) -> float:
        return 4 + 3 * step - 2 * step**2

    weights = forecast_weights([2, 3, 6], 8)
    assert sum(w * cubic(at) for w, at in zip(weights, [2, 3, 6], strict=True)) == pytest.approx(cubic(8))
    assert forecast_weights([1, 4], 6) == pytest.approx([-2 / 3, 5 / 3])


def test_as_many_steps_are_skipped_as_planned() -> None:
    pipeline = tiny_sdxl()
    forecast_cache({"main": pipeline}, **LINE)
    calls: list[int] = []
    pipeline.unet.mid_block.register_forward_hook(lambda *_: calls.append(1))
    picture(pipeline, batch=1, steps=10)
    assert len(calls) == 5
    assert pipeline.unet.forecast_state["skipped"] == 5
    # A picture of two steps has none to forecast.
    picture(pipeline, batch=1, steps=2)
    assert len(calls) == 7


def test_deep_features_are_closer_than_the_output_and_both_than_nothing() -> None:
    reference = picture(tiny_sdxl(), batch=1, steps=10)
    moved = {}
    for forecast in ("output", "deep_features"):
        pipeline = tiny_sdxl()
        forecast_cache({"main": pipeline}, **{**LINE, "forecast": forecast})
        moved[forecast] = relative_difference(picture(pipeline, batch=1, steps=10), reference)
    assert 0 < moved["deep_features"] < moved["output"] < 0.1


def test_guidance_that_stops_halfway_begins_the_polynomial_anew() -> None:
    pipeline = tiny_sdxl()
    forecast_cache({"main": pipeline}, **LINE)
    guidance_cutoff({"main": pipeline}, guided_percent=60)
    first = picture(pipeline, batch=1, steps=12)
    assert first.isfinite().all()
    assert torch.equal(picture(pipeline, batch=1, steps=12), first)
    state = pipeline.unet.forecast_state
    assert state["excused"] > 0
    assert state["skipped"] > state["excused"]
    assert took_effect({"main": pipeline}, **LINE) is None


def test_what_reaches_inner_layers_is_computed_whole() -> None:
    """As T2I-Adapters do."""

    def residuals() -> dict[str, Any]:
        return {"down_intrablock_additional_residuals": [torch.ones(2, 32, 8, 8), torch.ones(2, 64, 8, 8)]}

    def drawn(pipeline: Any) -> torch.Tensor:
        inner = pipeline.unet.forward
        pipeline.unet.forward = lambda *args, **kwargs: inner(*args, **kwargs, **residuals())
        return picture(pipeline, batch=1, steps=6)

    pipeline = tiny_sdxl()
    forecast_cache({"main": pipeline}, **{**LINE, "forecast": "deep_features"})
    assert torch.equal(drawn(pipeline), drawn(tiny_sdxl()))
    reason = took_effect({"main": pipeline}, **{**LINE, "forecast": "deep_features"})
    assert reason == "every step was computed: the U-Net was called with down_intrablock_additional_residuals"


@pytest.mark.usefixtures("traced_only")
def test_what_is_computed_compiles_as_one_graph() -> None:
    reference = tiny_sdxl()
    forecast_cache({"main": reference}, **LINE)
    expected = picture(reference, batch=1, steps=6)

    pipeline = tiny_sdxl()
    forecast_cache({"main": pipeline}, **LINE)
    torch_compile({"main": pipeline}, region="whole", mode="default", recipe="none", dynamic="auto", fullgraph=False)
    assert torch.equal(picture(pipeline, batch=1, steps=6), expected)
    assert not torch._dynamo.utils.counters["graph_break"]
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 1
    with torch.compiler.set_stance("fail_on_recompile"):
        assert torch.equal(picture(pipeline, batch=1, steps=6), expected)
