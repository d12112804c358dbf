"""Launch a study, or continue it: ask Optuna, run trials, write everything down as it happens."""

import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import optuna
from optuna.trial import TrialState
from sqlalchemy.engine import make_url
from sqlalchemy.exc import SQLAlchemyError

from ...objectives.verdict import Verdict
from ...search_space import Configuration, PipelineFacts, SearchSpace, impossible
from ...studies import DEFAULT_STORAGE, MeasurementRecord, Outcome, Records, Study, StudyRecord, UserError, utc_now
from ...studies._records import SCHEMA_VERSION, UNCHECKED
from ..measuring.finalists import confirm
from ..measuring.machine_drift import MachineWatch
from ..measuring.more_pictures import judge_more
from ..measuring.reordering_floor import ensure_benign_floor
from ..measuring.runner import INFRASTRUCTURE_TRIES, Runner, forget_all_compiled, forget_compiled
from ..results.results import TORCH_COMPILE, Results
from ..trial.device import detect_device, target_of
from ..trial.executor import Executor, TrialResult, cold_import_s
from ..trial.folder import LOG, trial_folder
from .continuation import only_launcher, refuse_changes
from .reuse import age_words, measured_elsewhere, reference_elsewhere, take
from .sampler import Teller, optuna_study

FRUITLESS_ASKS = 300
"""Proposals in a row that were known or refused, after which the space counts as exhausted."""
SMALL_SPACE, PATIENCE = 2000, 10
"""In a space of so many configurations, those left over are looked for after so many proposals without a new one."""


@dataclass(frozen=True)
class Event:
    """Something a watcher of the launch may want to show."""

    kind: str
    """"server", "trial" (one starts), "result" (one ended), "step" (something beside the trials starts), "block" (a
    process of the confirmation starts), "note"."""
    text: str
    done: int = 0
    """Trials, for a block its processes; likewise `total`."""
    total: int = 0
    front: int = 0
    at_most_s: float | None = None
    """Seconds until the search ends whatever is done by then; None when only the trials end it."""


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
    on_event: Callable[[Event], None] = lambda event: None,
) -> Results:
    """Run a study until its budget is spent, then confirm its finalists; continue it when it exists.

    trials, max_minutes: instead of the study's own budget; trials counts all measured ones, earlier launches included.
    fresh: measure what other studies of the database have measured on this machine and workload, too.
    keep_compiled: leave what the front compiled in its folders, for `forget_all_compiled`.
    Raises UserError for whatever the user can mend. Interrupted or killed, it loses nothing but the running trial.
    """
    records = Records(storage)
    record = records.find_study(study.name)
    # Where the study put its files, wherever its database may have been moved since.
    folder = files_folder(storage) / study.name if record is None else Path(record.files)
    refuse_changes(record, study)
    try:
        with only_launcher(folder, study.name):
            return _Launch(study, records, storage, folder, trials, max_minutes, fresh, keep_compiled, on_event).run()
    except (optuna.exceptions.StorageInternalError, SQLAlchemyError) as error:
        raise UserError(f"the database failed: {' '.join(str(error).split())[:200]}") from None


