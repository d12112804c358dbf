"""Correlation of 32 x 32 thumbnails: is it still the same composition? Ignores texture, shade and colour."""

import torch
from torch import Tensor

from ..images import luma_levels
from .metric import Metric

SIDE_PX = 32


def _compute(reference_BCHW: Tensor, candidate_BCHW: Tensor) -> Tensor:
    x, y = _thumbnail(reference_BCHW), _thumbnail(candidate_BCHW)
    covariance = (x * y).mean(dim=1)
    # One squared level on every term: two nearly empty pictures correlate (not by their rounding alone), an empty one
    # and a drawn one do not.
    variance_x, variance_y = x.square().mean(dim=1) + 1, y.square().mean(dim=1) + 1
    return ((covariance + 1) / (variance_x * variance_y).sqrt()).clamp(-1, 1)


def _thumbnail(image_BCHW: Tensor) -> Tensor:
    side_px = min(SIDE_PX, *image_BCHW.shape[2:])  # smaller pictures are taken as they are, never enlarged
    thumbnail = torch.nn.functional.adaptive_avg_pool2d(luma_levels(image_BCHW).unsqueeze(1), side_px).flatten(1)
    return thumbnail - thumbnail.mean(dim=1, keepdim=True)


metric = Metric(
    name="ncc32",
    unit="1",
    higher_is_better=True,
    best=1.0,
    summary="normalised cross-correlation of luma thumbnails of 32 px a side",
    source="Lewis 1995, Fast Normalized Cross-Correlation, Vision Interface",
    compute=_compute,
)
