"""What is measured first and what comes next, on replayed measurements: presets, recipes, then the model's guess."""

from pathlib import Path

import pytest
from paretune.agent.results import Results
from support.replaying import World, world_in

TECHNIQUES = {
    "channels_last": {},
    "fused_qkv": {},
    "deepcache": {"interval": [2, 3, 5], "branch": [0], "full_percent": [0, 50]},
    "vae_slicing": {},
}
CACHED = "fused_qkv + deepcache(interval=2, branch=0, full_percent=50)"


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    return world_in(tmp_path, monkeypatch)


def launch(world: World, *, recipes: bool = True, guided: bool = True, trials: int = 12, **options: bool) -> Results:
    space = {"techniques": TECHNIQUES, "recipes": recipes, "presets": [[{"channels_last": {}}]]}
    study = world.study("a", [], space=space, sampler={"guided": guided}, budget={"trials": trials})
    return world.launch(study, **options)


def test_recipes_come_after_the_presets_and_before_everything_else(world: World) -> None:
    measured = [str(trial.configuration) for trial in launch(world).trials]
    assert measured[:2] == ["reference", "channels_last"]
    assert measured[2] == "fused_qkv + channels_last + deepcache(interval=2, branch=0, full_percent=50)"
    assert CACHED in measured


def test_recipes_only_ends_after_them(world: World) -> None:
    results = launch(world, recipes_only=True)
    measured = [str(trial.configuration) for trial in results.trials]
    assert CACHED in measured
    assert len(measured) < 8
    again = launch(world, recipes_only=True)
    assert [str(trial.configuration) for trial in again.trials] == measured, "there is nothing more to do"


def test_the_model_goes_where_the_gain_is(world: World) -> None:
    """Everything with deepcache at interval 5 is fast: the model finds it before half of the space is measured."""
    fast = "deepcache(interval=5, branch=0, full_percent=0)"
    names = ["", "fused_qkv + ", "channels_last + ", "fused_qkv + channels_last + "]
    world.latency_ms = {f"{before}{fast}": 300.0 for before in names}
    world.latency_ms |= {
        f"{before}deepcache(interval={interval}, branch=0, full_percent=0)": 900.0 - 150 * interval
        for before in names
        for interval in (2, 3)
    }
    results = launch(world, recipes=False, trials=16)
    assert any(fast in str(trial.configuration) for trial in results.trials)
    assert results.best().figure("latency_ms") == 300.0


def test_without_guidance_the_sampler_of_optuna_proposes(world: World) -> None:
    results = launch(world, recipes=False, guided=False, trials=6)
    assert len(results.trials) == 6
