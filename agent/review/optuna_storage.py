"""What the report shows, as an Optuna storage: from here, Optuna's dashboard has its values and feasibility."""

import io
import json
import threading
import time
from collections.abc import Container, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, BinaryIO

from optuna.distributions import BaseDistribution, CategoricalDistribution
from optuna.exceptions import StorageInternalError
from optuna.storages import BaseStorage, InMemoryStorage
from optuna.study import StudyDirection
from optuna.study._frozen import FrozenStudy
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy.exc import SQLAlchemyError

from ...search_space import OFF, ON, SearchSpace
from ...studies import Records, UserError, there
from ..results import Results, Trial
from ..trial import PICTURES
from .pictures import side_by_side

REFRESH_S = 2.0
"""The database is asked for new runs at most so often."""
TRIALS_OF_A_STUDY = 1_000_000
"""More than a study can have: trial ids are study id times this, plus the trial's number."""


@dataclass(frozen=True)
class _Study:
    """A study as it is shown."""

    results: Results
    trials: list[FrozenTrial]


class ReportedStorage(InMemoryStorage):
    """Optuna's studies with trials made of what the report shows of them. Nothing but a study's attributes, among them
    the notes that people write, is written to the database.
    """

    def __init__(self, records: Records, in_database: BaseStorage) -> None:
        """records: our tables; in_database: Optuna's, beside them."""
        super().__init__()
        self._records = records
        self._in_database = in_database
        self._shown: dict[int, _Study] = {}
        self._refreshing = threading.Lock()
        self._refreshed_at = -REFRESH_S
        self.refresh()

    def refresh(self) -> None:
        """Take up what was measured since, unless that was done just now."""
        with self._refreshing:
            if time.monotonic() - self._refreshed_at < REFRESH_S:
                return
            for name in self._records.study_names():
                try:
                    self._refresh(name)
                except UserError:
                    continue  # one that cannot be read, for instance without its own techniques' file, hides no other
            self._refreshed_at = time.monotonic()

    def _refresh(self, name: str) -> None:
        try:
            study_id = self._in_database.get_study_id_from_name(name)
        except (KeyError, StorageInternalError, SQLAlchemyError):  # not there, nor perhaps Optuna's tables
            raise UserError(f"study {name} has no search yet: paretune launch continues it") from None
        known = self._shown.get(study_id)
        results = Results(self._records, name) if known is None else known.results
        if known is None or results.newest_link != results.refresh().newest_link:
            self._shown[study_id] = _Study(results, list(_frozen_trials(results, study_id)))

    def id_of(self, name: str) -> int:
        """Raises UserError for a study that cannot be shown, and says why."""
        self._refresh(name)
        return self.get_study_id_from_name(name)

    def results(self, study_id: int) -> Results:
        """Raises KeyError."""
        return self._shown[study_id].results

    def get_all_trials(
        self, study_id: int, deepcopy: bool = True, states: Container[TrialState] | None = None
    ) -> list[FrozenTrial]:
        return [trial for trial in self._shown[study_id].trials if states is None or trial.state in states]

    def get_trial(self, trial_id: int) -> FrozenTrial:
        study_id, number = divmod(trial_id, TRIALS_OF_A_STUDY)
        return self._shown[study_id].trials[number]

    get_best_trial = BaseStorage.get_best_trial

    # A study's name, attributes and notes are those in the database.

    def get_all_studies(self) -> list[FrozenStudy]:
        return [study for study in self._in_database.get_all_studies() if study._study_id in self._shown]

    def get_study_id_from_name(self, study_name: str) -> int:
        return self._in_database.get_study_id_from_name(study_name)

    def get_study_name_from_id(self, study_id: int) -> str:
        return self._in_database.get_study_name_from_id(study_id)

    def get_study_directions(self, study_id: int) -> list[StudyDirection]:
        return self._in_database.get_study_directions(study_id)

    def get_study_user_attrs(self, study_id: int) -> dict[str, Any]:
        return self._in_database.get_study_user_attrs(study_id)

    def get_study_system_attrs(self, study_id: int) -> dict[str, Any]:
        return self._in_database.get_study_system_attrs(study_id)

    def set_study_system_attr(self, study_id: int, key: str, value: Any) -> None:
        """How the dashboard keeps notes. Raises a refusal of the dashboard's framework when they cannot be kept."""
        from bottle import HTTPError  # type: ignore[import-untyped]

        try:
            self._in_database.set_study_system_attr(study_id, key, value)
        except (StorageInternalError, SQLAlchemyError):
            raise HTTPError(403, "the database cannot be written to, so no note can be kept") from None

    def open_reader(self, artifact_id: str) -> BinaryIO:
        """As an artifact store does: the picture of a trial, drawn when it is looked at.

        Raises a 404 of the dashboard's own framework; anything else would print a traceback for each picture.
        """
        from bottle import HTTPError

        study_id, number = (int(part, 16) for part in artifact_id.split("-"))
        results = self._shown[study_id].results
        pair = _pair(results, results.trial(number))
        drawn = None if pair is None else side_by_side(*pair)
        if drawn is None:
            raise HTTPError(404, "the picture is not where the study left it")
        return io.BytesIO(drawn)


