"""Metrics that need a trained model's weights, which the user gives by path: one per file, all listed in `LEARNED`.

Importing this package imports no model library: that happens in a metric's `load`.
"""

import difflib

from . import clip_i, clip_score, dreamsim, hpsv2, image_reward, lpips, pick_score
from .learned_metric import LearnedMetric, Scorer

LEARNED: tuple[LearnedMetric, ...] = (
    lpips.metric,
    dreamsim.metric,
    clip_i.metric,
    clip_score.metric,
    pick_score.metric,
    hpsv2.metric,
    image_reward.metric,
)


def learned_metric(name: str) -> LearnedMetric:
    """The metric of this name; ValueError, with a name that is close to it, when there is none."""
    known = {metric.name: metric for metric in LEARNED}
    if name not in known:
        close = difflib.get_close_matches(name, known)
        hint = f"did you mean {' or '.join(close)}?" if close else f"there are {', '.join(known)}"
        raise ValueError(f"there is no metric with weights {name!r}; {hint}")
    return known[name]


__all__ = ["LEARNED", "LearnedMetric", "Scorer", "learned_metric"]
