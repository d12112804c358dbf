"""What a launch does when the machine changes, a process fails, or somebody interrupts: on replayed measurements."""

from pathlib import Path

import optuna
import pytest
from paretune.agent.measuring import finalists
from paretune.agent.results import DoubtKind, Results, headline, study_doubts
from paretune.agent.trial import Job, TrialResult
from paretune.search_space import Configuration
from paretune.studies import Outcome, RunKind
from support.replaying import World, world_in

PRESETS = ["channels_last", "fused_qkv", "deepcache"]
EVERY_3 = {"measurement": {"floor_processes": 3, "canary_every": 3}}
EVERY_1 = {"measurement": {"floor_processes": 3, "canary_every": 1}}
DEEPCACHE = "deepcache(interval=3, branch=0, full_percent=0)"
NEAR = {"limits": {"verdict": "near-lossless"}}
BLOCKS = {"count": 1, "blocks": 3, "calls": 1, "cold_starts": 0}


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    found = world_in(tmp_path, monkeypatch)
    found.latency_ms = {"channels_last": 800.0, "fused_qkv": 700.0, DEEPCACHE: 600.0}
    return found


def latencies(results: Results) -> dict[str, float]:
    return {str(t.configuration): t.figure("latency_ms") for t in results.complete}


def slow_from(world: World, measured: int, until: int = 10**9) -> None:
    """Everything takes 1.3 times as long once so many trials are known, and well again after `until`."""
    world.speed = lambda: 1.3 if measured <= world.measured("a") < until else 1.0


def slow_processes(world: World, times: float, *numbers: int) -> None:
    """The processes of these numbers, counted from 1, take so many times as long."""

    def before(job: Job, kind: str) -> None:
        world.speed = lambda: times if len(world.ran) in numbers else 1.0

    world.before = before


def test_the_reference_is_measured_again_after_so_many_trials(world: World) -> None:
    results = world.launch(world.study("a", PRESETS, **EVERY_3))
    assert [kind for kind, _ in world.ran] == ["trial", *["floor"] * 2, *["trial"] * 3, "canary"]
    assert not any(trial.in_doubt for trial in results.trials)


def test_trials_next_to_a_canary_that_found_the_machine_changed_are_in_doubt(world: World) -> None:
    slow_from(world, 3)  # the reference, and the first two trials
    results = world.launch(world.study("a", PRESETS, **EVERY_1))
    # Checked after each trial: the check after the second one found the reference elsewhere.
    assert [trial.number for trial in results.trials if trial.in_doubt] == [2, 3]
    assert [canary.inside for canary in results.canaries] == [True, False, False]
    (doubt,) = [one for one in study_doubts(results) if one.kind is DoubtKind.MACHINE_MOVED]
    assert doubt.text.startswith("Trials 2, 3 were measured next to a check that found the machine changed")
    assert any("the reference's latency has changed (+30.0%, +30.0%, +30.0%" in note for note in world.notes)


def test_in_doubt_is_worked_out_from_the_canaries_and_nothing_is_measured_again(world: World) -> None:
    slow_from(world, 2, until=3)
    results = world.launch(world.study("a", PRESETS, **EVERY_1))
    assert [kind for kind, _ in world.ran].count("trial") == 4
    assert [canary.inside for canary in results.canaries] == [False, True, True]
    assert [trial.number for trial in results.trials if trial.in_doubt] == [1, 2]


def test_where_the_machine_moved_one_more_candidate_is_confirmed_and_blocks_decide(world: World) -> None:
    slow_from(world, 2, until=4)
    world.memory_gib = {"channels_last": 1.0, "fused_qkv": 1.5}  # all three on the front
    results = world.launch(world.study("a", PRESETS, finalists=BLOCKS, **EVERY_1))
    assert len(finalists(results, 1)) == 2
    assert len(results.blocks) == 3, "the reference and two finalists"
    best = results.best()
    assert (str(best.configuration), best.confirmed) == (DEEPCACHE, True)
    assert best.speed.times == pytest.approx(1000 / 600)


