"""Launch a study, or continue it: ask Optuna, run trials, write everything down as it happens."""

import shutil
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import optuna
from optuna.artifacts import FileSystemArtifactStore, upload_artifact
from optuna.samplers import TPESampler
from optuna.trial import TrialState
from sqlalchemy.engine import make_url
from sqlalchemy.exc import SQLAlchemyError

from ..objectives.verdict import Verdict
from ..search_space import Configuration, PipelineFacts, SearchSpace, impossible
from ..studies import DEFAULT_STORAGE, MeasurementRecord, Outcome, Records, Study, StudyRecord, UserError, utc_now
from ._constraints import constraint_values
from ._continuation import only_launcher, refuse_changes, workload_key
from ._device import detect_device, target_of
from ._pictures import side_by_side
from ._results import TORCH_COMPILE, Results
from ._trial_folder import LOG, PICTURES, trial_folder, write_trial_folder
from .executor import Executor, TrialResult, cold_import_s
from .trial_process import Job

SCHEMA_VERSION = 1
INFRASTRUCTURE_TRIES = 3
FRUITLESS_ASKS = 300
"""Proposals in a row that were known or refused, after which the space counts as exhausted."""
SMALL_SPACE, PATIENCE = 2000, 10
"""In a space of so many configurations, those left over are looked for after so many proposals without a new one."""


