"""Study files, workloads, and the records of what was measured."""

from ._database import optuna_engine
from ._errors import UserError
from ._faults import fault_sentence, is_no_room
from ._identity import same_workload, sha256, workload_key
from ._picture_names import picture_names
from ._records import DEFAULT_STORAGE, RATINGS, LinkedRun, Records
from ._sections import Quality
from ._study import BUILT_IN, Study, built_in_studies, override, parse_study, read_study
from ._tables import SCHEMA_VERSION, Outcome, RatingRecord, RunKind, RunRecord, StudyRecord, utc_now
from .workload import Request, Workload

__all__ = [
    "BUILT_IN",
    "DEFAULT_STORAGE",
    "RATINGS",
    "SCHEMA_VERSION",
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
    "fault_sentence",
    "is_no_room",
    "optuna_engine",
    "override",
    "parse_study",
    "picture_names",
    "read_study",
    "same_workload",
    "sha256",
    "utc_now",
    "workload_key",
]
