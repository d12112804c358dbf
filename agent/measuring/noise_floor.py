"""The noise floor of a study, and the canaries that say whether it still holds."""

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ...objectives.noise_floor import NoiseFloor, relative_difference
from ...search_space import Configuration
from ...studies import Outcome, RunRecord, UserError
from ...studies._records import STEADY
from .remeasure import measure_again
from .runner import Runner

FLOOR, CANARY = "floor", "canary"
CANARY_PAUSES_S = (0.0, 5.0, 20.0)
"""Before each try. By its definition one canary in twenty lies outside the floor; three in a row mean something, and a
disturbance of a few seconds is over by then."""
DISTURBED = 0.5
"""Processes of the reference that differ by more than this were disturbed, and tell nothing of the pipeline."""
WIDE = 0.5
"""A floor above this is due to how few processes there are as much as to how they differ: more are measured."""


def ensure_floor(runner: Runner, say: Callable[[str], None], note: Callable[[str], None]) -> NoiseFloor:
    """Measure the unchanged reference in as many fresh processes as the study asks for, up to twice as many where that
    leaves a wide floor; answered from the database where it was done. The reference's own trial counts as the first.
    While they were disturbed, all of it is measured again: `measurement.floor_rounds` times in all, at most.

    say: told what is measured next; note: what was found. Raises UserError when a process fails.
    """
    study = runner.study
    record = runner.records.study(study.name)
    if record.noise_floor is not None:
        return NoiseFloor.from_dict(record.noise_floor)
    begun = max((run.session for run in runner.records.runs(study.name, FLOOR)), default=0)
    rounds = max(study.measurement.floor_rounds, begun + 1)
    for round_ in range(begun, rounds):
        reference = runner.reference()
        wanted = study.measurement.floor_processes
        measured = _round(runner, round_, wanted, say)
        floor = NoiseFloor.of([reference.measurements, *measured])
        while floor.of_figure("latency_ms") > WIDE and not _disturbed(floor) and floor.processes < 2 * wanted:
            measured = _round(runner, round_, floor.processes + 1, say)
            floor = NoiseFloor.of([reference.measurements, *measured])
        if not _disturbed(floor):
            break
        words = f"the reference took {1 + _apart(floor):.1f} times as long in one process as in another"
        if round_ == rounds - 1:
            note(f"{words}: on a machine as unsteady as this little can be told")
            break
        note(f"{words}: it is measured again")
        if measure_again(runner, reference, session=round_) is None:
            raise UserError("the reference could not be measured again: the database keeps the reason as a run")
    # One first call may have waited for anything; every other trial's cold start is compared with this one.
    cold_start_s = statistics.median(one["cold_start_s"] for one in (reference.measurements, *measured))
    known = {**reference.measurements, "cold_start_s": cold_start_s}
    runner.records.update_measurement(study.name, reference.trial, measurements=known)
    runner.records.update_study(study.name, noise_floor=floor.to_dict())
    runner.records.settle_machine(study.name, STEADY)
    return floor


def _apart(floor: NoiseFloor) -> float:
    latencies_ms = floor.values["latency_ms"]
    return relative_difference(min(latencies_ms), max(latencies_ms))


def _disturbed(floor: NoiseFloor) -> bool:
    return _apart(floor) > DISTURBED


def _round(runner: Runner, round_: int, wanted: int, say: Callable[[str], None]) -> Sequence[Mapping[str, Any]]:
    """What the processes beside the reference's own trial measured; those that an interrupted launch has are used."""
    runs = [run for run in runner.records.runs(runner.study.name, FLOOR) if run.session == round_]
    measured = [run.measurements for run in runs if run.outcome == Outcome.COMPLETE]
    while len(measured) < wanted - 1:
        say(f"noise floor, process {len(measured) + 2} of {wanted}")
        run = _reference_again(runner, FLOOR, round_, len(measured))
        if run.outcome != Outcome.COMPLETE:
            raise UserError(f"the reference could not be measured again ({run.outcome}): {run.reason}")
        measured.append(run.measurements)
    return measured


@dataclass(frozen=True)
class CanaryResult:
    """What the reference measured again says."""

    good: bool | None
    """None when it could not be measured."""
    words: str


def canary(runner: Runner, floor: NoiseFloor, after_trials: int) -> CanaryResult:
    """Measure the reference again, several times while it lies outside the floor."""
    before_ms = floor.middle("latency_ms")
    tried = [run for run in runner.records.runs(runner.study.name, CANARY) if run.session == after_trials]
    spoken = []
    for attempt, pause_s in enumerate(CANARY_PAUSES_S):
        time.sleep(pause_s)
        run = _reference_again(runner, CANARY, after_trials, len(tried) + attempt)
        if run.outcome != Outcome.COMPLETE:
            return CanaryResult(None, f"the reference could not be measured again ({run.outcome}: {run.reason})")
        now_ms = float(run.measurements["latency_ms"])
        spoken.append(f"{now_ms / before_ms - 1:+.1%}")
        if floor.holds("latency_ms", now_ms):
            return CanaryResult(True, f"the reference is where it was ({', '.join(spoken)})")
    limit = f"{floor.of_figure('latency_ms'):.1%}"
    return CanaryResult(False, f"the reference has moved ({', '.join(spoken)}; its noise floor is {limit})")


def _reference_again(runner: Runner, kind: str, session: int, position: int) -> RunRecord:
    plan = runner.plan(stages=False, pictures=())
    return runner.beside(kind, 0, Configuration(), plan, session=session, position=position)
