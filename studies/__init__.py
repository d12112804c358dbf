"""Study files, workloads, and the records of what was measured."""

from ._errors import UserError
from ._identity import content_digest, same_workload, sha256, workload_key
from ._packing import PackedWorkload, PackedWorkloadSpec, pack_workload, remember_place
from ._picture_names import picture_names
from ._records import DEFAULT_STORAGE, RATINGS, LinkedRun, Records
from ._secrets import plain_without_secrets, without_secrets
from ._sections import Quality
from ._study import BUILT_IN, Study, built_in_studies, override, parse_study, read_study
from ._tables import SCHEMA_VERSION, Outcome, RatingRecord, RunKind, RunRecord, StudyRecord, utc_now
from .workload import Request, Workload, unpacked

__all__ = [
    "BUILT_IN",
    "DEFAULT_STORAGE",
    "RATINGS",
    "SCHEMA_VERSION",
    "LinkedRun",
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
    "UserError",
    "Workload",
    "built_in_studies",
    "content_digest",
    "override",
    "pack_workload",
    "parse_study",
    "picture_names",
    "plain_without_secrets",
    "read_study",
    "remember_place",
    "same_workload",
    "sha256",
    "unpacked",
    "utc_now",
    "without_secrets",
    "workload_key",
]