def test_a_reference_that_no_canary_finds_again_is_no_result(world: World) -> None:
    slow_from(world, 4)
    results = world.launch(world.study("a", PRESETS, **EVERY_3))
    assert results.reference_contradicted
    assert headline(results).startswith("There is no result for a: the reference took a different time")
    assert "times as fast" not in headline(results)
    assert study_doubts(results)[0].kind is DoubtKind.REFERENCE_CONTRADICTED


def test_confirmed_in_blocks_it_is_a_result_whatever_the_canaries_said(world: World) -> None:
    slow_from(world, 4)
    results = world.launch(world.study("a", PRESETS, finalists=BLOCKS, **EVERY_3))
    assert headline(results).startswith("1.67 times as fast as the reference (780 ms against 1.30 s; ")


def test_a_check_that_fails_is_a_note_and_takes_nothing_away(world: World) -> None:
    def before(job: Job, kind: str) -> TrialResult | None:
        return TrialResult(outcome=Outcome.TIMEOUT, reason="too slow") if kind == "canary" else None

    world.before = before
    results = world.launch(world.study("a", PRESETS, **EVERY_3))
    assert any("could not be measured again (timeout: too slow)" in note for note in world.notes)
    assert not any(trial.in_doubt for trial in results.trials)
    assert not results.reference_contradicted


def test_a_launch_that_is_continued_looks_at_the_machine_first(world: World) -> None:
    study = world.study("a", PRESETS)
    world.launch(study, trials=2)
    world.ran.clear()
    world.launch(study)
    assert [kind for kind, _ in world.ran] == ["canary", "trial", "trial"]


@pytest.mark.parametrize("outcome", [Outcome.TIMEOUT, Outcome.CRASH, Outcome.INFRASTRUCTURE])
def test_pictures_that_cannot_be_made_cost_nothing_that_was_measured(world: World, outcome: Outcome) -> None:
    world.before = lambda job, kind: TrialResult(outcome=outcome, reason="no") if kind == "pictures" else None
    quality = {"pictures": {"screen": 3, "front": 5, "finalists": 5}, "reordering_floor": False}
    study = world.study("a", PRESETS, quality=quality)
    results = world.launch(study)
    assert {trial.outcome for trial in results.trials} == {Outcome.COMPLETE}
    assert DoubtKind.PICTURES_MISSING in [doubt.kind for doubt in results.trial(3).doubts()]
    world.before = lambda job, kind: None
    best = world.launch(world.study("a", PRESETS, quality=quality, finalists=BLOCKS)).trial(3)
    assert best.picture_count == 5
    assert DoubtKind.PICTURES_MISSING not in [doubt.kind for doubt in best.doubts()]


def test_a_broken_picture_among_more_of_them_is_the_trials_outcome(world: World) -> None:
    def before(job: Job, kind: str) -> TrialResult | None:
        if kind != "pictures" or DEEPCACHE not in str(Configuration.from_dict(job.configuration)):
            return None
        world.before = lambda job, kind: None
        result = world.run(kind, job)
        return TrialResult(
            outcome=Outcome.INVALID_OUTPUT, reason="cat~1-0.png: black", measurements=result.measurements
        )

    world.before = before
    quality = {"pictures": {"screen": 3, "front": 5, "finalists": 5}, "reordering_floor": False}
    results = world.launch(world.study("a", PRESETS, quality=quality))
    broken = next(trial for trial in results.trials if str(trial.configuration) == DEEPCACHE)
    assert (broken.outcome, broken.reason) == (Outcome.INVALID_OUTPUT, "cat~1-0.png: black")
    assert str(results.best().configuration) == "fused_qkv"


def test_what_was_ended_early_counts_once_the_better_one_does_not(world: World) -> None:
    world.latency_ms = {"channels_last": 300.0, "fused_qkv": 600.0}
    world.drift = {"channels_last": lambda count: 0.4 if count <= 3 else 2.6}

    def before(job: Job, kind: str) -> TrialResult | None:
        if kind == "trial" and job.front and "fused_qkv" in str(job.configuration):
            world.before = lambda job, kind: None
            result = world.run(kind, job)
            result.measurements["dominated_by"] = 1
            return result
        return None

    world.before = before
    quality = {"pictures": {"screen": 3, "front": 3, "finalists": 8}, "reordering_floor": False}
    study = world.study("a", ["channels_last", "fused_qkv"], quality=quality, finalists={**BLOCKS, "count": 2}, **NEAR)
    results = world.launch(study)
    best = results.best()
    assert str(best.configuration) == "fused_qkv"
    assert best in results.front
    assert best.picture_count == 8
    assert best.confirmed, "its timing was cut short, so blocks decide"


