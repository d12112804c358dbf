"""How far a candidate picture is from its reference: one metric per file, all listed in `METRICS`.

A new metric is a file with a `metric`, an entry here, and, if it is to decide verdicts, a row in
`objectives/verdict.py`. A user's own metrics stand in files of their own, which `load_metrics` reads.
"""

import importlib.util
import sys
from pathlib import Path

from . import (
    changed_pixels,
    delta_e_mean,
    delta_e_p99,
    gmsd,
    max_abs_difference,
    ms_ssim,
    ncc32,
    phash,
    psnr,
    ssim,
    ssimulacra2,
    worst_tile_psnr,
)
from .metric import Metric, measure

METRICS: tuple[Metric, ...] = (
    max_abs_difference.metric,
    changed_pixels.metric,
    psnr.metric,
    worst_tile_psnr.metric,
    ssim.metric,
    ms_ssim.metric,
    gmsd.metric,
    ssimulacra2.metric,
    delta_e_mean.metric,
    delta_e_p99.metric,
    ncc32.metric,
    phash.metric,
)

_own: dict[Path, tuple[Metric, ...]] = {}


def known_metrics() -> tuple[Metric, ...]:
    """Those that come with paretune and those that were loaded."""
    return (*METRICS, *(metric for metrics in _own.values() for metric in metrics))


def load_metrics(file: Path) -> tuple[Metric, ...]:
    """Import a Python file that defines METRICS, a tuple of a user's own metrics, and return them.

    Loading the same file again replaces them. Raises ValueError, in one sentence, when the file cannot be used or a
    name exists already.
    """
    file = file.resolve()
    name = f"paretune_own_metrics_{file.stem}"
    try:
        spec = importlib.util.spec_from_file_location(name, file)
        if spec is None or spec.loader is None:
            raise ImportError("it is not a Python file")
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module  # dataclasses in the file look their module up here
        spec.loader.exec_module(module)
        own = tuple(module.METRICS)
    except Exception as error:
        text = " ".join(f"{type(error).__name__}: {error}".split())
        raise ValueError(f"the metric file {file} cannot be used: {text}") from error
    names = {metric.name for other, metrics in (*_own.items(), (None, METRICS)) if other != file for metric in metrics}
    for metric in own:
        if not isinstance(metric, Metric):
            raise ValueError(f"the metric file {file} cannot be used: {metric!r} in METRICS is not a Metric")
        if metric.name in names:
            raise ValueError(f"{file}: there is a metric {metric.name!r} already")
        names.add(metric.name)
    _own[file] = own
    return own


__all__ = ["METRICS", "Metric", "known_metrics", "load_metrics", "measure"]
