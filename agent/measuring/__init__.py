"""What is measured beside trials: the noise floor, canaries, more pictures, finalists in blocks, comparisons."""

from .ablation import measure_ablation
from .compare import compare, contender
from .finalists import confirm, finalists
from .fleet import Verified, verify_everywhere
from .machine_drift import check_machine, measure_canary, moved_words, unchecked_trials
from .more_pictures import judge_more, more_pictures
from .noise_floor import ensure_floor
from .ray_cluster import Cluster
from .ray_runner import RayRunner, by_device
from .reordering_floor import ensure_reordering_floor
from .replay import ReplayRunner
from .runner import INFRASTRUCTURE_TRIES, LocalRunner, Runner
from .study_runs import Begun, StudyRuns

__all__ = [
    "INFRASTRUCTURE_TRIES",
    "Begun",
    "Cluster",
    "LocalRunner",
    "RayRunner",
    "ReplayRunner",
    "Runner",
    "StudyRuns",
    "Verified",
    "by_device",
    "check_machine",
    "compare",
    "confirm",
    "contender",
    "ensure_floor",
    "ensure_reordering_floor",
    "finalists",
    "judge_more",
    "measure_ablation",
    "measure_canary",
    "more_pictures",
    "moved_words",
    "unchecked_trials",
    "verify_everywhere",
]
