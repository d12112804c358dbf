"""Launch a study, or continue it: measure the reference, search, and confirm the finalists."""

from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy.engine import make_url

from ...search_space import Configuration, PipelineFacts, SearchSpace
from ...studies import (
    DEFAULT_STORAGE,
    Outcome,
    Records,
    RunRecord,
    Study,
    StudyRecord,
    UserError,
    fault_sentence,
    optuna_storage,
    refuse_foreign_study,
    sqlite_file,
)
from ..measuring import (
    LocalRunner,
    Runner,
    StudyRuns,
    confirm,
    ensure_floor,
    ensure_reordering_floor,
    measure_canary,
    moved_words,
)
from ..results import Results, age_words, picture_doubts
from ..trial import LOG, PICTURES, detect_device, forget_all_compiled, target_of, trial_folder
from .events import Event
from .like import proposals
from .lock import only_launcher
from .loop import SearchLoop
from .refusals import refuse_changes
from .reuse import reference_elsewhere, runs_of


def files_folder(storage: str) -> Path:
    """Where trial folders go: beside an SQLite file, else in the current folder."""
    file = sqlite_file(make_url(storage))
    return Path("paretune.files").resolve() if file is None else file.resolve().with_suffix(".files")


def launch(
    study: Study,
    *,
    storage: str = DEFAULT_STORAGE,
    trials: int | None = None,
    max_minutes: float | None = None,
    fresh: bool = False,
    keep_compiled: bool = False,
    recipes_only: bool = False,
    like: str | None = None,
    runner: Runner | None = None,
    on_event: Callable[[Event], None] = lambda event: None,
) -> Results:
    """Run a study until its budget is spent, then confirm its finalists; continue it when it exists.

    trials, max_minutes: instead of the study's own budget; trials counts all measured ones, earlier launches included.
    fresh: measure everything, even what other studies in the database have measured of this workload on this machine.
    keep_compiled: leave what the front compiled in its folders; `forget_all_compiled` removes it.
    recipes_only: end the search after presets and recipes.
    like: another study of the database, whose front is proposed first; of another machine, say.
    runner: where processes run; by default on this machine.
    Raises UserError for whatever the user can fix. Interrupted or killed, it loses nothing but the running trial.
    """
    if trials is not None and trials < 1:
        raise UserError(f"trials is {trials}, but the reference alone is one: give 1 or more, or leave it out")
    if max_minutes is not None and not max_minutes > 0:
        raise UserError(f"max_minutes is {max_minutes}: give more than 0, or leave it out")
    records = Records(storage)
    runs: StudyRuns | None = None
    try:
        with only_launcher(records, study.name) as lock:
            record = records.find_study(study.name)
            refuse_changes(record, study)
            other = None if like is None else Results(records, like)
            refuse_foreign_study(optuna_storage(storage), study.name, study.optimised, launched=record is not None)
            # Where the study put its files, wherever its database may have been moved since.
            folder = _made(files_folder(storage) / study.name) if record is None else Path(record.files)

            def say(event: Event) -> None:
                lock.check()
                on_event(event)

            say(Event("server", "starting the trial server"))
            with closing(runner or local_runner(study)) as chosen:
                try:
                    import_s = chosen.import_s() if record is None else record.import_s
                    runs = StudyRuns(study, records, chosen, folder, import_s)
                    # A number of trials that was asked for by hand is not cut short by the file's minutes.
                    minutes = max_minutes or (study.budget.minutes if trials is None else None)
                    wanted = trials or study.budget.trials
                    results = _Launch(runs, storage, wanted, minutes, not fresh, recipes_only, other, say).run(
                        new=record is None
                    )
                    records.require_file()
                    if (changed := _changed_by_others(runs, storage)) is not None:
                        raise UserError(changed)
                    return results
                finally:
                    if not keep_compiled:
                        forget_all_compiled(folder)
    except UserError:
        raise
    except Exception as error:
        records.require_file()
        if (sentence := fault_sentence(error) or _changed_by_others(runs, storage, error)) is None:
            raise
        raise UserError(sentence) from error


def _changed_by_others(runs: StudyRuns | None, storage: str, error: Exception | None = None) -> str | None:
    """What another program did to the study's rows while it was launched; None where it did nothing.

    error: what this launch failed with. Optuna's own commands and pages can delete a study or end a trial at any time.
    """
    from optuna.exceptions import UpdateFinishedTrialError

    if runs is None:
        return None
    name = runs.study.name
    if not runs.is_whole:
        return _OTHERS.format(name=name, what="measurements were deleted from it")
    if isinstance(error, UpdateFinishedTrialError):
        return _OTHERS.format(name=name, what="a trial that was being measured was ended in Optuna's tables")
    if isinstance(error, KeyError):
        try:
            optuna_storage(storage).get_study_id_from_name(name)
        except KeyError:
            return _OTHERS.format(name=name, what="it was deleted from Optuna's tables")
    return None


_OTHERS = (
    "study {name} was changed by another program while it was launched ({what}): end that program, and run the same "
    "command again; what is in the database is used"
)


def _made(folder: Path) -> Path:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"the folder {folder} cannot be created ({error.strerror}): choose another --storage") from None
    return folder


