"""What is measured: latency, memory, drift and its verdict, and the fingerprint all of it is bound to.

Importing this package does not import torch: the process that launches trials stays light. What handles pictures is
imported by its path: `paretune.objectives.pictures`, `paretune.objectives.drift`, `paretune.objectives.detectors`.
(The number `drift` is `paretune.objectives.verdict.drift`: here, `drift` is the folder of metrics.)
"""

from .fingerprint import Fingerprint
from .measuring.latency import LatencySummary, mix_mean, summarize
from .measuring.memory import MemorySummary, PeakMemory
from .verdict import MAX_DRIFT, THRESHOLDS, Thresholds, Verdict, judge, verdict_of_drift

__all__ = [
    "MAX_DRIFT",
    "THRESHOLDS",
    "Fingerprint",
    "LatencySummary",
    "MemorySummary",
    "PeakMemory",
    "Thresholds",
    "Verdict",
    "judge",
    "mix_mean",
    "summarize",
    "verdict_of_drift",
]
