"""sRGB to CIELAB, and the colour difference CIEDE2000. About 1 is what a viewer can just notice between patches."""

import math

import torch
from torch import Tensor

from ..images import srgb_to_linear

# IEC 61966-2-1: linear sRGB -> CIE XYZ, D65. The white point is the matrix's own, so that greys have a = b = 0.
_SRGB_TO_XYZ = ((0.4124564, 0.3575761, 0.1804375), (0.2126729, 0.7151522, 0.0721750), (0.0193339, 0.1191920, 0.9503041))
_SRGB_TO_WHITE_XYZ = [[weight / sum(row) for weight in row] for row in _SRGB_TO_XYZ]

_STRIP_PX = 128  # rows at a time: two dozen maps of them stay in the cache, those of a large picture do not


def srgb_to_lab(image_BCHW: Tensor) -> Tensor:
    """(B, 3, H, W) sRGB in [0, 1] -> (B, 3, H, W), L in [0, 100], a, b, of the same type."""
    red, green, blue = srgb_to_linear(image_BCHW).unbind(dim=1)
    x, y, z = (_lab_curve((r * red).add_(green, alpha=g).add_(blue, alpha=b)) for r, g, b in _SRGB_TO_WHITE_XYZ)
    return torch.stack((116 * y - 16, (x - y).mul_(500), (y - z).mul_(200)), dim=1)


def _lab_curve(share_of_white: Tensor) -> Tensor:
    line = share_of_white / (3 * (6 / 29) ** 2) + 4 / 29
    return torch.where(share_of_white > (6 / 29) ** 3, share_of_white.clamp_min(1e-12).pow_(1 / 3), line)


def ciede2000(reference_lab: Tensor, candidate_lab: Tensor) -> Tensor:
    """Colour difference of CIELAB colours (B, 3, ...) -> (B, ...) of the same type, kL = kC = kH = 1.

    Steps and numbers as Sharma, Wu & Dalal 2005, doi:10.1002/col.20070, equations 2 to 22.
    """
    l1, a1, b1 = reference_lab.unbind(dim=1)
    l2, a2, b2 = candidate_lab.unbind(dim=1)
    mean_chroma_7 = ((torch.hypot(a1, b1) + torch.hypot(a2, b2)) / 2) ** 7
    g = 0.5 * (1 - (mean_chroma_7 / (mean_chroma_7 + 25.0**7)).sqrt())
    a1, a2 = (1 + g) * a1, (1 + g) * a2
    c1, c2 = torch.hypot(a1, b1), torch.hypot(a2, b2)
    h1, h2 = torch.atan2(b1, a1) % (2 * math.pi), torch.atan2(b2, a2) % (2 * math.pi)

    grey = (c1 * c2) == 0  # the hue of a grey is undefined
    dh = h2 - h1
    dh = torch.where(dh > math.pi, dh - 2 * math.pi, torch.where(dh < -math.pi, dh + 2 * math.pi, dh))
    dh = torch.where(grey, torch.zeros_like(dh), dh)
    delta_h = 2 * (c1 * c2).sqrt() * torch.sin(dh / 2)

    h_sum, far_apart = h1 + h2, (h1 - h2).abs() > math.pi
    h_mean = torch.where(
        far_apart, torch.where(h_sum < 2 * math.pi, h_sum / 2 + math.pi, h_sum / 2 - math.pi), h_sum / 2
    )
    h_mean = torch.where(grey, h_sum, h_mean)
    l_mean, c_mean = (l1 + l2) / 2, (c1 + c2) / 2

    t = (
        1
        - 0.17 * torch.cos(h_mean - math.radians(30))
        + 0.24 * torch.cos(2 * h_mean)
        + 0.32 * torch.cos(3 * h_mean + math.radians(6))
        - 0.20 * torch.cos(4 * h_mean - math.radians(63))
    )
    rotation = math.radians(30) * torch.exp(-(((torch.rad2deg(h_mean) - 275) / 25) ** 2))
    c_mean_7 = c_mean**7
    r_t = -torch.sin(2 * rotation) * 2 * (c_mean_7 / (c_mean_7 + 25.0**7)).sqrt()
    l_offset = (l_mean - 50).square()
    lightness = (l2 - l1) / (1 + 0.015 * l_offset / (20 + l_offset).sqrt())
    chroma = (c2 - c1) / (1 + 0.045 * c_mean)
    hue = delta_h / (1 + 0.015 * c_mean * t)
    return (lightness.square() + chroma.square() + hue.square() + r_t * chroma * hue).clamp_min(0).sqrt()


def delta_e_map(reference_BCHW: Tensor, candidate_BCHW: Tensor) -> Tensor:
    """Two sRGB pictures (B, 3, H, W) in [0, 1] -> CIEDE2000 of each pixel (B, H, W), of the same type."""
    strips = zip(reference_BCHW.split(_STRIP_PX, dim=2), candidate_BCHW.split(_STRIP_PX, dim=2), strict=True)
    return torch.cat([ciede2000(srgb_to_lab(reference), srgb_to_lab(candidate)) for reference, candidate in strips], 1)
