"""Whole configurations that are known to be strong, fitted to a device, a pipeline and a space."""

from typing import Any

import pytest
from paretune.search_space import (
    RECIPES,
    Configuration,
    Goal,
    PipelineFacts,
    SearchSpace,
    Target,
    fitting_recipes,
    impossible,
    known_techniques,
)
from paretune.testing import TINY_FACTS

CPU = Target(device="cpu", name="cpu")
L40S = Target(
    device="cuda", name="NVIDIA L40S", compute_capability=(8, 9), memory_gib=44.5, packages=frozenset({"torchao"})
)
EVERYTHING = SearchSpace.of(None)
SDXL = {"main": PipelineFacts.from_dict({**TINY_FACTS.to_dict(), "largest_side_px": 1024})}


def fitted(target: Target, space: SearchSpace = EVERYTHING) -> dict[str, Configuration]:
    return {recipe.name: configuration for recipe, configuration in fitting_recipes(space, target, SDXL)}


@pytest.mark.parametrize("target", [CPU, L40S], ids=lambda target: target.name)
def test_what_is_offered_can_work(target: Target) -> None:
    for configuration in fitted(target).values():
        assert configuration.steps
        assert configuration in EVERYTHING
        assert impossible(configuration, target, SDXL) is None


def test_a_gpu_has_every_goal_and_a_cpu_has_no_gpu_techniques() -> None:
    goals = {recipe.goal for recipe, _ in fitting_recipes(EVERYTHING, L40S, SDXL)}
    assert goals == set(Goal)
    on_cpu = fitted(CPU).values()
    assert on_cpu
    assert not any(configuration.get("cuda_graphs") for configuration in on_cpu)


def test_what_answers_in_seconds_comes_before_what_compiles() -> None:
    speed = [c for r, c in fitting_recipes(EVERYTHING, L40S, SDXL) if r.goal is not Goal.LEAST_MEMORY]
    compiled = ["torch_compile" in str(configuration) for configuration in speed]
    assert compiled == sorted(compiled)
    assert {False, True} == set(compiled)
    assert [recipe.goal for recipe, _ in fitting_recipes(EVERYTHING, L40S, SDXL)][-1] is Goal.LEAST_MEMORY


def test_a_recipe_keeps_to_the_space() -> None:
    space = SearchSpace.of({"channels_last": {}, "deepcache": {"interval": [2], "branch": [0], "full_percent": [50]}})
    found = list(fitted(L40S, space).values())
    assert found
    assert all(configuration in space for configuration in found)
    assert len(set(found)) == len(found), "what is left of two recipes may be the same: it is measured once"


def test_lossless_recipes_use_no_technique_that_approximates() -> None:
    for recipe, configuration in fitting_recipes(EVERYTHING, L40S, SDXL):
        if recipe.goal is Goal.LOSSLESS:
            assert configuration.loss != "approximate", recipe.name


def test_every_recipe_names_techniques_and_a_source() -> None:
    known: dict[str, Any] = {technique.name: technique for technique in known_techniques()}
    for recipe in RECIPES:
        assert set(recipe.techniques) <= set(known), recipe.name
        assert recipe.source.startswith("https://")


def test_where_adapters_come_and_go_recipes_are_recorded_once() -> None:
    facts = {**TINY_FACTS.to_dict(), "adapters": True, "adapter_kinds": ["ip-adapter", "lora"]}
    found = {
        recipe.name: str(configuration)
        for recipe, configuration in fitting_recipes(EVERYTHING, L40S, {"main": PipelineFacts.from_dict(facts)})
    }
    for name in ("graphs", "compiled graphs", "compiled graphs with a step cache"):
        assert "ip_adapter_swap(in_place) + lora_merge" in found[name]
        assert "fused_qkv" not in found[name], "adapters bring attention processors of their own"
    assert "ip_adapter_swap" not in str(fitted(L40S)["compiled graphs"])
