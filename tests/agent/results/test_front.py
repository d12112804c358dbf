"""The front and the best of it: one order, one rule for ties. On replayed measurements."""

import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from optuna.study import StudyDirection
from optuna.study._multi_objective import _get_pareto_front_trials_by_trials
from optuna.trial import create_trial
from paretune.agent.results import TORCH_COMPILE, Results, Trial, pareto_front, ties_note
from paretune.search_space import Configuration
from paretune.studies import SCHEMA_VERSION, Outcome, Records, RunKind, RunRecord
from support.replaying import World, world_in

NAMES = ("latency_ms", "peak_vram_gib", "drift")
PRESETS = ["channels_last", "fused_qkv", "vae_slicing"]
SPACE: dict[str, Any] = {
    "techniques": {name: {} for name in (*PRESETS, "torch_compile")},
    "presets": [[{name: {}}] for name in PRESETS],
}


@dataclass(frozen=True)
class Point:
    figures: dict[str, float]

    def figure(self, name: str) -> float:
        return self.figures[name]


def points(count: int, generator: random.Random) -> list[Point]:
    return [Point({name: generator.choice((1.0, 1.02, 1.1, 1.3)) for name in NAMES}) for _ in range(count)]


def test_the_front_is_the_one_that_optuna_draws() -> None:
    generator = random.Random(1)
    for _ in range(300):
        trials = points(generator.randint(1, 7), generator)
        told = [create_trial(values=[trial.figure(name) for name in NAMES]) for trial in trials]
        optunas = _get_pareto_front_trials_by_trials(told, [StudyDirection.MINIMIZE] * 3)
        front = pareto_front(trials, NAMES)
        assert front
        assert sorted(t.values for t in optunas) == sorted([p.figure(name) for name in NAMES] for p in front)


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    return world_in(tmp_path, monkeypatch)


def launched(world: World, **keys: Any) -> Results:
    """Each preset once; a noise floor of a few percent."""
    speeds = iter([1.0, 1.004, 0.992, 1.007, 0.997])
    world.speed = lambda: next(speeds, 1.0)
    return world.launch(world.study("a", [], space=SPACE, budget={"trials": 4}, **keys))


def of(results: Results, name: str) -> Trial:
    found = results.of(Configuration.of({name: {}}))
    assert found is not None
    return found


def add_blocks(results: Results, latencies_ms: dict[int, list[float]]) -> Results:
    for trial, by_block in latencies_ms.items():
        for block, latency_ms in enumerate(by_block):
            results.records.add_run(
                RunRecord(
                    schema_version=SCHEMA_VERSION,
                    kind=RunKind.BLOCK,
                    workload_key="w",
                    configuration_key="c",
                    configuration={},
                    fingerprint_key="f",
                    worker="local",
                    study=results.name,
                    trial=trial,
                    session=9,
                    position=block,
                    outcome=Outcome.COMPLETE,
                    reason="",
                    log_tail="",
                    measurements={"latency_ms": latency_ms},
                    phases_s={},
                    apply_py="",
                    folder="",
                    finished_at="2026-05-04T13:10:00+00:00",
                )
            )
    return results.refresh()


def test_of_ties_in_latency_the_one_with_the_least_memory_is_the_best(world: World) -> None:
    world.latency_ms = {"channels_last": 500.0, "fused_qkv": 504.0, "vae_slicing": 900.0}
    world.memory_gib = {"channels_last": 2.0, "fused_qkv": 1.0}
    results = launched(world)
    best = results.best()
    assert best is of(results, "fused_qkv")
    assert of(results, "channels_last").ties_with("latency_ms", best)
    note = ties_note(best)
    assert note is not None
    assert note.startswith("Trial 2 ties with trial 1 in latency. Of configurations that tie in latency, the best is ")


def test_then_the_one_that_starts_faster_beyond_the_noise(world: World) -> None:
    world.latency_ms = {"channels_last": 500.0, "fused_qkv": 504.0, "vae_slicing": 900.0}
    world.drift = {"channels_last": lambda count: 0.5, "fused_qkv": lambda count: 0.4}  # both on the front
    world.cold_starts_s = {"channels_last": 40.0, "fused_qkv": 5.0}
    results = launched(world)
    assert results.best() is of(results, "fused_qkv")


