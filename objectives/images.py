"""What every comparison of pictures needs: quantisation, luma, linear light, and the check of a pair's shapes."""

import torch
from torch import Tensor

LEVELS = 255
"""Steps of an 8-bit channel: a difference of 1/LEVELS is one LSB."""

_REC601 = (0.299, 0.587, 0.114)


def to_uint8(image_BCHW: Tensor) -> Tensor:
    """Floats in [0, 1] -> the uint8 picture people get, any shape, on the CPU.

    Clamped and rounded as diffusers' `VaeImageProcessor` does; NaN becomes 0, as it does on most machines there.
    """
    floats = image_BCHW.detach().to(device="cpu", dtype=torch.float32)
    return floats.nan_to_num(nan=0.0, posinf=1.0, neginf=0.0).clamp_(0, 1).mul_(LEVELS).round_().to(torch.uint8)


def from_uint8(image_BCHW: Tensor) -> Tensor:
    """uint8 -> float32 in [0, 1], any shape. `to_uint8(from_uint8(x)) == x`."""
    return image_BCHW.to(torch.float32) / LEVELS


def luma_levels(image_BCHW: Tensor) -> Tensor:
    """(B, 3, H, W) in [0, 1] -> luma (B, H, W) in [0, 255], float64. Rec. ITU-R BT.601 weights on sRGB as coded."""
    red, green, blue = image_BCHW.unbind(dim=1)
    luma_BHW = red.to(torch.float64) * _REC601[0]
    return luma_BHW.add_(green, alpha=_REC601[1]).add_(blue, alpha=_REC601[2]).mul_(LEVELS)


def srgb_to_linear(image: Tensor) -> Tensor:
    """sRGB in [0, 1], any shape -> linear light, of the same type. IEC 61966-2-1."""
    return torch.where(image <= 0.04045, image / 12.92, ((image + 0.055) / 1.055).pow_(2.4))


def check_pictures(name: str, image_BCHW: Tensor) -> None:
    """Raise ValueError unless these are pictures: (B, 3, H, W) floats with at least 16 px a side."""
    if image_BCHW.ndim != 4 or image_BCHW.shape[1] != 3 or not image_BCHW.is_floating_point():
        raise ValueError(
            f"{name} must be floats of shape (B, 3, H, W), not {image_BCHW.dtype} of {tuple(image_BCHW.shape)}"
        )
    if min(image_BCHW.shape[2:]) < 16:
        raise ValueError(f"{name} is {tuple(image_BCHW.shape[2:])} px: pictures under 16 px a side are not compared")


def check_pair(reference_BCHW: Tensor, candidate_BCHW: Tensor) -> None:
    """Raise ValueError unless both are pictures of the same shape."""
    check_pictures("reference", reference_BCHW)
    check_pictures("candidate", candidate_BCHW)
    if reference_BCHW.shape != candidate_BCHW.shape:
        raise ValueError(
            f"reference {tuple(reference_BCHW.shape)} and candidate {tuple(candidate_BCHW.shape)} differ in shape"
        )
