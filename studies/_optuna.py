"""Optuna's tables, which lie beside ours."""

import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING

from sqlalchemy.exc import SQLAlchemyError

from ._database import optuna_engine, shown
from ._errors import UserError
from ._faults import first_line

if TYPE_CHECKING:
    from optuna.storages import RDBStorage


def optuna_storage(url: str, *, read_only: bool = False) -> "RDBStorage":
    """Optuna's storage behind a URL; read_only: its tables are not created. Raises UserError."""
    import optuna  # takes a second, which most commands need not wait for

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    # `group` and metric names are experimental in Optuna 5.
    warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
    try:
        return optuna.storages.RDBStorage(url, engine_kwargs=optuna_engine(url), skip_table_creation=read_only)
    except (SQLAlchemyError, optuna.exceptions.StorageInternalError) as error:
        raise UserError(f"Optuna's tables in {shown(url)} cannot be used: {first_line(error)}") from None
    except (RuntimeError, AssertionError) as error:  # another schema; tables that are there, and empty
        said = " ".join(str(error).split()) or "they are not complete"
        raise UserError(f"Optuna's tables in {shown(url)} are of another version of Optuna: {said}") from None


def refuse_foreign_study(storage: "RDBStorage", name: str, objectives: Sequence[str], *, launched: bool) -> None:
    """Raise UserError for an Optuna study of that name that paretune did not make: its trials are somebody else's.

    launched: whether our tables have the study. A launch that was killed between the two leaves it without Optuna's.
    """
    from optuna.study import StudyDirection

    try:
        study_id = storage.get_study_id_from_name(name)
    except KeyError:
        return
    ours = list(storage.get_study_directions(study_id)) == [StudyDirection.MINIMIZE] * len(objectives)
    named = storage.get_study_system_attrs(study_id).get("study:metric_names")
    # A launch names the objectives right after it has created the study, and may be killed in between.
    ours = ours and (named == list(objectives) or (named is None and storage.get_n_trials(study_id) == 0))
    if not (launched and ours):
        raise UserError(
            f"the database has an Optuna study {name!r} that paretune did not make: "
            "launch this one under another --name, or name another --storage"
        )
