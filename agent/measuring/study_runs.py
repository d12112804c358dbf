"""The processes of one study: what each is asked to measure, and the run that is stored of it."""

import dataclasses
import shutil
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement

from ...objectives.measuring import Plan
from ...objectives.measuring.stopping import interval_target
from ...search_space import Configuration, apply_source, technique
from ...studies import Outcome, Records, RunKind, RunRecord, Study, UserError, picture_names, workload_key
from ..results import Results
from ..trial import PICTURES, Job, TrialResult, finished_trial, run_folder, trial_folder
from .runner import FILES_GONE, Runner

UNKNOWN_FLOOR_TARGET = 0.02
"""How narrow the median's interval has to be while the noise floor is still being measured."""


@dataclass(frozen=True)
class Begun:
    """A process beside the trials that was started."""

    future: "Future[TrialResult]"
    _end: Callable[[TrialResult], RunRecord]

    def run(self) -> RunRecord:
        """Wait for it. The run is not stored."""
        return self._end(self.future.result())


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

    @property
    def is_whole(self) -> bool:
        """Whether the database still has all runs that this launch has seen there: nothing of ours deletes any."""
        return self._results is None or self._results.is_whole

    def know_floor(self, latency_floor: float | None) -> None:
        """From now on, time calls until the interval of their median is narrow compared with the noise floor; None when
        it is not known after all.
        """
        self._target = UNKNOWN_FLOOR_TARGET if latency_floor is None else interval_target(latency_floor)

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
        # The reference is called twice before anything else: what does not repeat itself is not measured at all.
        calls = max(self.study.measurement.warm_up_calls, 1 if configuration.steps else 2)
        plan = self.plan(warm_up_calls=calls)
        job = self._job(trial_folder(self.folder, number), configuration, plan, front=[*map(dict, front)])
        return self.runner.submit(RunKind.TRIAL, job)

    def trial_run(self, number: int, configuration: Configuration, result: TrialResult, **also: Any) -> RunRecord:
        """A trial's result as it is stored. also: other fields of the run."""
        apply_py = apply_source(configuration, self.versions)
        folder = str(trial_folder(self.folder, number))
        return self._record(
            RunKind.TRIAL, configuration, result, trial=number, apply_py=apply_py, folder=folder, **also
        )

    def finished_trial(self, number: int) -> RunRecord | None:
        """The run of a trial that an earlier launch measured and could not store any more."""
        folder = trial_folder(self.folder, number)
        try:
            configuration = Configuration.from_yaml((folder / "configuration.yaml").read_text())
        except (OSError, ValueError):
            return None
        found = finished_trial(folder, apply_source(configuration, self.versions))
        return None if found is None else self.trial_run(number, configuration, found[0], finished_at=found[1])

    def process(self, kind: RunKind, configuration: Configuration, plan: Plan, **options: Any) -> RunRecord:
        """Run a configuration in a process beside the trials, as `begin` does, and wait. The run is not stored."""
        return self.begin(kind, configuration, plan, **options).run()

    def begin(
        self,
        kind: RunKind,
        configuration: Configuration,
        plan: Plan,
        *,
        trial: int = 0,
        session: int = 0,
        position: int = 0,
        judge: bool = False,
        place: str | None = None,
        beside: int = 1,
        **job: Any,
    ) -> Begun:
        """Start a configuration in a process beside the trials.

        The process's folder stays only when it judges pictures; the caller then takes them and removes it. place:
        where; by default anywhere. beside: how many places run something meanwhile, it included. job: fields of its
        Job that are not the usual ones.
        """
        folder = run_folder(self.folder, kind, session, position)

        def end(result: TrialResult) -> RunRecord:
            if not judge:
                shutil.rmtree(folder, ignore_errors=True)
            if beside > 1 and result.measurements:
                result = dataclasses.replace(result, measurements={**result.measurements, "beside": beside})
            return self._record(kind, configuration, result, trial=trial, session=session, position=position)

        return Begun(self.runner.submit(kind, self._job(folder, configuration, plan, judge=judge, **job), place), end)

    def refused(
        self, kind: RunKind, configuration: Configuration, reason: str, *, trial: int, **also: Any
    ) -> RunRecord:
        """What is stored of a configuration that is known not to work here. The run is not stored."""
        result = TrialResult(outcome=Outcome.UNSUPPORTED, reason=reason)
        return self._record(kind, configuration, result, trial=trial, **also)

    def with_compiled_code(self, configuration: Configuration, folder: Path) -> AbstractContextManager[Path | None]:
        """A copy of a trial's folder that loads compiled code, which is built for it; None where that fails."""
        used = [(technique(step.technique), step.parameters) for step in configuration.steps]
        needed = {Requirement(package).name for known, values in used for package in known.packages_with(values)}
        deadlines_s = self.study.deadlines_s
        # Each request may need code of its own, and each is compiled once.
        timeout_s = deadlines_s.load + deadlines_s.apply + 2 * deadlines_s.first_call + deadlines_s.pictures
        return self.runner.with_compiled_code(folder, sorted(needed), timeout_s)

    def cold_start(
        self, number: int, configuration: Configuration, folder: Path, position: int, way: str | None = None
    ) -> RunRecord:
        """Start a trial's folder cold, or a copy of it that loads code kept in a `way`. The run is not stored."""
        deadlines_s = self.study.deadlines_s
        timeout_s = deadlines_s.load + deadlines_s.apply + deadlines_s.first_call
        if not folder.is_dir():
            raise UserError(f"{folder} was deleted, so it cannot be started cold: {FILES_GONE}")
        result = self.runner.cold_start(folder, timeout_s)
        if way is not None and result.outcome is Outcome.COMPLETE:
            result = dataclasses.replace(result, measurements={**result.measurements, "way": way})
        return self._record(RunKind.COLD_START, configuration, result, trial=number, position=position)

    def _record(
        self, kind: RunKind, configuration: Configuration, result: TrialResult, *, trial: int, **also: Any
    ) -> RunRecord:
        return RunRecord(
            kind=kind,
            workload_key=self.workload_key,
            configuration_key=configuration.key,
            configuration=configuration.to_dict(),
            fingerprint_key=self.runner.fingerprint.key,
            worker=result.place,
            study=self.study.name,
            trial=trial,
            outcome=result.outcome,
            reason=result.reason,
            log_tail=result.log_tail,
            measurements=dict(result.measurements),
            phases_s=dict(result.phases_s),
            **also,
        )

    def _job(self, folder: Path, configuration: Configuration, plan: Plan, **also: Any) -> Job:
        # The reference's own trial, and its further seeds, are what everything else is compared with.
        is_reference = not configuration.steps and "apply_py" not in also
        reference = None if is_reference else self.results.reference.pictures_folder / PICTURES
        if reference is not None and not reference.is_dir():
            raise UserError(
                f"{reference} was deleted, and the pictures of every configuration are compared with those: what was "
                f"measured is in the database; give this study its own --name to measure the reference again"
            )
        usual = Job(
            folder=str(folder),
            device=self.runner.device,
            configuration=configuration.to_dict(),
            apply_py=apply_source(configuration, self.versions),
            workload=self.workload,
            plan=dataclasses.asdict(plan),
            reference_pictures=None if reference is None else str(reference),
            quality_assessed=self.study.workload.quality_assessed,
            technique_files=self.study.space.files,
            import_s=self.import_s,
            weights={str(name): path for name, path in self.study.quality.weights.items()},
            metric_files=self.study.quality.files,
            near_lossless={str(name): value for name, value in self.study.quality.near_lossless.items()},
            shapes=len({request.shape() for request in self.study.requests()}),
        )
        return dataclasses.replace(usual, **also)
