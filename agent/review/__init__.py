"""What people look at: the view of a study that report, listing, dashboard and JSON show, and these."""

from .ablation import ablation_lines
from .app import Passwords, dashboard
from .calibration import calibration_lines, calibration_settings
from .explain import explain, explanation_lines, remembered
from .listing import listed_studies, study_lines, trial_lines, trust_lines
from .report import write_report
from .rows import Row, row_of
from .view import StudyView, study_view

__all__ = [
    "Passwords",
    "Row",
    "StudyView",
    "ablation_lines",
    "calibration_lines",
    "calibration_settings",
    "dashboard",
    "explain",
    "explanation_lines",
    "listed_studies",
    "remembered",
    "row_of",
    "study_lines",
    "study_view",
    "trial_lines",
    "trust_lines",
    "write_report",
]
