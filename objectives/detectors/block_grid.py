"""A faint 8-px grid over the picture: a flag, also raised by strong JPEG compression."""

from torch import Tensor

from .detector import Detector
from .mosaic import grid_tiles, is_mosaic

WEAK_RATIO = 1.3


def _compute(reference_BCHW: Tensor | None, candidate_BCHW: Tensor) -> list[str | None]:
    if reference_BCHW is None:
        return [None] * candidate_BCHW.shape[0]
    ratios, kept = grid_tiles(reference_BCHW, candidate_BCHW)
    named = is_mosaic(ratios, kept).any(dim=1).tolist()  # once is enough
    return [
        f"a grid of 8 px: its lines are {ratio:.1f} times steeper than in the reference"
        if ratio > WEAK_RATIO and not is_named
        else None
        for ratio, is_named in zip(ratios.amax(dim=1).tolist(), named, strict=True)
    ]


detector = Detector(
    name="block_grid",
    breaks=False,
    summary="in some 256-px tile, 8-px grid lines are over 1.3 times steeper than in the reference",
    source="as mosaic.py",
    compute=_compute,
)