def test_then_the_one_that_loses_least_by_the_way_it_works(world: World) -> None:
    """channels_last computes in another order; DeepCache approximates."""
    deepcache = "deepcache(interval=3, branch=0, full_percent=0)"
    world.latency_ms = {deepcache: 500.0, "channels_last": 504.0}
    world.drift = {deepcache: lambda count: 0.5, "channels_last": lambda count: 0.4}
    chosen = {"interval": 3, "branch": 0, "full_percent": 0}
    presets: list[list[dict[str, Any]]] = [[{"deepcache": chosen}], [{"channels_last": {}}]]
    space = {"techniques": {"channels_last": {}, "deepcache": chosen}, "presets": presets}
    speeds = iter([1.0, 1.004, 0.992, 1.007, 0.997])
    world.speed = lambda: next(speeds, 1.0)
    results = world.launch(world.study("a", [], space=space, budget={"trials": 3}))
    assert str(results.front[0].configuration) == deepcache
    assert results.best() is of(results, "channels_last")


@pytest.mark.slow
def test_the_best_is_on_the_front_whatever_was_measured(world: World) -> None:
    generator = random.Random(3)
    for number in range(12):
        world.latency_ms = {name: generator.choice((500.0, 503.0, 508.0, 900.0, 1001.0)) for name in PRESETS}
        world.memory_gib = {name: generator.choice((1.0, 2.0, 2.01)) for name in PRESETS}
        speeds = iter([1.0, 1.004, 0.992, 1.007, 0.997])
        world.speed = lambda speeds=speeds: next(speeds, 1.0)  # type: ignore[misc]
        name = f"study-{number}"
        results = world.launch(world.study(name, [], space=SPACE, budget={"trials": 4}), fresh=True)
        numbers = [0, *(trial.number for trial in results.trials if trial.configuration.steps)]
        assert results.best() in results.front
        blocks = {n: [generator.choice((480.0, 500.0, 520.0, 990.0)) for _ in range(4)] for n in numbers}
        assert add_blocks(results, blocks).best() in results.front


def test_confirming_blocks_tell_apart_what_the_noise_floor_cannot(world: World) -> None:
    world.latency_ms = {"channels_last": 500.0, "fused_qkv": 503.0, "vae_slicing": 900.0}
    world.drift = {"channels_last": lambda count: 0.5, "fused_qkv": lambda count: 0.4}
    results = launched(world)
    one, other = of(results, "channels_last"), of(results, "fused_qkv")
    assert one.ties_with("latency_ms", other)
    blocks = {0: [1000.0, 1001.0, 1000.0], one.number: [500.0, 501.0, 500.0], other.number: [492.0, 493.0, 492.0]}
    results = add_blocks(results, blocks)
    one, other = of(results, "channels_last"), of(results, "fused_qkv")
    assert not one.ties_with("latency_ms", other)
    assert results.best() is other


def test_what_is_faster_for_certain_is_preferred_to_what_only_ties_with_it(world: World) -> None:
    """One ties with the reference in noisy blocks; the other one ties with it and is faster."""
    world.latency_ms = {"channels_last": 600.0, "fused_qkv": 640.0, "vae_slicing": 990.0}
    world.drift = {"channels_last": lambda count: 0.5, "fused_qkv": lambda count: 0.4}
    results = launched(world)
    unsure, sure = of(results, "channels_last"), of(results, "fused_qkv")
    blocks = {0: [880.0, 870.0, 910.0], unsure.number: [890.0, 630.0, 600.0], sure.number: [670.0, 630.0, 640.0]}
    results = add_blocks(results, blocks)
    unsure, sure = of(results, "channels_last"), of(results, "fused_qkv")
    assert unsure.ties_with("latency_ms", results.reference)
    assert unsure.ties_with("latency_ms", sure)
    assert results.best() is sure


