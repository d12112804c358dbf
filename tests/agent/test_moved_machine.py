"""What a launch does when the machine changes, a process fails, or somebody interrupts: on replayed measurements."""

from pathlib import Path

import optuna
import pytest
from paretune.agent.results.doubts import shortfall
from paretune.agent.results.results import Results
from paretune.agent.results.summary import gain
from paretune.agent.trial.executor import TrialResult
from paretune.agent.trial.process import Job
from paretune.search_space import Configuration
from paretune.studies import Outcome, Records
from support.replaying import World, world_in

PRESETS = ["channels_last", "fused_qkv", "deepcache"]
EVERY_3 = {"measurement": {"floor_processes": 3, "canary_every": 3}}
DEEPCACHE = "deepcache(interval=3, branch=0, full_percent=0)"
NEAR = {"limits": {"verdict": "near-lossless"}}


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    found = world_in(tmp_path, monkeypatch)
    found.latency_ms = {"channels_last": 800.0, "fused_qkv": 700.0, DEEPCACHE: 600.0}
    return found


def latencies(results: Results) -> dict[str, float]:
    return {str(t.configuration): t.figure("latency_ms") for t in results.complete}


def slow_processes(world: World, times: float, *numbers: int) -> None:
    """The processes of these numbers, counted from 1, take so many times as long."""

    def before(job: Job, kind: str) -> None:
        world.speed = lambda: times if len(world.ran) in numbers else 1.0

    world.before = before


def test_a_steady_machine_is_checked_at_the_end(world: World) -> None:
    results = world.launch(world.study("a", PRESETS))
    assert [kind for kind, _ in world.ran] == ["trial", *["floor"] * 4, *["trial"] * 3, "canary"]
    assert {trial.machine for trial in results.trials} == {"steady"}


def test_what_was_measured_on_a_moved_machine_is_measured_again_when_it_is_back(world: World) -> None:
    slow = {"now": False}
    world.speed = lambda: 1.3 if slow["now"] else 1.0

    def before(job: Job, kind: str) -> None:
        # Slow from the second technique on, through the check that follows the third; well again at the next one.
        if kind == "trial":
            slow["now"] = world.measured("a") >= 2 and not world.notes
        if kind == "canary" and world.notes:
            slow["now"] = False

    world.before = before
    results = world.launch(world.study("a", PRESETS, **EVERY_3))
    assert latencies(results) == {"reference": 1000.0, "channels_last": 800.0, "fused_qkv": 700.0, DEEPCACHE: 600.0}
    assert {trial.machine for trial in results.trials} == {"steady"}
    assert len(results.runs("superseded")) == 3
    assert all(trial.pictures() for trial in results.trials)


def test_what_stays_in_doubt_is_said(world: World) -> None:
    world.speed = lambda: 1.3 if world.measured("a") >= 2 else 1.0
    results = world.launch(world.study("a", PRESETS))
    assert [t.number for t in results.trials if t.machine == "moved"] == [1, 2, 3]
    assert not results.runs("superseded")
    assert any("the reference has moved (+30.0%, +30.0%, +30.0%" in note for note in world.notes)


def test_a_launch_killed_while_it_measures_again_goes_on_with_it(world: World) -> None:
    moved = {"until": 1}  # canaries that find the reference elsewhere

    def before(job: Job, kind: str) -> TrialResult | None:
        sessions = {run.session for run in Records(world.storage).runs("a", "canary")} if kind == "canary" else set()
        world.speed = lambda: 1.3 if kind == "canary" and len(sessions) <= moved["until"] and not world.notes else 1.0
        if kind == "again" and sum(k == "again" for k, _ in world.ran) == 2:
            raise KeyboardInterrupt
        return None

    world.before = before
    study = world.study("a", PRESETS, **EVERY_3)
    with pytest.raises(KeyboardInterrupt):
        world.launch(study)
    results = world.launch(study)
    assert sorted(run.trial for run in results.runs("superseded")) == [1, 2, 3]
    assert {trial.machine for trial in results.trials} == {"steady"}
    assert all(len(trial.pictures()) == 3 for trial in results.trials)


def test_a_check_that_fails_is_a_note_and_is_made_again(world: World) -> None:
    failed: list[str] = []

    def before(job: Job, kind: str) -> TrialResult | None:
        if kind == "canary" and not failed:
            failed.append(kind)
            return TrialResult(outcome=Outcome.TIMEOUT, reason="too slow")
        return None

    world.before = before
    results = world.launch(world.study("a", PRESETS))
    assert any("could not be measured again (timeout: too slow)" in note for note in world.notes)
    assert {trial.machine for trial in results.trials} == {"steady"}


