"""Study files, workloads, and the records of what was measured."""

from ._calls import check_calls, pipeline_interface
from ._database import sqlite_file
from ._errors import UserError
from ._faults import fault_sentence, is_no_room
from ._identity import content_digest, same_workload, sha256, workload_key
from ._live_workload import LiveWorkload, live_workload
from ._optuna import optuna_storage, refuse_foreign_study
from ._packing import PackedWorkload, PackedWorkloadSpec, own_files, pack_workload, remember_place
from ._picture_names import picture_names
from ._places import there
from ._reading import UnreadableError, read_json
from ._records import DEFAULT_STORAGE, EndedTrial, LinkedRun, Records
from ._secrets import plain_without_secrets, without_secrets
from ._sections import Quality
from ._stored import RATINGS, stored_study
from ._study import BUILT_IN, Study, built_in_studies, override, parse_study, read_study
from ._tables import (
    SCHEMA_VERSION,
    ChoiceRecord,
    LaunchRecord,
    Outcome,
    RatingRecord,
    RunKind,
    RunRecord,
    StudyRecord,
    utc_now,
)
from .workload import Request, Workload, unpacked

__all__ = [
    "BUILT_IN",
    "DEFAULT_STORAGE",
    "RATINGS",
    "SCHEMA_VERSION",
    "ChoiceRecord",
    "EndedTrial",
    "LaunchRecord",
    "LinkedRun",
    "LiveWorkload",
    "Outcome",
    "PackedWorkload",
    "PackedWorkloadSpec",
    "Quality",
    "RatingRecord",
    "Records",
    "Request",
    "RunKind",
    "RunRecord",
    "Study",
    "StudyRecord",
    "UnreadableError",
    "UserError",
    "Workload",
    "built_in_studies",
    "check_calls",
    "content_digest",
    "fault_sentence",
    "is_no_room",
    "live_workload",
    "optuna_storage",
    "override",
    "own_files",
    "pack_workload",
    "parse_study",
    "picture_names",
    "pipeline_interface",
    "plain_without_secrets",
    "read_json",
    "read_study",
    "refuse_foreign_study",
    "remember_place",
    "same_workload",
    "sha256",
    "sqlite_file",
    "stored_study",
    "there",
    "unpacked",
    "utc_now",
    "without_secrets",
    "workload_key",
]
