"""The Gaussian window that SSIM and MS-SSIM look through."""

import torch
from torch import Tensor

WINDOW_PX = 11
SIGMA_PX = 1.5
_C1 = 0.01**2
_C2 = 0.03**2


def ssim_terms(reference_BCHW: Tensor, candidate_BCHW: Tensor) -> tuple[Tensor, Tensor]:
    """Mean SSIM and mean contrast-structure term, each (B, C), of pictures in [0, 1] with at least 11 px a side.

    As Wang et al. 2004: Gaussian window of 11 px with sigma 1.5, K1 = .01, K2 = .03, only whole windows.
    """
    x, y = reference_BCHW, candidate_BCHW
    mean_x, mean_y = _blur(x), _blur(y)
    variance_x = _blur(x * x) - mean_x.square()
    variance_y = _blur(y * y) - mean_y.square()
    covariance = _blur(x * y) - mean_x * mean_y
    contrast_structure = (2 * covariance + _C2) / (variance_x + variance_y + _C2)
    luminance = (2 * mean_x * mean_y + _C1) / (mean_x.square() + mean_y.square() + _C1)
    return (luminance * contrast_structure).mean(dim=(2, 3)), contrast_structure.mean(dim=(2, 3))


def _blur(image_BCHW: Tensor) -> Tensor:
    offsets = torch.arange(WINDOW_PX, dtype=image_BCHW.dtype) - WINDOW_PX // 2
    weights = torch.exp(-offsets.square() / (2 * SIGMA_PX**2))
    weights = weights / weights.sum()
    batch, channels, height, width = image_BCHW.shape
    planes = image_BCHW.reshape(batch * channels, 1, height, width)
    planes = torch.nn.functional.conv2d(planes, weights.view(1, 1, -1, 1))
    planes = torch.nn.functional.conv2d(planes, weights.view(1, 1, 1, -1))
    return planes.reshape(batch, channels, *planes.shape[2:])
