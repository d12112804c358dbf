"""More pictures of a configuration that may be chosen: a verdict on a few pictures is a weak promise."""

import shutil
from pathlib import Path

from ...search_space import Configuration
from ...studies import MeasurementRecord, Outcome
from ..trial.folder import COMPILED, LATENTS, PICTURES, run_folder, trial_folder
from .runner import Runner, picture_names

KIND = "pictures"


def judge_more(runner: Runner, trial: int, count: int) -> MeasurementRecord:
    """Make and judge the pictures of a trial that are missing up to `count`, the reference's first.

    A configuration that makes a broken picture takes on that outcome. A failure of another kind may be the machine's:
    what was known stays, with a note of it. Returns what is known then.
    """
    record = _record(runner, trial)
    missing = _missing(runner, record, count)
    if not missing or not runner.study.workload.quality_assessed or record.outcome != Outcome.COMPLETE:
        return record
    if trial != 0:
        judge_more(runner, 0, count)
    run = runner.beside(
        KIND,
        trial,
        Configuration.from_dict(record.configuration),
        runner.plan(measure=False, memory=False, stages=False, warm_up_calls=1, pictures=missing),
        session=count,
        position=trial,
        judge=True,
        known_pictures=record.measurements["quality"]["pictures"],
        compiled=trial_folder(runner.folder, trial) / COMPILED,
    )
    folder = run_folder(runner.folder, KIND, count, trial)
    quality = run.measurements.get("quality")
    if quality is None:
        note = {"wanted": count, "outcome": run.outcome, "reason": run.reason}
        runner.records.update_measurement(
            runner.study.name, trial, measurements={**record.measurements, "pictures_missing": note}
        )
    else:
        for kept in (PICTURES, LATENTS):
            _move_files(folder / kept, trial_folder(runner.folder, trial) / kept)
        known = {name: value for name, value in record.measurements.items() if name != "pictures_missing"}
        # The reference stays what everything is compared with, whatever its other seeds look like.
        ended = {} if trial == 0 else {"outcome": run.outcome, "reason": run.reason}
        runner.records.update_measurement(
            runner.study.name,
            trial,
            measurements={**known, "quality": quality, "drift": quality["drift"]},
            **ended,
        )
    shutil.rmtree(folder, ignore_errors=True)
    return _record(runner, trial)


def _record(runner: Runner, trial: int) -> MeasurementRecord:
    return next(m for m in runner.records.measurements(runner.study.name) if m.trial == trial)


def _missing(runner: Runner, record: MeasurementRecord, count: int) -> tuple[str, ...]:
    judged = {picture["request"] for picture in record.measurements.get("quality", {}).get("pictures", [])}
    return tuple(name for name in picture_names(runner.study, count) if name not in judged)


def _move_files(source: Path, target: Path) -> None:
    if not source.is_dir():
        return
    target.mkdir(exist_ok=True)
    for file in source.iterdir():
        file.replace(target / file.name)
