"""Study files, workloads, and the records of what was measured."""

from ._errors import UserError
from ._records import (
    DEFAULT_STORAGE,
    RATINGS,
    MeasurementRecord,
    Outcome,
    RatingRecord,
    Records,
    RunRecord,
    StudyRecord,
    utc_now,
)
from ._study import BUILT_IN, Study, built_in_studies, parse_study, read_study
from .workload import Request, Workload

__all__ = [
    "BUILT_IN",
    "DEFAULT_STORAGE",
    "RATINGS",
    "MeasurementRecord",
    "Outcome",
    "RatingRecord",
    "Records",
    "Request",
    "RunRecord",
    "Study",
    "StudyRecord",
    "UserError",
    "Workload",
    "built_in_studies",
    "parse_study",
    "read_study",
    "utc_now",
]