def test_measuring_again_keeps_the_verdict_on_more_pictures(world: World) -> None:
    world.drift = {"channels_last": lambda count: 2.5 if count > 3 else 0.5}
    moved = {"canaries": 0}

    def before(job: Job, kind: str) -> None:
        moved["canaries"] += kind == "canary"
        world.speed = lambda: 1.3 if kind == "canary" and moved["canaries"] <= 3 else 1.0

    world.before = before
    quality = {"pictures": {"screen": 3, "front": 8, "finalists": 8}, "benign_floor": False}
    results = world.launch(world.study("a", ["channels_last"], quality=quality, **NEAR))
    again = results.trial(1)
    assert [run.trial for run in results.runs("superseded")] == [1]
    assert again.measurements["quality"]["n"] == 8
    assert not results.acceptable(again)


@pytest.mark.parametrize("outcome", [Outcome.TIMEOUT, Outcome.CRASH, Outcome.INFRASTRUCTURE])
def test_pictures_that_cannot_be_made_cost_nothing_that_was_measured(world: World, outcome: Outcome) -> None:
    world.before = lambda job, kind: TrialResult(outcome=outcome, reason="no") if kind == "pictures" else None
    quality = {"pictures": {"screen": 3, "front": 5, "finalists": 5}, "benign_floor": False}
    study = world.study("a", PRESETS, quality=quality)
    results = world.launch(study)
    assert {trial.outcome for trial in results.trials} == {Outcome.COMPLETE}
    assert results.trial(3).measurements["pictures_missing"]["wanted"] == 5
    world.before = lambda job, kind: None
    finalists = world.study("a", PRESETS, quality=quality, finalists={"count": 1, "blocks": 3, "cold_starts": 0})
    best = world.launch(finalists).trial(3)
    assert best.measurements["quality"]["n"] == 5
    assert "pictures_missing" not in best.measurements


def test_what_was_ended_early_counts_once_the_better_one_does_not(world: World) -> None:
    world.latency_ms = {"channels_last": 300.0, "fused_qkv": 600.0}
    world.drift = {"channels_last": lambda count: 0.4 if count <= 3 else 2.6}

    def before(job: Job, kind: str) -> TrialResult | None:
        if kind == "trial" and job.front and "fused_qkv" in str(job.configuration):
            world.before = lambda job, kind: None
            result = world.run(job)
            result.measurements["dominated_by"] = 1
            return result
        return None

    world.before = before
    quality = {"pictures": {"screen": 3, "front": 3, "finalists": 8}, "benign_floor": False}
    finalists = {"count": 2, "blocks": 3, "calls": 1, "cold_starts": 0}
    study = world.study("a", ["channels_last", "fused_qkv"], quality=quality, finalists=finalists, **NEAR)
    results = world.launch(study)
    best = results.best()
    assert str(best.configuration) == "fused_qkv"
    assert "dominated_by" not in best.measurements
    assert best.number in {trial.number for trial in results.front()}
    assert best.measurements["quality"]["n"] == 8
    assert results.confirmed(results.reference, best) is not None


def test_an_interrupt_among_more_pictures_loses_no_trial_to_the_sampler(world: World) -> None:
    def before(job: Job, kind: str) -> TrialResult | None:
        if kind == "pictures" and Configuration.from_dict(job.configuration).steps and not interrupted:
            interrupted.append(kind)
            raise KeyboardInterrupt
        return None

    interrupted: list[str] = []
    world.before = before
    quality = {"pictures": {"screen": 3, "front": 5, "finalists": 5}, "benign_floor": False}
    study = world.study("a", PRESETS, quality=quality)
    with pytest.raises(KeyboardInterrupt):
        world.launch(study)
    results = world.launch(study)
    told = optuna.load_study(study_name="a", storage=world.storage).get_trials()
    assert told[1].state is optuna.trial.TrialState.COMPLETE
    assert results.trial(1).measurements["quality"]["n"] == 5


def test_one_block_that_fails_is_run_again_and_costs_no_other(world: World) -> None:
    failed: list[str] = []

    def before(job: Job, kind: str) -> TrialResult | None:
        if kind == "block" and "channels_last" in str(job.configuration) and len(failed) < 2:
            failed.append(kind)
            return TrialResult(outcome=Outcome.CRASH, reason="once")
        return None

    world.before = before
    world.memory_gib = {"channels_last": 1.0}  # on the front beside the fastest
    finalists = {"count": 2, "blocks": 3, "calls": 1, "cold_starts": 0}
    study = world.study("a", PRESETS, finalists=finalists)
    first = world.launch(study)
    assert len(failed) == 2
    assert first.confirmed(first.reference, first.best()) is not None
    again = world.launch(study)
    assert {len(blocks) for blocks in again.blocks.values()} == {3}


def test_confirming_ends_after_its_time_with_three_blocks_at_least(world: World) -> None:
    finalists = {"count": 1, "blocks": 8, "calls": 1, "cold_starts": 0, "minutes": 1e-9}
    results = world.launch(world.study("a", PRESETS, finalists=finalists))
    assert {len(blocks) for blocks in results.blocks.values()} == {3}


