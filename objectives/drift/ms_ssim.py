"""Multi-scale structural similarity: layout and large forms count beside texture.

The published five scales need 161 px a side, because the coarsest (1/16) must hold one window of 11 px. Smaller
pictures use the scales that fit, with the published weights rescaled to sum to 1: four from 81 px (so at 128 px), three
from 41 px, two from 21 px, one below. Values of different numbers of scales are not comparable with each other; within
a study the size of a request is fixed, so they are never compared.
"""

import torch
from torch import Tensor

from .gaussian import WINDOW_PX, ssim_terms
from .metric import Metric

WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)  # Wang et al. 2003, from fine to coarse


def scales_that_fit(side_px: int) -> int:
    """How many of the five scales a picture with this shorter side has room for, at least 1."""
    scales = 1
    while scales < len(WEIGHTS) and (side_px := (side_px + 1) // 2) >= WINDOW_PX:
        scales += 1
    return scales


def _compute(reference_BCHW: Tensor, candidate_BCHW: Tensor) -> Tensor:
    x, y = reference_BCHW, candidate_BCHW
    scales = scales_that_fit(min(x.shape[2:]))
    weights = torch.tensor(WEIGHTS[:scales], dtype=torch.float64)
    weights = weights / weights.sum()
    product_BC = torch.ones(x.shape[:2], dtype=torch.float64)
    for scale in range(scales):
        similarity_BC, contrast_structure_BC = ssim_terms(x, y)
        # Luminance counts at the coarsest scale only. A negative term has no real power: it is as bad as none.
        term_BC = similarity_BC if scale == scales - 1 else contrast_structure_BC
        product_BC = product_BC * term_BC.clamp_min(0) ** weights[scale]
        if scale < scales - 1:
            x, y = _halve(x), _halve(y)
    return product_BC.mean(dim=1)


def _halve(image_BCHW: Tensor) -> Tensor:
    padding = [side % 2 for side in image_BCHW.shape[2:]]
    return torch.nn.functional.avg_pool2d(image_BCHW, kernel_size=2, padding=padding)


metric = Metric(
    name="ms_ssim",
    unit="1",
    higher_is_better=True,
    best=1.0,
    summary="multi-scale structural similarity; fewer scales below 161 px a side",
    source="Wang, Simoncelli & Bovik 2003, doi:10.1109/ACSSC.2003.1292216",
    compute=_compute,
)
