"""Colours that moved or faded as a whole.

Clipped whites are not counted: a plain white page flips between 254 and 255 freely.
"""

import torch
from torch import Tensor

from ..drift.ciede2000 import srgb_to_lab
from .detector import Detector

BLOCK_PX = 8
CAST_LAB = 2.5  # distance of the mean colours
CHROMA_RATIO = (0.9, 1.1)
CHROMA_LAB = 2.5  # the least change of mean chroma worth a ratio: a grey picture has next to none


def _compute(reference_BCHW: Tensor | None, candidate_BCHW: Tensor) -> list[str | None]:
    if reference_BCHW is None:
        return [None] * candidate_BCHW.shape[0]
    # Means of 8-px blocks: noise is no colour, but would add to the chroma of every pixel.
    reference_lab, candidate_lab = _block_means(reference_BCHW), _block_means(candidate_BCHW)
    casts = torch.linalg.vector_norm(reference_lab.mean(dim=(2, 3)) - candidate_lab.mean(dim=(2, 3)), dim=1)
    before = torch.hypot(reference_lab[:, 1], reference_lab[:, 2]).mean(dim=(1, 2))
    after = torch.hypot(candidate_lab[:, 1], candidate_lab[:, 2]).mean(dim=(1, 2))
    return [_reason(*values) for values in zip(casts.tolist(), before.tolist(), after.tolist(), strict=True)]


def _block_means(image_BCHW: Tensor) -> Tensor:
    """(B, 3, H // 8, W // 8) CIELAB; some rows of blocks at a time, whose colours stay in the cache."""
    strips = image_BCHW[:, :, : image_BCHW.shape[2] // BLOCK_PX * BLOCK_PX].split(16 * BLOCK_PX, dim=2)
    return torch.cat([torch.nn.functional.avg_pool2d(srgb_to_lab(strip), BLOCK_PX) for strip in strips], dim=2)


def _reason(cast: float, chroma_before: float, chroma_after: float) -> str | None:
    if cast > CAST_LAB:
        return f"the mean colour moved by {cast:.1f} in CIELAB"
    low, high = CHROMA_RATIO
    moved = abs(chroma_after - chroma_before) > CHROMA_LAB
    if moved and not low * chroma_before <= chroma_after <= high * chroma_before:
        how = "paler" if chroma_after < chroma_before else "stronger"
        return f"colours became {how}: mean chroma {chroma_before:.1f} -> {chroma_after:.1f}"
    return None


detector = Detector(
    name="color_cast",
    breaks=False,
    summary="mean colour moved by over 2.5 in CIELAB, or mean chroma by over 10 %",
    source="own thresholds",
    compute=_compute,
)
