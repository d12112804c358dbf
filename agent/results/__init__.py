"""What is known: trials worked out from runs, the front and the best of it, figures, doubts, and what they say."""

from .ablation import Ablation, Earned, ablation_of, alone, without
from .baselines import TORCH_COMPILE, is_torch_compile_alone
from .cold_estimate import carries_code
from .confirmation import Speed
from .doubts import Doubt, DoubtKind, ended_early_words, picture_doubts, study_doubts, unconfirmed
from .front import TIE_RULE, pareto_front
from .limits import Limit, limit_words
from .machine import Canary, trials_before
from .people import MetricBesidePeople, PeopleSaid, people_said
from .remembered import Failed, FailedBefore, failed_before
from .results import Results
from .summary import (
    age_words,
    call_words,
    cold_start_words,
    compiling_text,
    cost_words,
    evidence_words,
    floor_note,
    headline,
    pictures_note,
    ties_note,
)
from .trial import Trial, numbers

__all__ = [
    "TIE_RULE",
    "TORCH_COMPILE",
    "Ablation",
    "Canary",
    "Doubt",
    "DoubtKind",
    "Earned",
    "Failed",
    "FailedBefore",
    "Limit",
    "MetricBesidePeople",
    "PeopleSaid",
    "Results",
    "Speed",
    "Trial",
    "ablation_of",
    "age_words",
    "alone",
    "call_words",
    "carries_code",
    "cold_start_words",
    "compiling_text",
    "cost_words",
    "ended_early_words",
    "evidence_words",
    "failed_before",
    "floor_note",
    "headline",
    "is_torch_compile_alone",
    "limit_words",
    "numbers",
    "pareto_front",
    "people_said",
    "picture_doubts",
    "pictures_note",
    "study_doubts",
    "ties_note",
    "trials_before",
    "unconfirmed",
    "without",
]
