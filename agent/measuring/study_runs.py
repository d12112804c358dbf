"""The processes of one study: what each is asked to measure, and the run that is stored of it."""

import dataclasses
import shutil
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any

from ...objectives.measuring import Plan
from ...objectives.measuring.stopping import interval_target
from ...search_space import Configuration, apply_source
from ...studies import (
    SCHEMA_VERSION,
    Outcome,
    Records,
    RunKind,
    RunRecord,
    Study,
    utc_now,
    workload_key,
)
from ..results import Results
from ..trial import PICTURES, Job, TrialResult, run_folder, trial_folder
from .picture_choice import picture_names
from .runner import Runner

UNKNOWN_FLOOR_TARGET = 0.02
"""How narrow the median's interval has to be while the noise floor is still being measured."""
LOCAL = "local"


class StudyRuns:
    """What every process of a study has in common."""

    def __init__(self, study: Study, records: Records, runner: Runner, folder: Path, import_s: float) -> None:
        """import_s: what a fresh process pays for its imports; a part of every cold start."""
        self.study = study
        self.records = records
        self.runner = runner
        self.folder = folder
        self.import_s = import_s
        self.workload = study.workload_description()
        self.workload_key = workload_key(study)
        self.versions = {k: v for k, v in runner.fingerprint.packages.items() if v is not None}
        self._target = UNKNOWN_FLOOR_TARGET
        self._results: Results | None = None

    @property
    def results(self) -> Results:
        """What is known now; the study has to be in the database."""
        if self._results is None:
            self._results = Results(self.records, self.study.name)
        return self._results.refresh()

    def know_floor(self, latency_floor: float) -> None:
        """From now on, time calls until the interval of their median is narrow compared with the noise floor."""
        self._target = interval_target(latency_floor)

    def plan(self, **changes: Any) -> Plan:
        """How a trial is measured, with changes."""
        settings = self.study.measurement
        wanted = self.study.quality.pictures.screen
        if not self.study.workload.quality_assessed:
            # With random weights pictures are only checked for being finite, and the timed calls make enough for that.
            wanted = min(wanted, sum(request.batch for request in self.study.requests()))
        usual = Plan(
            calls=settings.calls,
            most_calls=settings.most_calls,
            most_seconds=settings.most_seconds,
            target=self._target,
            warm_up_calls=settings.warm_up_calls,
            pictures=picture_names(self.study, wanted),
        )
        return dataclasses.replace(usual, **changes)

    def timing_plan(self, **changes: Any) -> Plan:
        """How a process is measured that only times: no pictures, no stages."""
        return self.plan(stages=False, pictures=(), **changes)

    def submit_trial(
        self, number: int, configuration: Configuration, front: Sequence[Mapping[str, float]] = ()
    ) -> "Future[TrialResult]":
        """Start measuring a configuration as trial `number`; what it compiled stays in its folder."""
        job = self._job(trial_folder(self.folder, number), configuration, self.plan(), front=front)
        return self.runner.submit(RunKind.TRIAL, job)

    def trial_run(self, number: int, configuration: Configuration, result: TrialResult) -> RunRecord:
        """A trial's result as it is stored."""
        folder = trial_folder(self.folder, number)
        apply_py = apply_source(configuration, self.versions)
        return self._record(RunKind.TRIAL, number, configuration, result, apply_py=apply_py, folder=str(folder))

    def process(
        self,
        kind: RunKind,
        configuration: Configuration,
        plan: Plan,
        *,
        trial: int = 0,
        session: int = 0,
        position: int = 0,
        judge: bool = False,
        known_pictures: Sequence[Mapping[str, Any]] = (),
        compiled: Path | None = None,
        apply_py: str | None = None,
        also: Mapping[str, Any] | None = None,
    ) -> RunRecord:
        """Run a configuration in a process beside the trials. The run is not stored.

        The process's folder stays only when it judges pictures; the caller then takes them and removes it. apply_py:
        instead of the configuration's own. also: further measurements.
        """
        folder = run_folder(self.folder, kind, session, position)
        job = self._job(
            folder,
            configuration,
            plan,
            judge=judge,
            known_pictures=known_pictures,
            compiled=compiled,
            apply_py=apply_py,
        )
        result = self.runner.submit(kind, job).result()
        if not judge:
            shutil.rmtree(folder, ignore_errors=True)
        result = dataclasses.replace(result, measurements={**result.measurements, **(also or {})})
        return self._record(kind, trial, configuration, result, session=session, position=position)

    def run_process(self, kind: RunKind, configuration: Configuration, plan: Plan, **options: Any) -> RunRecord:
        """The same, stored as a run of the study."""
        run = self.process(kind, configuration, plan, **options)
        self.records.add_run(run)
        return run

    def run_cold_start(self, number: int, configuration: Configuration, folder: Path, position: int) -> RunRecord:
        """Start a trial's folder cold, and store the run."""
        deadlines_s = self.study.deadlines_s
        timeout_s = deadlines_s.load + deadlines_s.apply + deadlines_s.first_call
        outcome, reason, measured = self.runner.cold_start(folder, timeout_s)
        result = TrialResult(outcome=outcome, reason=reason, measurements=measured)
        run = self._record(RunKind.COLD_START, number, configuration, result, position=position)
        self.records.add_run(run)
        return run

    def _record(
        self,
        kind: RunKind,
        number: int,
        configuration: Configuration,
        result: TrialResult,
        *,
        session: int = 0,
        position: int = 0,
        apply_py: str = "",
        folder: str = "",
    ) -> RunRecord:
        return RunRecord(
            schema_version=SCHEMA_VERSION,
            kind=kind,
            workload_key=self.workload_key,
            configuration_key=configuration.key,
            configuration=configuration.to_dict(),
            fingerprint_key=self.runner.fingerprint.key,
            worker=LOCAL,
            study=self.study.name,
            trial=number,
            session=session,
            position=position,
            outcome=result.outcome,
            reason=result.reason,
            log_tail=result.log_tail,
            measurements=dict(result.measurements),
            phases_s=dict(result.phases_s),
            apply_py=apply_py,
            folder=folder,
            finished_at=utc_now(),
        )

    def _job(
        self,
        folder: Path,
        configuration: Configuration,
        plan: Plan,
        *,
        judge: bool = True,
        front: Sequence[Mapping[str, float]] = (),
        known_pictures: Sequence[Mapping[str, Any]] = (),
        compiled: Path | None = None,
        apply_py: str | None = None,
    ) -> Job:
        # The reference's own trial, and its further seeds, are what everything else is compared with.
        is_reference = not configuration.steps and apply_py is None
        return Job(
            folder=str(folder),
            device=self.runner.device,
            configuration=configuration.to_dict(),
            apply_py=apply_source(configuration, self.versions) if apply_py is None else apply_py,
            workload=self.workload,
            plan=dataclasses.asdict(plan),
            reference_pictures=None if is_reference else str(self.results.reference.folder / PICTURES),
            quality_assessed=self.study.workload.quality_assessed,
            technique_files=self.study.space.files,
            import_s=self.import_s,
            judge=judge,
            weights={str(name): path for name, path in self.study.quality.weights.items()},
            metric_files=self.study.quality.files,
            known_pictures=[dict(picture) for picture in known_pictures],
            front=[dict(point) for point in front],
            shapes=len({request.shape() for request in self.study.requests()}),
            compiled=None if compiled is None else str(compiled),
        )


def complete(run: RunRecord) -> bool:
    """Whether a run came to its end."""
    return run.outcome == Outcome.COMPLETE