def _frozen_trials(results: Results, study_id: int) -> Iterator[FrozenTrial]:
    """Every trial by its number. A number in between is of a proposal that was known or refused, so not measured."""
    trials = results.numbered
    space = SearchSpace.from_dict(results.record.space)
    ended = datetime.fromisoformat(results.record.created_at).astimezone().replace(tzinfo=None)
    for number in range(max(trials, default=-1) + 1):
        trial = trials.get(number)
        trial_id = study_id * TRIALS_OF_A_STUDY + number
        if trial is None:
            not_measured = {"outcome": "not measured: already known, or known not to work"}
            yield _frozen(number, trial_id, TrialState.FAIL, ended, ended, user_attrs=not_measured)
            continue
        ended = datetime.fromisoformat(trial.timing.finished_at).astimezone().replace(tzinfo=None)
        began = ended - timedelta(seconds=sum(trial.timing.phases_s.values()))
        params, distributions = _parameters(space, trial)
        told: dict[str, Any] = {"params": params, "distributions": distributions, "user_attrs": _user_attrs(trial)}
        if not trial.complete:
            # As the sampler is told: it would ignore a failed trial.
            told["system_attrs"] = {"constraints": [1.0]}
            yield _frozen(number, trial_id, TrialState.PRUNED, began, ended, **told)
            continue
        told["values"] = [trial.figure(name) for name in results.study.optimised]
        # In the form that the dashboard reads; Optuna reads both.
        told["system_attrs"] = {"constraints": [-1.0, *trial.constraint_values.values()]}
        if _pair(results, trial) is not None:
            artifact_id = f"{study_id:x}-{number:x}"
            meta = {"artifact_id": artifact_id, "filename": "pair.png", "mimetype": "image/png", "encoding": None}
            told["system_attrs"][f"artifacts:{artifact_id}"] = json.dumps(meta)
        yield _frozen(number, trial_id, TrialState.COMPLETE, began, ended, **told)


def _frozen(
    number: int, trial_id: int, state: TrialState, began: datetime, ended: datetime, **told: Any
) -> FrozenTrial:
    usual: dict[str, Any] = {"params": {}, "distributions": {}, "user_attrs": {}, "system_attrs": {}}
    return FrozenTrial(
        number=number,
        trial_id=trial_id,
        state=state,
        value=None,
        datetime_start=began,
        datetime_complete=ended,
        intermediate_values={},
        **{**usual, **told},
    )


def _parameters(space: SearchSpace, trial: Trial) -> tuple[Mapping[str, Any], dict[str, BaseDistribution]]:
    """As the sampler knows them; empty for what was measured outside of the study's space."""
    try:
        params = space.optuna_parameters(trial.configuration)
    except ValueError:
        return {}, {}
    distributions: dict[str, BaseDistribution] = {}
    for name in params:
        technique, _, parameter = name.partition(".")
        choices = space.techniques[technique][parameter] if parameter else (OFF, ON)
        distributions[name] = CategoricalDistribution(list(choices))
    return params, distributions


def _user_attrs(trial: Trial) -> dict[str, str]:
    """Short ones: long texts break the dashboard's tables."""
    attrs = {"configuration": str(trial.configuration), "outcome": str(trial.outcome)}
    if trial.complete:
        attrs["verdict"] = trial.verdict_words()
    else:
        attrs["reason"] = trial.reason[:300]
    if trial.elsewhere is not None:
        attrs["measured in study"] = trial.elsewhere.study
    return attrs


def _pair(results: Results, trial: Trial) -> tuple[Any, Any] | None:
    """The files of the reference's picture and the trial's that drifted most; None where there is nothing to see.

    One picture a trial, because the dashboard shows artifacts in no fixed order.
    """
    judged = trial.quality.get("pictures", ())
    if not judged:
        return None
    worst = max(judged, key=lambda picture: float(picture["drift"]))["file"]
    pair = (results.reference.pictures_folder / PICTURES / worst, trial.pictures_folder / PICTURES / worst)
    return pair if all(there(file, Path.is_file) for file in pair) else None
