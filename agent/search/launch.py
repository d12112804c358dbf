"""Launch a study, or continue it: measure the reference, search, and confirm the finalists."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
from sqlalchemy.engine import make_url
from sqlalchemy.exc import SQLAlchemyError

from ...search_space import Configuration, PipelineFacts, SearchSpace
from ...studies import (
    DEFAULT_STORAGE,
    SCHEMA_VERSION,
    Outcome,
    Records,
    RunRecord,
    Study,
    StudyRecord,
    UserError,
    utc_now,
)
from ..measuring import (
    LocalRunner,
    Runner,
    StudyRuns,
    complete,
    confirm,
    ensure_floor,
    ensure_reordering_floor,
    measure_canary,
    moved_words,
)
from ..results import Results, age_words
from ..trial import LOG, PICTURES, detect_device, forget_all_compiled, target_of, trial_folder
from .events import Event
from .lock import only_launcher
from .loop import SearchLoop
from .refusals import refuse_changes
from .reuse import reference_elsewhere, runs_of
from .sampler import Sampler


def files_folder(storage: str) -> Path:
    """Where trial folders go: beside an SQLite file, else in the current folder."""
    url = make_url(storage)
    if url.get_backend_name() == "sqlite" and url.database:
        return Path(url.database).resolve().with_suffix(".files")
    return Path("paretune.files").resolve()


def launch(
    study: Study,
    *,
    storage: str = DEFAULT_STORAGE,
    trials: int | None = None,
    max_minutes: float | None = None,
    fresh: bool = False,
    keep_compiled: bool = False,
    runner: Runner | None = None,
    on_event: Callable[[Event], None] = lambda event: None,
) -> Results:
    """Run a study until its budget is spent, then confirm its finalists; continue it when it exists.

    trials, max_minutes: instead of the study's own budget; trials counts all measured ones, earlier launches included.
    fresh: measure everything, even what other studies in the database have measured of this workload on this machine.
    keep_compiled: leave what the front compiled in its folders; `forget_all_compiled` removes it.
    runner: where processes run; by default on this machine.
    Raises UserError for whatever the user can fix. Interrupted or killed, it loses nothing but the running trial.
    """
    records = Records(storage)
    record = records.find_study(study.name)
    # Where the study put its files, wherever its database may have been moved since.
    folder = files_folder(storage) / study.name if record is None else Path(record.files)
    refuse_changes(record, study)
    try:
        with only_launcher(folder, study.name):
            on_event(Event("server", "starting the trial server"))
            with runner or _local_runner(study) as chosen:
                try:
                    # A number of trials that was asked for by hand is not cut short by the file's minutes.
                    minutes = max_minutes or (study.budget.minutes if trials is None else None)
                    wanted = trials or study.budget.trials
                    started = _Launch(study, records, storage, chosen, folder, wanted, minutes, not fresh, on_event)
                    return started.run(record)
                finally:
                    if not keep_compiled:
                        forget_all_compiled(folder)
    except (optuna.exceptions.StorageInternalError, SQLAlchemyError) as error:
        raise UserError(f"the database failed: {' '.join(str(error).split())[:200]}") from None


def _local_runner(study: Study) -> LocalRunner:
    classes = sorted({spec.class_name for spec in (study.workload.pipelines or {}).values()})
    return LocalRunner(detect_device(study.device), classes, study.deadlines_s.model_dump(), study.host_memory_gib)


@dataclass(frozen=True)
class _Launch:
    """One launch, which holds the lock of its study and has a runner."""

    study: Study
    records: Records
    storage: str
    runner: Runner
    folder: Path
    trials: int
    minutes: float | None
    reuse: bool
    on_event: Callable[[Event], None]

    def run(self, record: StudyRecord | None) -> Results:
        """record: the stored study; None for a new one."""
        runs = self._new() if record is None else self._continued(record)
        ensure_floor(runs, self._say_step)
        ensure_reordering_floor(runs, self._say_step)
        self._search(runs)
        known = len(runs.results.trials)
        confirm(
            runs,
            lambda text: self.on_event(Event("step", text, known, self.trials)),
            lambda text, done, total: self.on_event(Event("block", text, done, total)),
        )
        return runs.results

    def _search(self, runs: StudyRuns) -> None:
        chosen = runs.results.record.space.items()
        space = SearchSpace({name: {p: tuple(v) for p, v in choices.items()} for name, choices in chosen})
        SearchLoop(
            runs,
            Sampler(self.study, self.storage, space, len(runs.results.trials)),
            space,
            target_of(self.runner.fingerprint),
            trials=self.trials,
            minutes=self.minutes,
            reuse=self.reuse,
            on_event=self.on_event,
        ).run()

    def _continued(self, record: StudyRecord) -> StudyRuns:
        runs = StudyRuns(self.study, self.records, self.runner, self.folder, record.import_s)
        if differences := runs.results.fingerprint.differences(self.runner.fingerprint):
            raise UserError(
                f"study {self.study.name} was measured on another machine or with other versions "
                f"({'; '.join(differences[:3])}): give this one its own --name"
            )
        where = runs.results.reference.folder
        if not (where / PICTURES).is_dir():
            raise UserError(f"the files of study {self.study.name} are gone from {where}: give this one its own --name")
        return runs

    def _new(self) -> StudyRuns:
        """A new study is stored once its reference was measured, which shows what can work here."""
        runs = StudyRuns(self.study, self.records, self.runner, self.folder, self.runner.import_s())
        if self.reuse and self._take_reference_over(runs):
            return runs
        self.on_event(Event("trial", "reference", total=self.trials))
        result = runs.submit_trial(0, Configuration()).result()
        if result.outcome is not Outcome.COMPLETE:
            raise UserError(
                f"the unchanged pipelines could not be measured: {result.reason}; "
                f"the log is {trial_folder(self.folder, 0) / LOG}"
            )
        self._add_study(runs, dict(result.pipelines), [runs.trial_run(0, Configuration(), result)])
        return runs

    def _take_reference_over(self, runs: StudyRuns) -> bool:
        """Use another study's reference and noise floor, if there is one and the machine has not changed."""
        found = reference_elsewhere(runs)
        if found is None:
            return False
        reference, floor = found
        name = reference.results.name
        made: list[RunRecord] = []
        if self.study.measurement.canary_every > 0:
            runs.know_floor(floor.of_figure("latency_ms"))
            made = measure_canary(runs, floor, 1, self._say_step)
            if not complete(made[-1]) or not floor.holds("latency_ms", made[-1].measurements["latency_ms"]):
                why = moved_words(made, floor) if complete(made[-1]) else made[-1].reason
                self.on_event(Event("note", f"{why}: nothing is reused from study {name}"))
                return False
        self._add_study(runs, reference.results.record.pipelines, made, runs_of(reference))
        age = age_words(reference.timing.finished_at)
        self.on_event(Event("note", f"the reference of study {name}, {age}, is used"))
        return True

    def _add_study(
        self, runs: StudyRuns, pipelines: dict[str, Any], made: list[RunRecord], known: Sequence[RunRecord] = ()
    ) -> None:
        """Store a new study together with its reference, without which it could not be continued."""
        facts = {name: PipelineFacts.from_dict(found) for name, found in pipelines.items()}
        space, left_out = self.study.search_space().possible(target_of(self.runner.fingerprint), facts)
        record = StudyRecord(
            name=self.study.name,
            schema_version=SCHEMA_VERSION,
            created_at=utc_now(),
            study=self.study.model_dump(by_alias=True, mode="json"),
            workload_key=runs.workload_key,
            fingerprint=self.runner.fingerprint.to_dict(),
            import_s=runs.import_s,
            files=str(self.folder),
            space={name: {p: list(v) for p, v in choices.items()} for name, choices in space.techniques.items()},
            left_out=left_out,
            pipelines=pipelines,
        )
        self.records.add_study(record, made, known)

    def _say_step(self, text: str) -> None:
        self.on_event(Event("step", text, total=self.trials))
