"""Perceptual hash: how many of 64 bits about the coarsest forms changed. Finds moved things, and ignores noise.

As the package ImageHash's `phash`, which differs by a few bits: its thumbnail is resampled by Lanczos filters and
rounded, this one is of means. And where both waves are nearly as strong, a bit that turned is not counted: the waves of
an empty picture are rounding, and half of its bits would turn by themselves.
"""

import math

import torch
from torch import Tensor

from ..images import luma_levels
from .metric import Metric

SIDE_PX = 32
WAVES = 8
LEAST_CHANGE_LEVELS = 0.25


def _compute(reference_BCHW: Tensor, candidate_BCHW: Tensor) -> Tensor:
    before, after = _amplitudes(reference_BCHW), _amplitudes(candidate_BCHW)
    turned = _bits(before) != _bits(after)
    return (turned & ((before - after).abs() > LEAST_CHANGE_LEVELS)).sum(dim=1)


def _bits(amplitudes_BN: Tensor) -> Tensor:
    return amplitudes_BN > amplitudes_BN.median(dim=1, keepdim=True).values


def _amplitudes(image_BCHW: Tensor) -> Tensor:
    """Of the 8 x 8 longest cosine waves in a luma thumbnail, (B, 64) in levels."""
    thumbnail_BHW = torch.nn.functional.adaptive_avg_pool2d(luma_levels(image_BCHW), SIDE_PX)
    wave = torch.arange(WAVES, dtype=torch.float64)[:, None]
    pixel = torch.arange(SIDE_PX, dtype=torch.float64)[None, :]
    cosines = torch.cos(math.pi * wave * (pixel + 0.5) / SIDE_PX) * (2 / SIDE_PX)
    return (cosines @ thumbnail_BHW @ cosines.T).flatten(1)


metric = Metric(
    name="phash_bits",
    unit="bits of 64",
    higher_is_better=False,
    best=0.0,
    summary="bits of the perceptual hash that changed; two unrelated pictures differ in about 32",
    source="Zauner 2010, Implementation and Benchmarking of Perceptual Image Hash Functions; package ImageHash, phash",
    compute=_compute,
)
