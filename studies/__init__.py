"""Study files, workloads, and the records of what was measured."""

from ._calls import check_calls, pipeline_interface
from ._database import sqlite_file
from ._errors import UserError
from ._faults import fault_sentence, is_no_room
from ._identity import same_workload, sha256, workload_key
from ._optuna import optuna_storage, refuse_foreign_study
from ._picture_names import picture_names
from ._records import DEFAULT_STORAGE, LinkedRun, Records
from ._sections import Quality
from ._stored import RATINGS, stored_study
from ._study import BUILT_IN, Study, built_in_studies, override, parse_study, read_study
from ._tables import SCHEMA_VERSION, LaunchRecord, Outcome, RatingRecord, RunKind, RunRecord, StudyRecord, utc_now
from .workload import Request, Workload

__all__ = [
    "BUILT_IN",
    "DEFAULT_STORAGE",
    "RATINGS",
    "SCHEMA_VERSION",
    "LaunchRecord",
    "LinkedRun",
    "Outcome",
    "Quality",
    "RatingRecord",
    "Records",
    "Request",
    "RunKind",
    "RunRecord",
    "Study",
    "StudyRecord",
    "UserError",
    "Workload",
    "built_in_studies",
    "check_calls",
    "fault_sentence",
    "is_no_room",
    "optuna_storage",
    "override",
    "parse_study",
    "picture_names",
    "pipeline_interface",
    "read_study",
    "refuse_foreign_study",
    "same_workload",
    "sha256",
    "sqlite_file",
    "stored_study",
    "utc_now",
    "workload_key",
]
