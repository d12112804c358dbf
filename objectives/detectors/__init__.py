"""Failures that a mean metric can miss: one detector per file, all listed in `DETECTORS`, the breaking ones first.

Latents are not looked at here: NaN in them reach the decoded picture.
"""

from . import (
    black,
    block_grid,
    color_cast,
    composition,
    dead_tile,
    mosaic,
    noise,
    non_finite,
    over_smoothing,
)
from .detector import Detector

DETECTORS: tuple[Detector, ...] = (
    non_finite.detector,
    black.detector,
    dead_tile.detector,
    mosaic.detector,
    block_grid.detector,
    color_cast.detector,
    over_smoothing.detector,
    noise.detector,
    composition.detector,
)

__all__ = ["DETECTORS", "Detector"]