def test_of_ties_what_was_confirmed_is_preferred_to_what_was_measured_once(world: World) -> None:
    world.latency_ms = {"channels_last": 500.0, "fused_qkv": 498.0, "vae_slicing": 900.0}
    world.drift = {"channels_last": lambda count: 0.3, "fused_qkv": lambda count: 0.4}
    results = launched(world)
    confirmed = of(results, "channels_last")
    results = add_blocks(results, {0: [1000.0, 1001.0, 999.0], confirmed.number: [500.0, 501.0, 499.0]})
    confirmed, once = of(results, "channels_last"), of(results, "fused_qkv")
    assert once.ties_with("latency_ms", confirmed)
    assert results.best() is confirmed


def test_where_nothing_is_faster_the_reference_stays(world: World) -> None:
    world.latency_ms = dict.fromkeys(PRESETS, 1001.0)
    results = launched(world)
    assert results.best() is results.reference


def test_all_latencies_are_on_the_scale_of_the_blocks(world: World) -> None:
    world.latency_ms = {"channels_last": 500.0, "fused_qkv": 700.0, "vae_slicing": 900.0}
    results = launched(world)
    finalist = of(results, "channels_last")
    results = add_blocks(results, {0: [1300.0, 1310.0, 1290.0], finalist.number: [600.0, 605.0, 595.0]})
    finalist, other = of(results, "channels_last"), of(results, "fused_qkv")
    assert results.reference.figure("latency_ms") == pytest.approx(1300, abs=1)
    assert finalist.figure("latency_ms") == pytest.approx(600, abs=1)
    for trial in (finalist, other):
        ratio = results.reference.figure("latency_ms") / trial.figure("latency_ms")
        assert trial.speed.times == pytest.approx(ratio)
    # What was not in the blocks has become as much slower as those in them, in the median: 1.3 and 1.2 times.
    assert other.figure("latency_ms") == pytest.approx(700 * 1.25, abs=1)
    assert (finalist.speed.unconfirmed, other.speed.unconfirmed) == (False, True)


def test_a_reference_that_alone_became_faster_makes_no_other_trial_faster(world: World) -> None:
    """It waits for the processor, which has less to do now; a recorded configuration waits for the GPU."""
    world.latency_ms = dict.fromkeys(PRESETS, 500.0)
    results = launched(world)
    first, second, other = (trial for trial in results.complete if not trial.is_reference)
    before_ms = other.figure("latency_ms")
    unchanged = {trial.number: [trial.figure("latency_ms")] * 3 for trial in (first, second)}
    results = add_blocks(results, {0: [800.0, 801.0, 799.0], **unchanged})
    assert results.numbered[other.number].figure("latency_ms") == pytest.approx(before_ms)


def test_trials_are_compared_on_the_pictures_that_all_of_them_have(world: World) -> None:
    """A finalist has more; that its further ones drift more does not make it worse beside those that have none."""
    world.latency_ms = {"channels_last": 500.0, "fused_qkv": 505.0, "vae_slicing": 900.0}
    world.drift = {"channels_last": lambda count: 0.4 if count <= 3 else 1.8, "fused_qkv": lambda count: 0.5}
    quality = {"pictures": {"screen": 3, "front": 3, "finalists": 8}, "reordering_floor": False}
    blocks = {"count": 1, "blocks": 3, "calls": 1, "cold_starts": 0}
    results = launched(world, quality=quality, finalists=blocks)
    finalist, other = of(results, "channels_last"), of(results, "fused_qkv")
    assert (finalist.picture_count, other.picture_count) == (8, 3)
    assert len(results.shared_pictures) == 3
    assert finalist.verdict == "near-lossless", "on all of its pictures"
    assert other.figure("drift") == 0.5


def test_torch_compile_is_found_by_its_configuration(world: World) -> None:
    world.latency_ms = {str(TORCH_COMPILE): 700.0}
    study = world.study("a", [], space=SPACE, torch_compile_baseline=True, budget={"trials": 5})
    results = world.launch(study)
    assert results.torch_compile is not None
    assert results.torch_compile.configuration == TORCH_COMPILE
    assert Results(Records(world.storage), "a").torch_compile is not None
