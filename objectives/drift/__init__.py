"""How far a candidate picture is from its reference: one metric per file, all listed in `METRICS`.

A new metric is a file with a `metric`, an entry here, and, if it is to decide verdicts, a row in
`objectives/verdict.py`.
"""

from . import (
    changed_pixels,
    delta_e_mean,
    delta_e_p99,
    gmsd,
    max_abs_difference,
    ms_ssim,
    ncc32,
    psnr,
    ssim,
    worst_tile_psnr,
)
from .metric import Metric

METRICS: tuple[Metric, ...] = (
    max_abs_difference.metric,
    changed_pixels.metric,
    psnr.metric,
    worst_tile_psnr.metric,
    ssim.metric,
    ms_ssim.metric,
    gmsd.metric,
    delta_e_mean.metric,
    delta_e_p99.metric,
    ncc32.metric,
)

__all__ = ["METRICS", "Metric"]
