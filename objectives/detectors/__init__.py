"""Failures that a mean metric can miss: one detector per file, all listed in `DETECTORS`, the breaking ones first.

Latents are not looked at here: NaN in them reach the decoded picture.
"""

from torch import Tensor

from . import (
    black,
    block_grid,
    clipped,
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
    clipped.detector,
    dead_tile.detector,
    mosaic.detector,
    block_grid.detector,
    color_cast.detector,
    over_smoothing.detector,
    noise.detector,
    composition.detector,
)


def shows_nothing(image_CHW: Tensor) -> str | None:
    """Why a picture is no evidence of anything, "detector: reason", or None; floats (3, H, W) in [0, 1].

    By the breaking detectors that need no reference. What is empty or blown out is equal to itself, however it came
    about. A mosaic or a dead part cannot be told from pixel art or a plain background alone.
    """
    for detector in DETECTORS:
        if detector.breaks and (reason := detector(None, image_CHW[None])[0]) is not None:
            return f"{detector.name}: {reason}"
    return None


__all__ = ["DETECTORS", "Detector", "shows_nothing"]
