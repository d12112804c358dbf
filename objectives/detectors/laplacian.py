"""The energy of fine detail, which noise raises and smoothing lowers."""

import torch
from torch import Tensor

from ..images import luma_levels

_FLOOR = 25.0  # squared levels: a little more than the 20 that +-1 LSB on every pixel adds to an empty picture


def laplacian_energy_ratio(reference_BCHW: Tensor, candidate_BCHW: Tensor) -> Tensor:
    """Mean squared Laplacian of luma, candidate over reference, (B,) float64; 1 when nothing changed."""
    return (_energy(candidate_BCHW) + _FLOOR) / (_energy(reference_BCHW) + _FLOOR)


def _energy(image_BCHW: Tensor) -> Tensor:
    kernel = torch.tensor([[0.0, 1.0, 0.0], [1.0, -4.0, 1.0], [0.0, 1.0, 0.0]], dtype=torch.float64).view(1, 1, 3, 3)
    laplacian_B1HW = torch.nn.functional.conv2d(luma_levels(image_BCHW).unsqueeze(1), kernel)
    return laplacian_B1HW.square().mean(dim=(1, 2, 3))
