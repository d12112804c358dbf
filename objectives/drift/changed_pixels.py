"""Share of pixels that differ at all after quantisation to 8 bits."""

import torch
from torch import Tensor

from ..images import to_uint8
from .metric import Metric


def _compute(reference_BCHW: Tensor, candidate_BCHW: Tensor) -> Tensor:
    changed_BHW = (to_uint8(reference_BCHW) != to_uint8(candidate_BCHW)).any(dim=1)
    return changed_BHW.to(torch.float64).mean(dim=(1, 2))


metric = Metric(
    name="changed_pixel_share",
    unit="share in [0, 1]",
    higher_is_better=False,
    best=0.0,
    summary="share of pixels of which any channel differs",
    source="definition",
    compute=_compute,
)
