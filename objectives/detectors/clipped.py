"""A blown-out picture: nearly every value is at an end of the range, pure white mostly.

A picture that was scaled twice looks like this, and clipping hides whatever else is wrong with it.
"""

import torch
from torch import Tensor

from ..images import to_uint8
from .detector import Detector

CLIPPED_SHARE = 0.99  # of all values; of healthy pictures far less, white pages included
LEFT_SHARE = 0.2  # of the reference's values between the ends


def _compute(reference_BCHW: Tensor | None, candidate_BCHW: Tensor) -> list[str | None]:
    after = _share_between(candidate_BCHW)
    before = torch.ones_like(after) if reference_BCHW is None else _share_between(reference_BCHW)
    hit = (after < 1 - CLIPPED_SHARE) & (after < LEFT_SHARE * before)
    return [
        f"the picture is blown out: {1 - share:.1%} of its values are black or white" if found else None
        for share, found in zip(after.tolist(), hit.tolist(), strict=True)
    ]


def _share_between(image_BCHW: Tensor) -> Tensor:
    """(B,) share of the values that are neither 0 nor 255 of the 8-bit picture."""
    levels = to_uint8(image_BCHW)
    return ((levels > 0) & (levels < 255)).to(torch.float64).mean(dim=(1, 2, 3))


detector = Detector(
    name="clipped",
    breaks=True,
    summary="99 % of the values are 0 or 255, and of the reference's values between them under 20 % are left",
    source="own thresholds",
    compute=_compute,
)
