"""Uses what other studies in the database have measured of the same workload on this machine."""

from ...objectives.noise_floor import NoiseFloor
from ...search_space import Configuration, apply_source
from ...studies import Outcome, RunKind, RunRecord, UserError
from ..measuring import StudyRuns
from ..results import Results, Trial
from ..trial import PICTURES

TEACHING = (Outcome.COMPLETE, Outcome.COMPILE_ERROR, Outcome.APPLY_ERROR, Outcome.UNSUPPORTED)
"""Outcomes that would be the same again. A timeout or a crash may have been the machine's fault, and the memory there
is depends on the study's limits and on other programs."""
_OF_A_TRIAL = (RunKind.TRIAL, RunKind.PICTURES, RunKind.REJUDGE, RunKind.COLD_START)
_OF_A_REFERENCE = (*_OF_A_TRIAL, RunKind.FLOOR, RunKind.REORDERING)


def runs_of(trial: Trial) -> list[RunRecord]:
    """The runs that another study needs to use a trial; of a reference, those of its noise floor too."""
    kinds = _OF_A_REFERENCE if trial.is_reference else _OF_A_TRIAL
    found = [run for kind in kinds for run in trial.runs(kind)]
    return sorted(found, key=lambda run: run.id)


def reference_elsewhere(runs: StudyRuns) -> tuple[Trial, NoiseFloor] | None:
    """The newest reference, its noise floor included, that stands for this study's too; None when there is none."""
    for results in _comparable(runs)[::-1]:
        if results.unsteady or results.reference_contradicted:
            continue  # its users are told to measure again
        reference = results.of(Configuration())
        if reference is not None and _usable(runs, reference) and results.floor is not None:
            return reference, results.floor
    return None


class Elsewhere:
    """The trials of other studies that were measured against the same reference."""

    def __init__(self, runs: StudyRuns) -> None:
        self._runs = runs
        own = runs.results.reference.timing.id
        self._others = [results for results in _comparable(runs) if results.reference.timing.id == own]

    def find(self, configuration: Configuration) -> Trial | None:
        """The newest trial of a configuration that can be used here."""
        for results in self._others[::-1]:
            try:
                trial = results.refresh().of(configuration)
            except UserError:
                continue  # measured meanwhile by another version
            if trial is not None and _usable(self._runs, trial):
                return trial
        return None


def _comparable(runs: StudyRuns) -> list[Results]:
    """The other studies of this workload and machine that measured and judged in the same ways, oldest first."""
    found = []
    for name in runs.records.study_names():
        if name == runs.study.name:
            continue
        try:
            record = runs.records.study(name)
            if record.workload_key != runs.workload_key or record.fingerprint != runs.runner.fingerprint.to_dict():
                continue
            other = Results(runs.records, name)
            other.reference  # noqa: B018 - reads every trial, so that what cannot be read shows here
        except UserError:
            continue  # of another version, or without its own techniques' file
        if other.study.measurement == runs.study.measurement and other.study.quality == runs.study.quality:
            found.append(other)
    return found


def _usable(runs: StudyRuns, trial: Trial) -> bool:
    """Whether its outcome would be the same, its techniques have not changed, and its files are still there."""
    if trial.outcome not in TEACHING:
        return False
    # Ending early depended on that study's trials and limits.
    if trial.complete and (trial.in_doubt or trial.ended_early_by is not None):
        return False
    if trial.timing.apply_py != apply_source(trial.configuration, runs.versions):
        return False
    return not trial.complete or (trial.pictures_folder / PICTURES).is_dir()
