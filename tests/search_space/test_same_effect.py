"""Configurations that do the same are recognised, whatever their parameters are."""

from dataclasses import replace
from itertools import combinations
from typing import Any

import pytest
import torch
from paretune.search_space import Configuration, SameEffect, Target, impossible, technique
from paretune.search_space.caching.deepcache import deepcache
from paretune.testing import TINY_FACTS, picture, tiny_sdxl

CPU = Target(device="cpu", name="cpu")


def same(one: dict[str, Any], other: dict[str, Any], *steps: int, facts: Any = TINY_FACTS) -> bool:
    effect = SameEffect({"main": replace(facts, steps=steps)})
    return effect.of(Configuration.of(one)) == effect.of(Configuration.of(other))


@pytest.mark.parametrize(
    ("one", "other", "steps", "expected"),
    [
        ({"interval": 4}, {"interval": 5}, (4,), True),
        ({"interval": 4}, {"interval": 5}, (5,), False),
        ({"interval": 4}, {"interval": 5}, (4, 20), False),
        ({"full_percent": 0}, {"full_percent": 30}, (4,), True),
        ({"full_percent": 0}, {"full_percent": 30}, (20,), False),
        ({"interval": 4}, {"interval": 5}, (), False),  # it is not known how many steps there are
        ({"branch": 0}, {"branch": 1}, (4,), False),
    ],
)
def test_deepcache_with_equal_step_patterns(
    one: dict[str, Any], other: dict[str, Any], steps: tuple[int, ...], expected: bool
) -> None:
    assert same({"deepcache": one}, {"deepcache": other}, *steps) is expected
    assert same({"deepcache": one, "fused_qkv": {}}, {"fused_qkv": {}, "deepcache": other}, *steps) is expected
    assert not same({"deepcache": one, "fused_qkv": {}}, {"deepcache": other}, *steps)


def test_guidance_that_ends_after_the_same_step() -> None:
    def cut(percent: int) -> dict[str, Any]:
        return {"guidance_cutoff": {"guided_percent": percent}}

    assert same(cut(40), cut(50), 5)
    assert not same(cut(40), cut(60), 5)
    assert not same(cut(40), cut(50), 5, 10)


def test_guidance_in_the_same_steps() -> None:
    def within(begin: int, end: int) -> dict[str, Any]:
        return {"guidance_interval": {"from_percent": begin, "to_percent": end}}

    assert same(within(10, 80), within(20, 80), 9)
    assert not same(within(10, 80), within(30, 80), 9)
    assert not same(within(10, 80), within(20, 80), 9, 30)


def test_forecasts_of_the_same_steps() -> None:
    def forecast(**settings: Any) -> dict[str, Any]:
        return {"forecast_cache": {"interval": 3, "order": 1, "first_percent": 10, "forecast": "output", **settings}}

    assert same(forecast(), forecast(first_percent=20), 12)
    assert not same(forecast(), forecast(first_percent=30), 12)
    assert not same(forecast(), forecast(order=2), 12)
    assert not same(forecast(), forecast(forecast="deep_features"), 12)


def test_what_would_only_fail_where_another_would_not_is_compiled_once() -> None:
    assert same({"torch_compile": {"fullgraph": True}}, {"torch_compile": {"fullgraph": False}})
    assert not same({"torch_compile": {"dynamic": "never"}}, {"torch_compile": {"dynamic": "auto"}})


@pytest.mark.parametrize("name", ["deepcache", "guidance_cutoff", "forecast_cache"])
def test_what_changes_no_step_is_refused(name: str) -> None:
    one_step = {"main": replace(TINY_FACTS, steps=(1,))}
    reason = impossible(Configuration.of({name: {}}), CPU, one_step)
    assert reason is not None
    assert "changes nothing" in reason


def test_equal_plans_of_deepcache_make_equal_pictures() -> None:
    facts = {"main": replace(TINY_FACTS, steps=(4,))}
    choices = {"interval": (3, 4, 5), "branch": (0,), "full_percent": (0, 30)}
    made: list[tuple[Any, torch.Tensor]] = []
    for parameters in technique("deepcache").parameters.combinations(choices):
        pipeline = tiny_sdxl()
        deepcache({"main": pipeline}, **parameters.model_dump())
        made.append((technique("deepcache").plan(facts, parameters), picture(pipeline, batch=1, steps=4)))
    for (plan, image), (other_plan, other_image) in combinations(made, 2):
        assert (plan == other_plan) == torch.equal(image, other_image)