class _Launch:
    def __init__(
        self,
        study: Study,
        records: Records,
        storage: str,
        folder: Path,
        trials: int | None,
        max_minutes: float | None,
        fresh: bool,
        keep_compiled: bool,
        on_event: Callable[[Event], None],
    ) -> None:
        self.study = study
        self.records = records
        self.storage = storage
        self.folder = folder
        self.trials = trials or study.budget.trials
        # A number of trials that was asked for by hand is not cut short by the file's minutes.
        minutes = max_minutes or (study.budget.minutes if trials is None else None)
        self.minutes = minutes
        self.deadline: float | None = None
        """When the search ends; known once it begins."""
        self.fresh = fresh
        self.keep_compiled = keep_compiled
        self.on_event = on_event
        self.device = detect_device(study.device)

    def run(self) -> Results:
        self._say("server", "starting the trial server")
        self.classes = sorted({spec.class_name for spec in (self.study.workload.pipelines or {}).values()})
        deadlines_s = self.study.deadlines_s.model_dump()
        with Executor(self.device, self.classes, deadlines_s, self.study.host_memory_gib) as executor:
            self.executor = executor
            self.target = target_of(executor.fingerprint)
            try:
                record = self._study_record()
                self.space = SearchSpace(
                    {k: {p: tuple(v) for p, v in c.items()} for k, c in (record.space or {}).items()}
                )
                self.pipelines = {k: PipelineFacts.from_dict(v) for k, v in (record.pipelines or {}).items()}
                self.watch = MachineWatch(self.runner, self._note_step, lambda text: self._say("note", text))
                ensure_benign_floor(self.runner, self._note_step)
                if self.minutes is not None:
                    self.deadline = time.monotonic() + 60 * self.minutes
                self._search()
                self.watch.close(self.teller)
                confirm(self.runner, self.records, self._note_step, self._block_step)
            finally:
                if not self.keep_compiled:
                    forget_all_compiled(self.folder)
        return Results(self.records, self.study.name)

    def _note_step(self, text: str) -> None:
        measured = self._measured() if self.records.find_study(self.study.name) else 0
        self._say("step", text, done=measured, total=self.trials)

    def _block_step(self, text: str, done: int, total: int) -> None:
        self._say("block", text, done=done, total=total)

    def _study_record(self) -> StudyRecord:
        """The stored study; a new one is stored once its reference was measured, which tells what can work here."""
        record = self.records.find_study(self.study.name)
        fingerprint = self.executor.fingerprint
        if record is not None:
            known = type(fingerprint).from_dict(record.fingerprint)
            if differences := known.differences(fingerprint):
                raise UserError(
                    f"study {self.study.name} was measured on another machine or with other versions "
                    f"({'; '.join(differences[:3])}): give this one its own --name"
                )
            self.runner = Runner(self.study, self.records, self.executor, self.folder, record.import_s)
            return record
        import_s = cold_import_s(self.classes)
        self.runner = Runner(self.study, self.records, self.executor, self.folder, import_s)
        elsewhere = None if self.fresh else reference_elsewhere(self.runner)
        if elsewhere is not None:
            former, known_reference = elsewhere
            measured = take(self.runner, former, known_reference, 0)
            measured.machine = UNCHECKED  # it was steady then; a canary says whether it still is
            pipelines, noise_floor, benign_floor = former.pipelines, former.noise_floor, former.benign_floor
            self._say("note", f"the reference is study {former.name}'s, {age_words(known_reference.finished_at)}")
        else:
            self._say("trial", "reference", total=self.trials)
            result = self.runner.trial(0, Configuration())
            if result.outcome is not Outcome.COMPLETE:
                raise UserError(
                    f"the unchanged pipelines could not be measured: {result.reason}; "
                    f"the log is {trial_folder(self.folder, 0) / LOG}"
                )
            measured = self.runner.measurement(0, Configuration(), result)
            pipelines, noise_floor, benign_floor = dict(result.pipelines), None, None
        facts = {name: PipelineFacts.from_dict(found) for name, found in (pipelines or {}).items()}
        space, left_out = self.study.search_space().possible(self.target, facts)
        record = StudyRecord(
            name=self.study.name,
            schema_version=SCHEMA_VERSION,
            created_at=utc_now(),
            study=self.study.model_dump(by_alias=True, mode="json"),
            workload_key=self.runner.workload_key,
            fingerprint=fingerprint.to_dict(),
            import_s=import_s,
            files=str(self.folder),
            space={name: {p: list(v) for p, v in choices.items()} for name, choices in space.techniques.items()},
            left_out=left_out,
            pipelines=pipelines,
            noise_floor=noise_floor,
            benign_floor=benign_floor,
        )
        # Together: a study without its reference could not be continued.
        self.records.add_study(record, measured)
        return record

    def _search(self) -> None:
        self.optuna_study = optuna_study(self.study, self.storage, self._measured())
        self.teller = Teller(self.study, self.optuna_study, self.folder)
        if not self.optuna_study.get_trials(deepcopy=False):
            self.optuna_study.enqueue_trial(self.space.optuna_parameters(Configuration()))
        # Of an earlier launch, or another study's: was the machine the same, and is it now?
        if self.watch.in_doubt():
            self.watch.check(self.teller)
        self._recover()
        if self._measured() >= self.trials:
            return
        presets = self.study.presets()
        if self.study.torch_compile_baseline:
            if TORCH_COMPILE in self.space:
                # First, unless the study gives it another place.
                presets = presets if TORCH_COMPILE in presets else [TORCH_COMPILE, *presets]
            elif self._unknown(TORCH_COMPILE):
                self._measure_outside_the_space(TORCH_COMPILE)
        self._enqueue(presets)
        fruitless = 0
        while self._measured() < self.trials and fruitless < FRUITLESS_ASKS:
            if self.deadline is not None and time.monotonic() > self.deadline:
                self._say("note", "the time is spent")
                break
            if fruitless and fruitless % PATIENCE == 0 and self.space.size() <= SMALL_SPACE:
                left = next((c for c in self.space.configurations() if self._unknown(c)), None)
                if left is None:
                    self._say("note", "every configuration that can work has been measured")
                    break
                self._enqueue([left])
            fruitless = 0 if self._one_trial() else fruitless + 1
            if self.watch.due():
                self.watch.check(self.teller)
        if fruitless >= FRUITLESS_ASKS:
            self._say("note", f"{FRUITLESS_ASKS} proposals in a row were known or cannot work: the space is exhausted")

    def _rows(self) -> list[MeasurementRecord]:
        return self.records.measurements(self.study.name)

    def _measured(self) -> int:
        return len(self._rows())

    def _unknown(self, configuration: Configuration) -> bool:
        """Whether a configuration may work and was not measured yet."""
        possible = impossible(configuration, self.target, self.pipelines) is None
        return possible and self.records.find_measurement(self.study.name, configuration.key) is None

    def _enqueue(self, configurations: list[Configuration]) -> None:
        """Queue what may work and was not measured, once; say why the others are left out."""
        waiting = self.optuna_study.get_trials(deepcopy=False, states=(TrialState.WAITING,))
        queued = [trial.system_attrs.get("fixed_params") for trial in waiting]
        for configuration in dict.fromkeys(configurations):
            reason = impossible(configuration, self.target, self.pipelines)
            if reason is None and self._unknown(configuration):
                if configuration not in self.space:
                    reason = "it is not in the study's space"
                elif (parameters := self.space.optuna_parameters(configuration)) not in queued:
                    self.optuna_study.enqueue_trial(parameters)
            if reason is not None:
                self._say("note", f"preset {configuration} is left out: {reason}")

    def _measure_outside_the_space(self, configuration: Configuration) -> None:
        """A configuration that every report compares with, whether or not the sampler may use what it is made of."""
        # Presets are queued later, so what is waiting now is the reference at most; asking again would take it.
        while self.optuna_study.get_trials(deepcopy=False, states=(TrialState.WAITING,)):
            self._one_trial()
        self._settle(self.optuna_study.ask(), configuration)

    def _recover(self) -> None:
        """Finish what a killed launch left running: what was measured is told, what was not is queued again."""
        for trial in self.optuna_study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
            measured = next((row for row in self._rows() if row.trial == trial.number), None)
            if measured is not None:
                measured = self._judge_more_if_on_front(measured)
                self.teller.tell(optuna.Trial(self.optuna_study, trial._trial_id), measured)
            else:
                self._put_back(trial.number)
                shutil.rmtree(trial_folder(self.folder, trial.number), ignore_errors=True)

    def _put_back(self, number: int) -> None:
        """Take a trial that did not come to an end out, and queue its configuration again."""
        trial = self.optuna_study.get_trials(deepcopy=False)[number]
        self.optuna_study.tell(number, state=TrialState.FAIL)
        # What it was queued with, too: a launch may be killed before it has read all of a preset.
        parameters = {**trial.system_attrs.get("fixed_params", {}), **trial.params}
        if parameters:
            self.optuna_study.enqueue_trial(parameters)

    def _one_trial(self) -> bool:
        """Ask for one configuration and make sure it is known. Returns whether a measurement was made."""
        trial = self.optuna_study.ask()
        return self._settle(trial, self.space.suggest(trial))

    def _settle(self, trial: optuna.Trial, configuration: Configuration) -> bool:
        """Tell Optuna what is known of a configuration, or measure it. Returns whether a measurement was made."""
        trial.set_user_attr("configuration", str(configuration))
        if reason := impossible(configuration, self.target, self.pipelines):
            self.teller.refuse(trial, reason)
            return False
        known = self.records.find_measurement(self.study.name, configuration.key)
        if known is not None and known.trial == trial.number:
            self.teller.tell(trial, known)
            return False
        if known is not None:
            trial.set_user_attr("reason", f"the same as trial {known.trial}")
            self.optuna_study.tell(trial, state=TrialState.PRUNED)
            return False
        self._say("trial", str(configuration), done=self._measured(), total=self.trials)
        try:
            measured, how = self._measure(trial.number, configuration)
        except BaseException:
            if self.records.find_measurement(self.study.name, configuration.key) is None:
                self._put_back(trial.number)  # interrupted: the next launch measures it
            raise
        self.teller.tell(trial, measured)
        self.watch.count()
        front = self._tidy_up()
        text = f"{configuration}: {_summary(measured)}{how}"
        self._say("result", text, done=self._measured(), total=self.trials, front=len(front))
        return True

    def _measure(self, number: int, configuration: Configuration) -> tuple[MeasurementRecord, str]:
        """Measure a configuration, or take it from another study; written down in either case."""
        elsewhere = None if self.fresh else measured_elsewhere(self.runner, configuration, self.runner.reference())
        if elsewhere is not None:
            measured, how = take(self.runner, *elsewhere, number), f" (of study {elsewhere[0].name}"
            how += f", {age_words(elsewhere[1].finished_at)})"
            self.records.add_measurement(measured)
            return measured, how
        result = self._tried(number, configuration)
        measured = self.runner.measurement(number, configuration, result)
        self.records.add_measurement(measured)
        return self._judge_more_if_on_front(measured), ""

    def _judge_more_if_on_front(self, measured: MeasurementRecord) -> MeasurementRecord:
        if any(trial.number == measured.trial for trial in Results(self.records, self.study.name).front()):
            return judge_more(self.runner, measured.trial, self.study.quality.pictures.front)
        return measured

    def _tried(self, number: int, configuration: Configuration) -> TrialResult:
        result = self.runner.trial(number, configuration, self._front_points())
        if result.outcome is Outcome.INFRASTRUCTURE:
            raise UserError(f"trials cannot be run here ({INFRASTRUCTURE_TRIES} tries): {result.reason}")
        return result

    def _front_points(self) -> list[dict[str, float]]:
        """What makes a trial pointless while it is measured."""
        judged = ["drift"] if self.study.workload.quality_assessed else []
        names = dict.fromkeys(["latency_ms", "peak_vram_gib", *judged, *self.study.optimised])
        front = Results(self.records, self.study.name).front()
        return [{"trial": trial.number, **{name: trial.figure(name) for name in names}} for trial in front]

    def _tidy_up(self) -> list[int]:
        """Forget what trials compiled that are not timed again; returns the front's trials."""
        results = Results(self.records, self.study.name)
        front = [trial.number for trial in results.front()]
        compiled = results.torch_compile
        for trial in results.trials:
            if trial.number not in front and trial is not compiled:
                forget_compiled(trial.folder)
        return front

    def _say(self, kind: str, text: str, done: int = 0, total: int = 0, front: int = 0) -> None:
        at_most_s = None if self.deadline is None else self.deadline - time.monotonic()
        self.on_event(Event(kind, text, done, total, front, at_most_s))


def _summary(measured: MeasurementRecord) -> str:
    if measured.outcome != Outcome.COMPLETE:
        return f"{measured.outcome} ({measured.reason})"
    figures = measured.measurements
    verdict = Verdict(figures["quality"]["verdict"])
    ended = f", ended early (trial {figures['dominated_by']} was clearly better)" if "dominated_by" in figures else ""
    return f"{figures['latency_ms']:.0f} ms, {figures['peak_vram_gib']:.2f} GiB, {verdict}{ended}"
