"""Measures a trial again: its figures are renewed, its pictures and the verdict on them stay."""

from ...search_space import Configuration
from ...studies import MeasurementRecord, Outcome, RunRecord, utc_now
from ...studies._records import UNCHECKED
from ..trial.folder import COMPILED, trial_folder
from .more_pictures import judge_more
from .runner import Runner

AGAIN, SUPERSEDED = "again", "superseded"
RENEWED = (
    "latency_ms",
    "latency_per_image_ms",
    "latency",
    "energy_j",
    "machine",
    "repeat_max_difference",
    "memory",
    "peak_vram_gib",
    "stages",
)
"""Not the cold start: what was compiled then is there now."""


def measure_again(runner: Runner, former: MeasurementRecord, session: int) -> MeasurementRecord | None:
    """Time a complete trial once more, to the end; the former measurement is kept as a run.

    None when it failed this time: then what was known stays.
    """
    configuration = Configuration.from_dict(former.configuration)
    run = runner.beside(
        AGAIN,
        former.trial,
        configuration,
        runner.plan(pictures=()),
        session=session,
        position=former.trial,
        compiled=trial_folder(runner.folder, former.trial) / COMPILED,
    )
    if run.outcome != Outcome.COMPLETE:
        return None
    renewed = {name: run.measurements[name] for name in RENEWED if name in run.measurements}
    kept = {name: value for name, value in former.measurements.items() if name != "dominated_by"}
    now = former.changed(measurements={**kept, **renewed}, finished_at=utc_now(), reused_from=None, machine=UNCHECKED)
    runner.records.replace_measurement(now, superseded(former, session))
    # One that was ended early has fewer pictures.
    return judge_more(runner, former.trial, runner.study.quality.pictures.screen)


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
