"""The terms of SSIM, through the Gaussian window that SSIM and MS-SSIM look through."""

import math

import torch
from torch import Tensor

from .local_statistics import local_statistics

WINDOW_PX = 11
SIGMA_PX = 1.5
_C1 = 0.01**2
_C2 = 0.03**2

_WEIGHTS = [math.exp(-(offset**2) / (2 * SIGMA_PX**2)) for offset in range(WINDOW_PX // 2 + 1)]
_HALF_KERNEL = [weight / (2 * sum(_WEIGHTS) - _WEIGHTS[0]) for weight in _WEIGHTS]


def ssim_terms(reference_BCHW: Tensor, candidate_BCHW: Tensor) -> tuple[Tensor, Tensor]:
    """Mean SSIM and mean contrast-structure term, each (B, C), of pictures in [0, 1] with at least 11 px a side.

    As Wang et al. 2004: Gaussian window of 11 px with sigma 1.5, K1 = .01, K2 = .03, only whole windows.
    """
    planes = zip(reference_BCHW.flatten(0, 1), candidate_BCHW.flatten(0, 1), strict=True)
    terms_NT = torch.stack([_terms(x_HW, y_HW) for x_HW, y_HW in planes])
    similarity_BC, contrast_structure_BC = terms_NT.view(*reference_BCHW.shape[:2], 2).unbind(dim=2)
    return similarity_BC, contrast_structure_BC


def _terms(x_HW: Tensor, y_HW: Tensor) -> Tensor:
    """Both means of one plane, (2,)."""
    local = local_statistics(x_HW, y_HW, _HALF_KERNEL)
    # (2 cov + C2) / (var x + var y + C2), and the same of the means.
    contrast_structure = 1 - local.variance_difference / (local.variances + _C2)
    mean_y = local.mean_x + local.mean_difference
    squares = local.mean_x.square().addcmul_(mean_y, mean_y).add_(_C1)
    luminance = 1 - local.mean_difference.square() / squares
    return torch.stack(((luminance * contrast_structure).mean(), contrast_structure.mean()))
