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


def linear_to_positive_xyb(linear_BCHW: Tensor) -> Tensor:
    """Linear sRGB (B, 3, H, W) -> X, Y and B - Y (B, 3, H, W), scaled and moved as SSIMULACRA 2 does; keeps the type.

    Y of sRGB is in [.01, .86], X in [.20, .82], B - Y in [.27, .94].
    """
    red, green, blue = linear_BCHW.unbind(dim=1)
    long, medium, short = (
        (r * red).add_(green, alpha=g).add_(blue, alpha=b).clamp_min_(0).add_(_BIAS).pow_(1 / 3).sub_(_BIAS ** (1 / 3))
        for r, g, b in _SRGB_TO_LMS
    )
    lightness = (long + medium).div_(2)
    return torch.stack(((long - medium).mul_(7).add_(0.42), lightness + 0.01, (short - lightness).add_(0.55)), dim=1)