def local_runner(study: Study) -> LocalRunner:
    device, deadlines_s = detect_device(study.device), study.deadlines_s.model_dump()
    return LocalRunner(device, study.workload_description(), deadlines_s, study.host_memory_gib)


def refuse_another_machine(runs: StudyRuns) -> None:
    """Raise UserError where a stored study cannot go on: elsewhere, with other versions, without its files."""
    results = runs.results
    if differences := results.fingerprint.differences(runs.runner.fingerprint):
        raise UserError(
            f"study {results.name} was measured on another machine or with other versions "
            f"({'; '.join(differences[:3])}): give this one its own --name"
        )
    where = results.reference.pictures_folder
    if not (where / PICTURES).is_dir():
        raise UserError(f"the files of study {results.name} are gone from {where}: give this one its own --name")


@dataclass(frozen=True)
class _Launch:
    """One launch, which holds the lock of its study and has a runner."""

    runs: StudyRuns
    storage: str
    trials: int
    minutes: float | None
    reuse: bool
    recipes_only: bool
    like: Results | None
    on_event: Callable[[Event], None]

    def run(self, *, new: bool) -> Results:
        """new: whether the study is not stored yet."""
        runs = self.runs
        if not new:
            refuse_another_machine(runs)
        elif not (self.reuse and self._take_reference_over()):
            self._measure_reference()
        ensure_floor(runs, self._say_step)
        for doubt in picture_doubts(runs.results):
            self.on_event(Event("note", str(doubt)))
        ensure_reordering_floor(runs, self._say_step)
        SearchLoop(
            runs,
            self.storage,
            trials=self.trials,
            minutes=self.minutes,
            reuse=self.reuse,
            recipes_only=self.recipes_only,
            first=self._from_another_study(),
            on_event=self.on_event,
        ).run()
        known = len(runs.results.trials)
        confirm(
            runs,
            lambda text: self.on_event(Event("step", text, known, self.trials)),
            lambda text, done, total: self.on_event(Event("block", text, done, total)),
        )
        return runs.results

    def _from_another_study(self) -> list[Configuration]:
        """Its front, as far as it can run here; what becomes of each technique is said."""
        if self.like is None:
            return []
        record, fingerprint = self.runs.results.record, self.runs.runner.fingerprint
        facts = {name: PipelineFacts.from_dict(found) for name, found in record.pipelines.items()}
        space = SearchSpace.from_dict(record.space)
        found = proposals(self.like, space, target_of(fingerprint), facts, fingerprint.device_name)
        for proposal in found:
            self.on_event(Event("note", proposal.words()))
        return [proposal.configuration for proposal in found]

    def _measure_reference(self) -> None:
        """A new study is stored once its reference was measured, which shows what can work here."""
        runs = self.runs
        self.on_event(Event("trial", "reference", total=self.trials))
        result = runs.submit_trial(0, Configuration()).result()
        if result.outcome is not Outcome.COMPLETE:
            raise UserError(
                f"the unchanged pipelines could not be measured: {result.reason}; "
                f"the log is {trial_folder(runs.folder, 0) / LOG}"
            )
        self._add_study(dict(result.pipelines), [runs.trial_run(0, Configuration(), result)])

    def _take_reference_over(self) -> bool:
        """Use another study's reference and noise floor, if there is one and the machine has not changed."""
        runs = self.runs
        found = reference_elsewhere(runs)
        if found is None:
            return False
        reference, floor = found
        name = reference.results.name
        made: list[RunRecord] = []
        if runs.study.measurement.canary_every > 0:
            runs.know_floor(floor.of_figure("latency_ms"))
            (made,) = measure_canary(runs, {runs.runner.places()[0]: floor}, 1, self._say_step).values()
            if not made[-1].complete or not floor.holds("latency_ms", made[-1].measurements["latency_ms"]):
                why = moved_words(made, floor) if made[-1].complete else made[-1].reason
                self.on_event(Event("note", f"{why}: nothing is reused from study {name}"))
                runs.know_floor(None)
                return False
        self._add_study(reference.results.record.pipelines, made, runs_of(reference))
        age = age_words(reference.timing.finished_at)
        self.on_event(Event("note", f"the reference of study {name}, {age}, is used"))
        return True

    def _add_study(self, pipelines: dict[str, Any], made: list[RunRecord], known: Sequence[RunRecord] = ()) -> None:
        """Store a new study together with its reference, without which it could not be continued."""
        runs, study, fingerprint = self.runs, self.runs.study, self.runs.runner.fingerprint
        facts = {name: PipelineFacts.from_dict(found) for name, found in pipelines.items()}
        space, left_out = study.search_space_on(target_of(fingerprint), facts)
        record = StudyRecord(
            name=study.name,
            study=study.model_dump(by_alias=True, mode="json"),
            workload_key=runs.workload_key,
            fingerprint=fingerprint.to_dict(),
            import_s=runs.import_s,
            files=str(runs.folder),
            space=space.to_dict(),
            left_out=left_out,
            pipelines=pipelines,
        )
        runs.records.add_study(record, made, known)

    def _say_step(self, text: str) -> None:
        self.on_event(Event("step", text, total=self.trials))
