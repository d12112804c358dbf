"""A 64-px tile without any detail where the reference has some: a part that the decoder left empty."""

from torch import Tensor

from ..images import luma_levels
from ..tiles import tile_starts, tile_stds
from .detector import Detector

TILE_PX = 64
MARGIN_PX = 8
DEAD_LEVELS = 0.5  # standard deviation of luma, of 255
ALIVE_LEVELS = 2.0


def _compute(reference_BCHW: Tensor | None, candidate_BCHW: Tensor) -> list[str | None]:
    if reference_BCHW is None:
        return [None] * candidate_BCHW.shape[0]  # plain backgrounds are dead tiles of healthy pictures
    reference_BHW, candidate_BHW = luma_levels(reference_BCHW), luma_levels(candidate_BCHW)
    tile_y, tile_x = (min(TILE_PX, side) for side in candidate_BHW.shape[1:])
    # Half overlapping: a hole does not keep to a grid.
    starts_y = tile_starts(candidate_BHW.shape[1], tile_y, TILE_PX // 2)
    starts_x = tile_starts(candidate_BHW.shape[2], tile_x, TILE_PX // 2)
    after = tile_stds(candidate_BHW, starts_y, starts_x, tile_y, tile_x)
    # The reference must have its detail well inside the tile: of an outline that only touches its edge, a drift of
    # some pixels leaves nothing there, and nothing is broken.
    margin_y, margin_x = min(MARGIN_PX, tile_y // 4), min(MARGIN_PX, tile_x // 4)
    before = tile_stds(
        reference_BHW,
        [start + margin_y for start in starts_y],
        [start + margin_x for start in starts_x],
        tile_y - 2 * margin_y,
        tile_x - 2 * margin_x,
    )
    reasons: list[str | None] = []
    for dead in (after < DEAD_LEVELS) & (before > ALIVE_LEVELS):
        if not dead.any():
            reasons.append(None)
            continue
        row, column = dead.nonzero()[0].tolist()
        reasons.append(
            f"{int(dead.sum())} tiles of {tile_x} x {tile_y} px have lost all detail, the first at "
            f"x = {starts_x[column]}, y = {starts_y[row]}"
        )
    return reasons


detector = Detector(
    name="dead_tile",
    breaks=True,
    summary="a 64-px tile has standard deviation under 0.5 levels where the reference has over 2",
    source="own thresholds",
    compute=_compute,
)
