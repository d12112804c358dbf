"""What Optuna is told of measured trials."""

import warnings
from pathlib import Path

import optuna
from optuna.artifacts import FileSystemArtifactStore, upload_artifact
from optuna.samplers import TPESampler
from optuna.trial import TrialState, create_trial

from ...studies import MeasurementRecord, Outcome, Study
from ..results.limits import constraint_values
from ..review.pictures import side_by_side
from ..trial.folder import PICTURES, trial_folder


def optuna_study(study: Study, storage: str, measured: int) -> optuna.Study:
    """Optuna's side of a study, made when it is not there; `measured` is how many trials it has."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    # `group` and metric names are experimental in Optuna 5; its version is bounded for that reason.
    warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
    names = study.optimised
    # Another seed per launch: with the same one, a continued study would propose again what it has measured.
    sampler = TPESampler(
        multivariate=True,
        group=True,
        n_startup_trials=study.sampler.startup_trials,
        seed=study.sampler.seed + measured,
    )
    found = optuna.create_study(
        study_name=study.name,
        storage=optuna.storages.RDBStorage(storage, engine_kwargs={"pool_pre_ping": True}),
        directions=["minimize"] * len(names),
        sampler=sampler,
        load_if_exists=True,
    )
    found.set_metric_names(names)
    return found


class Teller:
    """Tells outcomes. Samplers ignore failed trials, so a failure is PRUNED with a violated constraint."""

    def __init__(self, study: Study, told: optuna.Study, folder: Path) -> None:
        self._study = study
        self._told = told
        self._folder = folder

    def refuse(self, trial: optuna.Trial, reason: str) -> None:
        """A configuration that is known not to work here."""
        trial.set_user_attr("outcome", Outcome.UNSUPPORTED.value)
        trial.set_user_attr("reason", reason)
        trial.set_constraint("runs", 1.0)
        self._told.tell(trial, state=TrialState.PRUNED)

    def tell(self, trial: optuna.Trial, measured: MeasurementRecord) -> None:
        """An outcome, with the figures and the worst picture of a complete one."""
        trial.set_user_attr("outcome", measured.outcome)
        if measured.outcome != Outcome.COMPLETE:
            trial.set_user_attr("reason", measured.reason[:300])
            trial.set_constraint("runs", 1.0)
            self._told.tell(trial, state=TrialState.PRUNED)
            return
        figures = measured.measurements
        trial.set_user_attr("verdict", figures["quality"]["verdict"])
        trial.set_user_attr("cold_start_s", round(figures["cold_start_s"], 1))
        if measured.reused_from is not None:
            trial.set_user_attr("measured in study", measured.reused_from["study"])
        self._attach_picture(trial, measured)
        # Constraints cannot be changed once set, and a retried trial would inherit them: so they come last.
        for name, value in self._constraints(measured).items():
            trial.set_constraint(name, value)
        self._told.tell(trial, self._values(measured))

    def tell_again(self, before: MeasurementRecord, now: MeasurementRecord) -> None:
        """A configuration that was measured again: what was told stays, so the sampler gets one more trial."""
        if now.outcome != Outcome.COMPLETE:
            return
        (former,) = [t for t in self._told.get_trials(deepcopy=False) if t.number == before.trial]
        self._told.add_trial(
            create_trial(
                params=former.params,
                distributions=former.distributions,
                values=self._values(now),
                user_attrs={"outcome": now.outcome, "reason": f"trial {before.trial}, measured again"},
                constraints=self._constraints(now),
            )
        )

    def _values(self, measured: MeasurementRecord) -> list[float]:
        return [float(measured.measurements[name]) for name in self._study.optimised]

    def _constraints(self, measured: MeasurementRecord) -> dict[str, float]:
        return {"runs": -1.0, **constraint_values(self._study, measured.measurements)}

    def _attach_picture(self, trial: optuna.Trial, measured: MeasurementRecord) -> None:
        """One picture a trial, because the dashboard shows artifacts in no fixed order: the one that drifted most."""
        judged = measured.measurements["quality"]["pictures"]
        if not judged:
            return  # random weights: there is nothing to look at
        worst = max(judged, key=lambda picture: float(picture["drift"]))["file"]
        folder = trial_folder(self._folder, measured.trial)
        pair = folder / "reference-and-candidate.png"
        if side_by_side(trial_folder(self._folder, 0) / PICTURES / worst, folder / PICTURES / worst, pair):
            store = FileSystemArtifactStore(artifacts_folder(self._folder))
            upload_artifact(artifact_store=store, file_path=str(pair), study_or_trial=trial)


def artifacts_folder(study_folder: Path) -> Path:
    """The artifact store that the studies of one database share."""
    folder = study_folder.parent / ".artifacts"
    folder.mkdir(parents=True, exist_ok=True)
    return folder
