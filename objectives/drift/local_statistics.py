"""What SSIM and SSIMULACRA 2 compare through their windows, written so that float32 is enough.

The textbook's covariance is a small difference of large numbers where two pictures are alike, which is where verdicts
are decided. Here the difference of the pictures is taken first, and its own variance stands for what the covariance
lacks: var(y - x) = var x + var y - 2 cov(x, y). Equal pictures give exactly 0, whatever is rounded; of 1 - SSIM, the
rounding is less than a thousandth.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from .blur import blur


@dataclass(frozen=True)
class LocalStatistics:
    """Of planes x and y, each (H, W), in every window: all (H - 2 reach, W - 2 reach), of the planes' type."""

    mean_x: Tensor
    mean_difference: Tensor
    """Of y - x."""
    variances: Tensor
    """Of x plus that of y; may be a rounding error below 0."""
    variance_difference: Tensor
    """Of y - x, at least 0."""


def local_statistics(x_HW: Tensor, y_HW: Tensor, half_kernel: Sequence[float]) -> LocalStatistics:
    """Through a window with these weights, from its centre outwards (see blur.py)."""
    difference = y_HW - x_HW
    mean_x, mean_difference = blur(x_HW, half_kernel), blur(difference, half_kernel)
    mean_y = mean_x + mean_difference
    variances = blur((x_HW * x_HW).addcmul_(y_HW, y_HW), half_kernel)
    variances.addcmul_(mean_x, mean_x, value=-1).addcmul_(mean_y, mean_y, value=-1)
    variance_difference = blur(difference.square_(), half_kernel)
    variance_difference.addcmul_(mean_difference, mean_difference, value=-1).clamp_min_(0)
    return LocalStatistics(mean_x, mean_difference, variances, variance_difference)
