"""Measurements that another study of the same database made: used again, with their age, instead of being repeated."""

import shutil
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ...search_space import Configuration, apply_source
from ...studies import MeasurementRecord, Outcome, Study, StudyRecord
from ...studies._records import SCHEMA_VERSION, STEADY
from ..measuring.runner import Runner
from ..trial.folder import PICTURES, trial_folder

TEACHING = (Outcome.COMPLETE, Outcome.COMPILE_ERROR, Outcome.APPLY_ERROR, Outcome.UNSUPPORTED)
"""Outcomes that would be the same again. A timeout or a crash may have been the machine's, and how much memory there is
depends on the study's limits and on other programs."""


def age_words(finished_at: str, now: datetime | None = None) -> str:
    """ "3 hours old", from an ISO 8601 time."""
    seconds = ((now or datetime.now(UTC)) - datetime.fromisoformat(finished_at)).total_seconds()
    for unit, length_s in (("day", 86400), ("hour", 3600), ("minute", 60)):
        if seconds >= length_s:
            count = int(seconds // length_s)
            return f"{count} {unit}{'s' if count > 1 else ''} old"
    return "less than a minute old"


def reference_elsewhere(runner: Runner) -> tuple[StudyRecord, MeasurementRecord] | None:
    """The newest study whose reference, noise floor included, stands for this study's too; None when there is none."""
    for record in runner.records.studies()[::-1]:
        if record.name == runner.study.name or record.noise_floor is None or not _same_ways(record, runner.study):
            continue
        known = runner.records.find_measurement(record.name, Configuration().key)
        if known is None or known.workload_key != runner.workload_key:
            continue
        if known.fingerprint_key == runner.executor.fingerprint.key and _usable(runner, record, known):
            return record, known
    return None


def measured_elsewhere(
    runner: Runner, configuration: Configuration, reference: MeasurementRecord
) -> tuple[StudyRecord, MeasurementRecord] | None:
    """(study, measurement) of a configuration that was measured against the same reference; None when there is none."""
    origin = _origin(reference)
    for known in runner.records.elsewhere(runner.workload_key, configuration.key, runner.executor.fingerprint.key):
        record = runner.records.find_study(known.study)
        if record is None or record.name == runner.study.name or not _same_ways(record, runner.study):
            continue
        its_reference = runner.records.find_measurement(known.study, Configuration().key)
        if its_reference is None or _origin(its_reference) != origin or not _usable(runner, record, known):
            continue
        return record, known
    return None


def take(runner: Runner, record: StudyRecord, known: MeasurementRecord, number: int) -> MeasurementRecord:
    """Copy a measurement of another study, its folder with the pictures included, as trial `number` of this one."""
    source = trial_folder(Path(record.files), known.trial)
    folder = trial_folder(runner.folder, number)
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(source, folder, ignore=shutil.ignore_patterns("compiled"))
    origin = known.reused_from or {"study": known.study, "trial": known.trial, "finished_at": known.finished_at}
    return known.changed(study=runner.study.name, trial=number, reused_from=origin)


def _origin(measured: MeasurementRecord) -> dict[str, Any]:
    """Where and when something was measured in truth."""
    own = {"study": measured.study, "trial": measured.trial, "finished_at": measured.finished_at}
    return measured.reused_from or own


def _same_ways(record: StudyRecord, study: Study) -> bool:
    """Whether another study measured and judged in the same ways."""
    try:
        other = Study.model_validate(record.study)
    except ValueError:
        return False  # of another version
    return other.measurement == study.measurement and other.quality == study.quality


def _usable(runner: Runner, record: StudyRecord, known: MeasurementRecord) -> bool:
    """Whether its outcome would be the same, the techniques are written the same, and its files are still there."""
    if Outcome(known.outcome) not in TEACHING or known.schema_version != SCHEMA_VERSION:
        return False
    # What was ended early was so beside that study's trials and limits.
    if known.outcome == Outcome.COMPLETE and (not _trusted(runner, known) or "dominated_by" in known.measurements):
        return False
    try:
        now = apply_source(Configuration.from_dict(known.configuration), runner.versions)
    except ValueError:
        return False
    files = trial_folder(Path(record.files), known.trial)
    return known.apply_py == now and (known.outcome != Outcome.COMPLETE or (files / PICTURES).is_dir())


def _trusted(runner: Runner, known: MeasurementRecord) -> bool:
    """Whether canaries vouch for it; in studies without them nothing does."""
    return known.machine == STEADY or runner.study.measurement.canary_every == 0