@dataclass(frozen=True)
class Event:
    """Something a watcher of the launch may want to show."""

    kind: str
    """"server", "trial" (one starts), "result" (one ended), "note"."""
    text: str
    done: int = 0
    total: int = 0
    front: int = 0


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
    on_event: Callable[[Event], None] = lambda event: None,
) -> Results:
    """Run a study until its budget is spent; continue it when it exists.

    trials, max_minutes: instead of the study's own budget; trials counts all measured ones, earlier launches included.
    Raises UserError for whatever the user can mend. Interrupted or killed, it loses nothing but the running trial.
    """
    records = Records(storage)
    record = records.find_study(study.name)
    # Where the study put its files, wherever its database may have been moved since.
    folder = files_folder(storage) / study.name if record is None else Path(record.files)
    refuse_changes(record, study)
    try:
        with only_launcher(folder, study.name):
            return _Launch(study, records, storage, folder, trials, max_minutes, on_event).run()
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
        on_event: Callable[[Event], None],
    ) -> None:
        self.study = study
        self.records = records
        self.storage = storage
        self.folder = folder
        self.trials = trials or study.budget.trials
        # A number of trials that was asked for by hand is not cut short by the file's minutes.
        minutes = max_minutes or (study.budget.minutes if trials is None else None)
        self.deadline = None if minutes is None else time.monotonic() + 60 * minutes
        self.on_event = on_event
        self.workload = study.workload_description()
        self.workload_key = workload_key(study)
        self.device = detect_device(study.device)

    def run(self) -> Results:
        self._say("server", "starting the trial server")
        self.classes = sorted({spec.class_name for spec in (self.study.workload.pipelines or {}).values()})
        deadlines_s = self.study.deadlines_s.model_dump()
        with Executor(self.device, self.classes, deadlines_s, self.study.host_memory_gib) as executor:
            self.executor = executor
            self.target = target_of(executor.fingerprint)
            record = self._study_record()
            self.space = SearchSpace({k: {p: tuple(v) for p, v in c.items()} for k, c in (record.space or {}).items()})
            self.pipelines = {k: PipelineFacts.from_dict(v) for k, v in (record.pipelines or {}).items()}
            self._search()
        return Results(self.records, self.study.name)

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
            self.import_s = record.import_s
            return record
        self.import_s = cold_import_s(self.classes)
        self._say("trial", "reference", total=self.trials)
        result = self._run_trial(0, Configuration())
        if result.outcome is not Outcome.COMPLETE:
            raise UserError(
                f"the unchanged pipelines could not be measured ({result.outcome}): {result.reason}; "
                f"the log is {trial_folder(self.folder, 0) / LOG}"
            )
        pipelines = {name: PipelineFacts.from_dict(facts) for name, facts in result.pipelines.items()}
        space, left_out = self.study.search_space().possible(self.target, pipelines)
        record = StudyRecord(
            name=self.study.name,
            schema_version=SCHEMA_VERSION,
            created_at=utc_now(),
            study=self.study.model_dump(by_alias=True, mode="json"),
            workload_key=self.workload_key,
            fingerprint=fingerprint.to_dict(),
            import_s=self.import_s,
            files=str(self.folder),
            space={name: {p: list(v) for p, v in choices.items()} for name, choices in space.techniques.items()},
            left_out=left_out,
            pipelines=dict(result.pipelines),
        )
        # Together: a study without its reference could not be continued.
        self.records.add_study(record, self._measurement(0, Configuration(), result))
        return record

    def _search(self) -> None:
        self.optuna_study = self._optuna_study()
        if not self.optuna_study.get_trials(deepcopy=False):
            self.optuna_study.enqueue_trial(self.space.optuna_parameters(Configuration()))
        self._recover()
        if self._measured() >= self.trials:
            return
        if self.study.torch_compile_baseline and TORCH_COMPILE in self.space:
            self._enqueue([TORCH_COMPILE])
        elif self.study.torch_compile_baseline and self._unknown(TORCH_COMPILE):
            self._measure_outside_the_space(TORCH_COMPILE)
        self._enqueue(self.study.presets())
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
        if fruitless >= FRUITLESS_ASKS:
            self._say("note", f"{FRUITLESS_ASKS} proposals in a row were known or cannot work: the space is exhausted")

    def _measured(self) -> int:
        return len(self.records.measurements(self.study.name))

    def _optuna_study(self) -> optuna.Study:
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        # `group` and metric names are experimental in Optuna 5; its version is bounded for that reason.
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        names = self.study.optimised
        # Another seed per launch: with the same one, a continued study would propose again what it has measured.
        sampler = TPESampler(
            multivariate=True,
            group=True,
            n_startup_trials=self.study.sampler.startup_trials,
            seed=self.study.sampler.seed + self._measured(),
        )
        study = optuna.create_study(
            study_name=self.study.name,
            storage=optuna.storages.RDBStorage(self.storage, engine_kwargs={"pool_pre_ping": True}),
            directions=["minimize"] * len(names),
            sampler=sampler,
            load_if_exists=True,
        )
        study.set_metric_names(names)
        return study

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
            measured = next((m for m in self.records.measurements(self.study.name) if m.trial == trial.number), None)
            if measured is not None:
                self._tell(optuna.Trial(self.optuna_study, trial._trial_id), measured)
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
            self._refuse(trial, reason)
            return False
        known = self.records.find_measurement(self.study.name, configuration.key)
        if known is not None and known.trial == trial.number:
            self._tell(trial, known)
            return False
        if known is not None:
            trial.set_user_attr("reason", f"the same as trial {known.trial}")
            self.optuna_study.tell(trial, state=TrialState.PRUNED)
            return False
        self._say("trial", str(configuration), done=self._measured(), total=self.trials)
        try:
            result = self._run_trial(trial.number, configuration)
        except BaseException:
            self._put_back(trial.number)  # interrupted: the next launch measures it
            raise
        if result.outcome is Outcome.INFRASTRUCTURE:
            self._put_back(trial.number)
            raise UserError(f"trials cannot be run here ({INFRASTRUCTURE_TRIES} tries): {result.reason}")
        measured = self._measurement(trial.number, configuration, result)
        self.records.add_measurement(measured)
        self._tell(trial, measured)
        front = len(Results(self.records, self.study.name).front())
        text = f"{configuration}: {_summary(result)}"
        self._say("result", text, done=self._measured(), total=self.trials, front=front)
        return True

    def _run_trial(self, number: int, configuration: Configuration) -> TrialResult:
        folder = trial_folder(self.folder, number)
        job = Job(
            folder=str(folder),
            device=self.device,
            configuration=configuration.to_dict(),
            calls=self.study.measurement.calls,
            warm_up_calls=self.study.measurement.warm_up_calls,
            reference_pictures=None if number == 0 else str(trial_folder(self.folder, 0) / PICTURES),
            quality_assessed=self.study.workload.quality_assessed,
            technique_files=self.study.space.files,
            import_s=self.import_s,
        )
        versions = {k: v for k, v in self.executor.fingerprint.packages.items() if v is not None}
        for _ in range(INFRASTRUCTURE_TRIES):
            write_trial_folder(folder, configuration, self.workload, versions)
            result = self.executor.run(job)
            if result.outcome is not Outcome.INFRASTRUCTURE:
                break
        return result

    def _measurement(self, number: int, configuration: Configuration, result: TrialResult) -> MeasurementRecord:
        return MeasurementRecord(
            schema_version=SCHEMA_VERSION,
            study=self.study.name,
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
        )

    def _refuse(self, trial: optuna.Trial, reason: str) -> None:
        trial.set_user_attr("outcome", Outcome.UNSUPPORTED.value)
        trial.set_user_attr("reason", reason)
        trial.set_constraint("runs", 1.0)
        self.optuna_study.tell(trial, state=TrialState.PRUNED)

    def _tell(self, trial: optuna.Trial, measured: MeasurementRecord) -> None:
        """Tell Optuna an outcome. Samplers ignore failed trials, so a failure is PRUNED with a violated constraint."""
        trial.set_user_attr("outcome", measured.outcome)
        if measured.outcome != Outcome.COMPLETE:
            trial.set_user_attr("reason", measured.reason[:300])
            trial.set_constraint("runs", 1.0)
            self.optuna_study.tell(trial, state=TrialState.PRUNED)
            return
        figures = measured.measurements
        trial.set_user_attr("verdict", figures["quality"]["verdict"])
        trial.set_user_attr("cold_start_s", round(figures["cold_start_s"], 1))
        self._attach_picture(trial, measured)
        # Constraints cannot be changed once set, and a retried trial would inherit them: so they come last.
        trial.set_constraint("runs", -1.0)
        for name, value in constraint_values(self.study, figures).items():
            trial.set_constraint(name, value)
        self.optuna_study.tell(trial, [float(figures[name]) for name in self.study.optimised])

    def _attach_picture(self, trial: optuna.Trial, measured: MeasurementRecord) -> None:
        """One picture a trial, because the dashboard shows artifacts in no fixed order: the one that drifted most."""
        judged = measured.measurements["quality"]["pictures"]
        if not judged:
            return  # random weights: there is nothing to look at
        worst = max(judged, key=lambda picture: float(picture["drift"]))["file"]
        folder = trial_folder(self.folder, measured.trial)
        pair = folder / "reference-and-candidate.png"
        if side_by_side(trial_folder(self.folder, 0) / PICTURES / worst, folder / PICTURES / worst, pair):
            store = FileSystemArtifactStore(artifacts_folder(self.folder))
            upload_artifact(artifact_store=store, file_path=str(pair), study_or_trial=trial)

    def _say(self, kind: str, text: str, done: int = 0, total: int = 0, front: int = 0) -> None:
        self.on_event(Event(kind, text, done, total, front))


def artifacts_folder(study_folder: Path) -> Path:
    """The artifact store that the studies of one database share."""
    folder = study_folder.parent / ".artifacts"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _summary(result: TrialResult) -> str:
    if result.outcome is not Outcome.COMPLETE:
        return f"{result.outcome} ({result.reason})"
    figures = result.measurements
    verdict = Verdict(figures["quality"]["verdict"])
    return f"{figures['latency_ms']:.0f} ms, {figures['peak_vram_gib']:.2f} GiB, {verdict}"