def test_an_interrupt_among_more_pictures_loses_no_trial_to_the_sampler(world: World) -> None:
    def before(job: Job, kind: str) -> TrialResult | None:
        if kind == "pictures" and Configuration.from_dict(job.configuration).steps and not interrupted:
            interrupted.append(kind)
            raise KeyboardInterrupt
        return None

    interrupted: list[str] = []
    world.before = before
    quality = {"pictures": {"screen": 3, "front": 5, "finalists": 5}, "reordering_floor": False}
    study = world.study("a", PRESETS, quality=quality)
    with pytest.raises(KeyboardInterrupt):
        world.launch(study)
    results = world.launch(study)
    told = optuna.load_study(study_name="a", storage=world.storage).get_trials()
    assert told[1].state is optuna.trial.TrialState.COMPLETE
    assert results.trial(1).picture_count == 5


def test_one_block_that_fails_is_run_again_and_costs_no_other(world: World) -> None:
    failed: list[str] = []

    def before(job: Job, kind: str) -> TrialResult | None:
        if kind == "block" and "channels_last" in str(job.configuration) and len(failed) < 2:
            failed.append(kind)
            return TrialResult(outcome=Outcome.CRASH, reason="once")
        return None

    world.before = before
    world.memory_gib = {"channels_last": 1.0}  # on the front beside the fastest
    study = world.study("a", PRESETS, finalists={**BLOCKS, "count": 2})
    first = world.launch(study)
    assert len(failed) == 2
    assert first.best().confirmation is not None
    again = world.launch(study)
    assert {len(blocks) for blocks in again.blocks.values()} == {3}


def test_confirming_ends_after_its_time_with_three_blocks_at_least(world: World) -> None:
    study = world.study("a", PRESETS, finalists={**BLOCKS, "blocks": 8, "minutes": 1e-9})
    results = world.launch(study)
    assert {len(blocks) for blocks in results.blocks.values()} == {3}


class TestWhatAnotherStudyMeasured:
    def test_is_used_after_a_check(self, world: World) -> None:
        world.launch(world.study("a", PRESETS))
        world.ran.clear()
        results = world.launch(world.study("b", PRESETS))
        assert world.ran == [("canary", "reference")]
        assert all(trial.elsewhere is not None for trial in results.trials)

    def test_is_a_link_and_no_copy(self, world: World) -> None:
        first = world.launch(world.study("a", PRESETS))
        second = world.launch(world.study("b", PRESETS))
        assert [t.timing.id for t in second.trials] == [t.timing.id for t in first.trials]
        assert [t.folder for t in second.trials] == [t.folder for t in first.trials]
        assert not list(Path(second.record.files).glob("trial-*"))

    def test_is_left_where_the_machine_has_moved(self, world: World) -> None:
        world.launch(world.study("a", PRESETS))
        world.speed = lambda: 1.3
        results = world.launch(world.study("b", PRESETS))
        assert not any(trial.elsewhere for trial in results.trials)
        assert latencies(results) == {
            name: pytest.approx(1.3 * ms) for name, ms in {"reference": 1000.0, **world.latency_ms}.items()
        }
        assert not any(trial.in_doubt for trial in results.trials)

    def test_is_left_when_it_is_in_doubt(self, world: World) -> None:
        slow_from(world, 2, until=3)
        world.launch(world.study("a", PRESETS, **EVERY_1))  # trials 1 and 2 are in doubt
        world.speed = lambda: 1.0
        world.ran.clear()
        results = world.launch(world.study("b", PRESETS, **EVERY_1))
        assert [kind for kind, _ in world.ran].count("trial") == 2
        assert results.reference.elsewhere is not None

    def test_is_left_when_the_machine_was_never_again_what_it_had_been(self, world: World) -> None:
        slow_from(world, 4)
        world.launch(world.study("a", PRESETS, **EVERY_3))
        world.speed = lambda: 1.0
        world.ran.clear()
        results = world.launch(world.study("b", PRESETS, **EVERY_3))
        assert [kind for kind, _ in world.ran].count("trial") == 4
        assert not any(trial.elsewhere for trial in results.trials)

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
        pictures = {"screen": 3, "front": 3, "finalists": 3}
        quality = {"pictures": pictures, "reordering_floor": False, "files": ["own.py"]}
        world.launch(world.study("a", PRESETS, quality=quality))
        metric.write_text("METRICS = ()  # another one\n")
        results = world.launch(world.study("b", PRESETS, quality=quality))
        assert not any(trial.elsewhere for trial in results.trials)


