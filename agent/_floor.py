"""The noise floor of a study, and the canaries that say whether it still holds."""

from collections.abc import Callable
from dataclasses import dataclass

from ..objectives.noise_floor import NoiseFloor
from ..search_space import Configuration
from ..studies import MeasurementRecord, Outcome, RunRecord, UserError
from ._runner import Runner

FLOOR, CANARY, SUPERSEDED = "floor", "canary", "superseded"
CANARY_TRIES = 3
"""By its definition one canary in twenty lies outside the floor; three in a row do not."""


def ensure_floor(runner: Runner, reference: MeasurementRecord, say: Callable[[str], None]) -> NoiseFloor:
    """Measure the unchanged reference in as many fresh processes as the study asks for; answered from the database
    where that was done. The reference's own trial counts as the first. Raises UserError when a process fails.
    """
    study = runner.study
    record = runner.records.study(study.name)
    if record.noise_floor is not None:
        return NoiseFloor.from_dict(record.noise_floor)
    wanted = study.measurement.floor_processes
    measured = [run.measurements for run in runner.records.runs(study.name, FLOOR) if run.outcome == Outcome.COMPLETE]
    while len(measured) < wanted - 1:
        say(f"noise floor, process {len(measured) + 2} of {wanted}")
        measured.append(_reference_again(runner, FLOOR, 0, len(measured)).measurements)
    floor = NoiseFloor.of([reference.measurements, *measured])
    runner.records.update_study(study.name, noise_floor=floor.to_dict())
    return floor


@dataclass(frozen=True)
class CanaryResult:
    """What the reference measured again says."""

    good: bool
    latency_ms: float
    words: str


def canary(runner: Runner, reference: MeasurementRecord, floor: NoiseFloor, after_trials: int) -> CanaryResult:
    """Measure the reference again, up to three times while it lies outside the floor."""
    before = float(reference.measurements["latency_ms"])
    spoken = []
    for attempt in range(CANARY_TRIES):
        now = float(_reference_again(runner, CANARY, after_trials, attempt).measurements["latency_ms"])
        spoken.append(f"{now / before - 1:+.1%}")
        if floor.tie("latency_ms", now, before):
            return CanaryResult(True, now, f"the reference is where it was ({', '.join(spoken)})")
    limit = f"{floor.of_figure('latency_ms'):.1%}"
    return CanaryResult(False, now, f"the reference has moved ({', '.join(spoken)}; its noise floor is {limit})")


def last_good_canary(runs: list[RunRecord], reference_ms: float, floor: NoiseFloor) -> int:
    """After how many measured trials a canary was last inside the floor; 0 when none was."""
    good = [
        run.session
        for run in runs
        if run.outcome == Outcome.COMPLETE and floor.tie("latency_ms", run.measurements["latency_ms"], reference_ms)
    ]
    return max(good, default=0)


def superseded(former: MeasurementRecord, session: int) -> RunRecord:
    """A trial's measurement that another one takes the place of, kept as a run."""
    return RunRecord(
        schema_version=former.schema_version,
        study=former.study,
        kind=SUPERSEDED,
        session=session,
        position=0,
        trial=former.trial,
        configuration_key=former.configuration_key,
        fingerprint_key=former.fingerprint_key,
        outcome=former.outcome,
        reason=former.reason,
        measurements=former.measurements,
        phases_s=former.phases_s,
        finished_at=former.finished_at,
    )


def _reference_again(runner: Runner, kind: str, session: int, position: int) -> RunRecord:
    plan = runner.plan(stages=False, pictures=())
    run = runner.beside(kind, 0, Configuration(), plan, session=session, position=position)
    if run.outcome != Outcome.COMPLETE:
        raise UserError(f"the reference could not be measured again ({run.outcome}): {run.reason}")
    return run
