"""sRGB to the opponent colours that SSIMULACRA 2 compares: red-green, lightness, and blue-yellow, each within [0,
1]."""

import torch
from torch import Tensor

# JPEG XL's XYB (ISO/IEC 18181-1): linear sRGB -> the three kinds of cones, whose response is a cube root with a bias.
_SRGB_TO_LMS = (
    (0.30, 0.622, 0.078),
    (0.23, 0.692, 0.078),
    (0.24342268924547819, 0.20476744424496821, 0.55180986650955360),
)
_BIAS = 0.0037930732552754493


def srgb_to_linear(image_BCHW: Tensor) -> Tensor:
    """sRGB in [0, 1], any shape -> linear light, float64. IEC 61966-2-1."""
    coded = image_BCHW.to(torch.float64)
    return torch.where(coded <= 0.04045, coded / 12.92, ((coded + 0.055) / 1.055) ** 2.4)


def linear_to_positive_xyb(linear_BCHW: Tensor) -> Tensor:
    """Linear sRGB (B, 3, H, W) -> float64 (B, 3, H, W): X, Y and B - Y, scaled and moved as SSIMULACRA 2 does.

    Y of sRGB is in [.01, .86], X in [.20, .82], B - Y in [.27, .94].
    """
    matrix = torch.tensor(_SRGB_TO_LMS, dtype=torch.float64)
    cones = torch.einsum("ij,bjhw->bihw", matrix, linear_BCHW.to(torch.float64)).clamp_min(0) + _BIAS
    long, medium, short = (cones.pow_(1 / 3) - _BIAS ** (1 / 3)).unbind(dim=1)
    x, y = (long - medium) / 2, (long + medium) / 2
    return torch.stack((14 * x + 0.42, y + 0.01, short - y + 0.55), dim=1)
