"""Runs one configuration in a process of its own: as a trial, or beside the trials (noise floor, canary, block)."""

import dataclasses
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ...objectives.measuring import Plan, variant
from ...objectives.measuring.stopping import interval_target
from ...search_space import Configuration
from ...studies import MeasurementRecord, Outcome, Records, Request, RunRecord, Study, utc_now
from ...studies._records import SCHEMA_VERSION
from ..search.continuation import workload_key
from ..trial.executor import Executor, TrialResult
from ..trial.files import write_text
from ..trial.folder import COMPILED, PICTURES, run_folder, trial_folder, write_trial_folder
from ..trial.process import Job

INFRASTRUCTURE_TRIES = 3
UNKNOWN_FLOOR_TARGET = 0.02
"""How narrow the median's interval has to be while the noise floor is still being measured."""


def picture_names(study: Study, count: int) -> tuple[str, ...]:
    """The requests, and then the same with other seeds, whose pictures together are at least `count`.

    In turn from every shape, so that a few already cover all pipelines and sizes.
    """
    requests = requests_of(study)
    shapes: dict[tuple[Any, ...], list[Request]] = {}
    for request in requests:
        shapes.setdefault(request.shape(), []).append(request)
    longest = max(map(len, shapes.values()))
    in_turn = [group[i] for i in range(longest) for group in shapes.values() if i < len(group)]
    names: list[str] = []
    pictures = 0
    number = 0
    while pictures < count or len(names) < len(shapes):
        for request in in_turn:
            if pictures >= count and len(names) >= len(shapes):
                break
            names.append(request.name if number == 0 else f"{request.name}~{number}")
            pictures += variant(requests, names[-1]).batch
        number += 1
    return tuple(names)


def requests_of(study: Study) -> list[Request]:
    """What the workload asks for, without loading it."""
    described = study.workload_description()["requests"]
    return [Request(**{**request, "adapters": tuple(request.get("adapters", ()))}) for request in described]