class TestWhatAnotherStudyMeasured:
    def test_is_taken_over_after_a_check(self, world: World) -> None:
        world.launch(world.study("a", PRESETS))
        world.ran.clear()
        results = world.launch(world.study("b", PRESETS))
        assert world.ran == [("canary", "reference")]
        assert all(trial.reused_from for trial in results.trials)

    def test_is_left_where_the_machine_has_moved(self, world: World) -> None:
        world.launch(world.study("a", PRESETS))
        world.speed = lambda: 1.3
        results = world.launch(world.study("b", PRESETS))
        assert not any(trial.reused_from for trial in results.trials)
        assert latencies(results) == {
            name: pytest.approx(1.3 * ms) for name, ms in {"reference": 1000.0, **world.latency_ms}.items()
        }
        assert {trial.machine for trial in results.trials} == {"steady"}

    def test_is_left_when_it_was_out_of_memory(self, world: World) -> None:
        def before(job: Job, kind: str) -> TrialResult | None:
            full = kind == "trial" and "deepcache" in str(job.configuration)
            return TrialResult(outcome=Outcome.OOM, reason="4 GiB") if full else None

        world.before = before
        world.launch(world.study("a", PRESETS))
        world.before = lambda job, kind: None
        results = world.launch(world.study("b", PRESETS, host_memory_gib=64))
        assert results.trial(3).complete

    def test_is_left_when_the_metric_was_edited(self, world: World) -> None:
        metric = world.folder / "own.py"
        metric.write_text("METRICS = ()\n")
        quality = {"pictures": {"screen": 3, "front": 3, "finalists": 3}, "benign_floor": False, "files": ["own.py"]}
        world.launch(world.study("a", PRESETS, quality=quality))
        metric.write_text("METRICS = ()  # another one\n")
        results = world.launch(world.study("b", PRESETS, quality=quality))
        assert not any(trial.reused_from for trial in results.trials)


def test_a_first_call_that_waited_for_something_is_not_the_references_cold_start(world: World) -> None:
    def before(job: Job, kind: str) -> TrialResult | None:
        world.cold_start_s = 45.0 if kind == "trial" and not Configuration.from_dict(job.configuration).steps else 5.0
        return None

    world.before = before
    assert world.launch(world.study("a", PRESETS)).reference.figure("cold_start_s") == 5.0


def test_a_disturbed_reference_is_measured_again_before_anything_else(world: World) -> None:
    slow_processes(world, 12.0, 1, 3)
    results = world.launch(world.study("a", PRESETS, **EVERY_3))
    assert [kind for kind, _ in world.ran[:7]] == ["trial", "floor", "floor", "again", "floor", "floor", "trial"]
    assert results.reference.figure("latency_ms") == 1000.0
    assert results.floor is not None
    assert results.floor.of_figure("latency_ms") < 0.01
    assert any("12.0 times as long in one process as in another" in note for note in world.notes)
    assert "1.67 times as fast as the reference" in gain(results)


def test_a_floor_that_few_processes_leave_wide_gets_more_of_them(world: World) -> None:
    slow_processes(world, 1.3, 1)
    results = world.launch(world.study("a", PRESETS, **EVERY_3))
    assert [kind for kind, _ in world.ran[:7]] == ["trial", *["floor"] * 5, "trial"]
    assert results.floor is not None
    assert results.floor.processes == 6
    assert results.floor.of_figure("latency_ms") < 0.5


def test_a_study_may_ask_for_one_round_only(world: World) -> None:
    slow_processes(world, 12.0, 1)
    measurement = {"measurement": {"floor_processes": 3, "floor_rounds": 1, "canary_every": 0}}
    results = world.launch(world.study("a", PRESETS, **measurement))
    assert [kind for kind, _ in world.ran[:4]] == ["trial", "floor", "floor", "trial"]
    assert results.floor is not None
    assert results.floor.of_figure("latency_ms") > 0.5


def test_on_a_machine_that_stays_disturbed_nothing_is_called_slower_or_faster(world: World) -> None:
    processes = {"run": 0}

    def before(job: Job, kind: str) -> None:
        processes["run"] += 1
        world.speed = lambda: 12.0 if kind in ("again", "floor") and processes["run"] % 2 else 1.0

    world.before = before
    world.latency_ms |= {DEEPCACHE: 300.0}
    measurement = {"measurement": {"floor_processes": 3, "canary_every": 0}}
    results = world.launch(world.study("a", PRESETS, **measurement))
    assert results.floor is not None
    floor = f"{results.floor.of_figure('latency_ms'):.1%}"
    assert gain(results) == (
        "No configuration of a could be shown to be faster than the reference: what keeps the limits differs from it "
        f"by less than the noise floor of {floor}."
    )
    assert shortfall(results) == (
        "3 configurations that keep the limits took two thirds of the reference's time or less, which on a machine as "
        "unsteady as this proves nothing: measure again when nothing else runs on it, under another --name."
    )