def test_a_first_call_that_waited_for_something_is_not_the_references_cold_start(world: World) -> None:
    def before(job: Job, kind: str) -> TrialResult | None:
        world.cold_start_s = 45.0 if kind == "trial" and not Configuration.from_dict(job.configuration).steps else 5.0
        return None

    world.before = before
    assert world.launch(world.study("a", PRESETS)).reference.figure("cold_start_s") == 5.0


def test_one_slow_process_of_the_reference_is_not_its_latency(world: World) -> None:
    slow_processes(world, 12.0, 1)
    results = world.launch(world.study("a", PRESETS, measurement={"floor_processes": 3, "canary_every": 0}))
    assert [kind for kind, _ in world.ran] == ["trial", "floor", "floor", "trial", "trial", "trial"]
    assert results.reference.figure("latency_ms") == 1000.0


def test_on_a_machine_that_is_too_unsteady_that_is_said_once_and_nothing_is_claimed(world: World) -> None:
    slow_processes(world, 12.0, 1)
    world.latency_ms |= {DEEPCACHE: 300.0}
    results = world.launch(world.study("a", PRESETS, measurement={"floor_processes": 3, "canary_every": 0}))
    assert results.unsteady
    assert results.floor is not None
    assert results.floor.text("latency_ms") == "above 30%"
    assert headline(results) == (
        "No configuration of a could be shown to be faster than the reference: what keeps the limits differs from it "
        "by no more than the noise."
    )
    doubts = study_doubts(results)
    assert [doubt.kind for doubt in doubts].count(DoubtKind.UNSTEADY_MACHINE) == 1
    assert doubts[0].text.startswith("This machine was too unsteady to compare single trials")


def test_on_an_unsteady_machine_blocks_may_still_confirm(world: World) -> None:
    slow_processes(world, 12.0, 1)
    measurement = {"floor_processes": 3, "canary_every": 0}
    results = world.launch(world.study("a", PRESETS, measurement=measurement, finalists=BLOCKS))
    assert headline(results).startswith("1.67 times as fast as the reference (600 ms against 1.00 s; ")
    assert results.best().surely_less("latency_ms", results.reference)


def test_on_an_unsteady_machine_the_fastest_is_confirmed_and_not_what_wins_a_tie(world: World) -> None:
    slow_processes(world, 12.0, 1)
    world.latency_ms |= {DEEPCACHE: 900.0, "fused_qkv": 880.0, "channels_last": 860.0}
    world.memory_gib = {"fused_qkv": 1.0}
    results = world.launch(world.study("a", PRESETS, measurement={"floor_processes": 3}, finalists=BLOCKS))
    assert results.unsteady
    fastest = min(results.complete, key=results.alone_ms)
    assert set(results.blocks) == {0, fastest.number}


def test_runs_say_what_they_were_made_for(world: World) -> None:
    results = world.launch(world.study("a", PRESETS, finalists=BLOCKS, **EVERY_3))
    made = {kind: len(results.runs(kind)) for kind in RunKind if results.runs(kind)}
    assert made == {RunKind.TRIAL: 4, RunKind.FLOOR: 2, RunKind.CANARY: 1, RunKind.BLOCK: 6}