class Runner:
    """What every process of a study has in common."""

    def __init__(self, study: Study, records: Records, executor: Executor, folder: Path, import_s: float) -> None:
        """import_s: what a fresh process pays for its imports; a part of every cold start."""
        self.study = study
        self.records = records
        self.executor = executor
        self.folder = folder
        self.import_s = import_s
        self.workload = study.workload_description()
        self.workload_key = workload_key(study)
        self.versions = {k: v for k, v in executor.fingerprint.packages.items() if v is not None}
        self.target = UNKNOWN_FLOOR_TARGET
        self.shapes = len({request.shape() for request in requests_of(study)})

    def reference(self) -> MeasurementRecord:
        """The measurement of the unchanged pipelines, which every launched study has."""
        found = self.records.find_measurement(self.study.name, Configuration().key)
        assert found is not None
        return found

    def know_floor(self, latency_floor: float) -> None:
        """From now on, calls are timed until their median is known well beside the noise floor."""
        self.target = interval_target(latency_floor)

    def plan(self, **changes: Any) -> Plan:
        """How a trial is measured, with changes."""
        settings = self.study.measurement
        wanted = self.study.quality.pictures.screen
        if not self.study.workload.quality_assessed:
            # Nobody judges pictures of random weights; those of the timed calls show whether they are finite.
            wanted = min(wanted, sum(request.batch for request in requests_of(self.study)))
        usual = Plan(
            calls=settings.calls,
            most_calls=settings.most_calls,
            most_seconds=settings.most_seconds,
            target=self.target,
            warm_up_calls=settings.warm_up_calls,
            pictures=picture_names(self.study, wanted),
        )
        return dataclasses.replace(usual, **changes)

    def trial(
        self, number: int, configuration: Configuration, front: Sequence[Mapping[str, float]] = ()
    ) -> TrialResult:
        """Measure a configuration as trial `number`; what it compiled stays in its folder."""
        return self._run(trial_folder(self.folder, number), configuration, self.plan(), number=number, front=front)

    def beside(
        self,
        kind: str,
        trial: int,
        configuration: Configuration,
        plan: Plan,
        *,
        session: int = 0,
        position: int = 0,
        judge: bool = False,
        known_pictures: Sequence[Mapping[str, Any]] = (),
        compiled: Path | None = None,
        apply_py: str | None = None,
    ) -> RunRecord:
        """Run a configuration in a process beside the trials, and write the run down; its folder stays only when
        pictures were asked for (the caller then takes them and removes it).

        apply_py: instead of the configuration's own.
        """
        folder = run_folder(self.folder, kind, session, position)
        result = self._run(
            folder,
            configuration,
            plan,
            number=None if apply_py else trial,
            judge=judge,
            known_pictures=known_pictures,
            compiled=compiled,
            apply_py=apply_py,
        )
        record = self.record(
            kind,
            trial,
            configuration,
            result.outcome,
            result.reason,
            result.measurements,
            position,
            session=session,
            phases_s=result.phases_s,
        )
        self.records.add_run(record)
        if not judge:
            shutil.rmtree(folder, ignore_errors=True)
        return record

    def record(
        self,
        kind: str,
        trial: int,
        configuration: Configuration,
        outcome: Outcome,
        reason: str,
        measurements: Mapping[str, Any],
        position: int,
        *,
        session: int = 0,
        phases_s: Mapping[str, float] | None = None,
    ) -> RunRecord:
        """A process beside the trials, as it is written down."""
        return RunRecord(
            schema_version=SCHEMA_VERSION,
            study=self.study.name,
            kind=kind,
            session=session,
            position=position,
            trial=trial,
            configuration_key=configuration.key,
            fingerprint_key=self.executor.fingerprint.key,
            outcome=outcome,
            reason=reason,
            measurements=dict(measurements),
            phases_s=dict(phases_s or {}),
            finished_at=utc_now(),
        )

    def measurement(self, number: int, configuration: Configuration, result: TrialResult) -> MeasurementRecord:
        """A trial's result as it is written down."""
        study = self.study
        return MeasurementRecord(
            schema_version=SCHEMA_VERSION,
            study=study.name,
            trial=number,
            workload_key=self.workload_key,
            configuration_key=configuration.key,
            configuration=configuration.to_dict(),
            fingerprint_key=self.executor.fingerprint.key,
            fingerprint=self.executor.fingerprint.to_dict(),
            apply_py=(trial_folder(self.folder, number) / "apply.py").read_text(),
            outcome=result.outcome,
            reason=result.reason,
            log_tail=result.log_tail,
            measurements=dict(result.measurements),
            phases_s=dict(result.phases_s),
            finished_at=utc_now(),
            reused_from=None,
        )

    def _run(
        self,
        folder: Path,
        configuration: Configuration,
        plan: Plan,
        *,
        number: int | None,
        judge: bool = True,
        front: Sequence[Mapping[str, float]] = (),
        known_pictures: Sequence[Mapping[str, Any]] = (),
        compiled: Path | None = None,
        apply_py: str | None = None,
    ) -> TrialResult:
        reference = number == 0 and not configuration.steps
        job = Job(
            folder=str(folder),
            device=self.executor.device,
            configuration=configuration.to_dict(),
            plan=dataclasses.asdict(plan),
            reference_pictures=None if reference else str(trial_folder(self.folder, 0) / PICTURES),
            quality_assessed=self.study.workload.quality_assessed,
            technique_files=self.study.space.files,
            import_s=self.import_s,
            judge=judge,
            weights={str(name): path for name, path in self.study.quality.weights.items()},
            metric_files=self.study.quality.files,
            known_pictures=[dict(picture) for picture in known_pictures],
            front=[dict(point) for point in front],
            shapes=self.shapes,
            compiled=None if compiled is None else str(compiled),
        )
        for _ in range(INFRASTRUCTURE_TRIES):
            write_trial_folder(folder, configuration, self.workload, self.versions)
            if apply_py is not None:
                write_text(folder / "apply.py", apply_py)
            result = self.executor.run(job)
            if result.outcome is not Outcome.INFRASTRUCTURE:
                break
        return result


def forget_compiled(folder: Path) -> None:
    """Remove what a trial compiled: hundreds of megabytes at times."""
    shutil.rmtree(folder / COMPILED, ignore_errors=True)


def forget_all_compiled(files: Path) -> None:
    """The same for every trial of a study, of killed launches too."""
    for folder in files.glob("trial-*"):
        forget_compiled(folder)
