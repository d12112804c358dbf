"""Blocks of 8 px, the size of a latent pixel: everything finer was lost. Strong ones break a picture.

Two things are compared with the reference: how much steeper luma is across the lines of the 8-px grid than beside
them, and how many 8-px blocks have anything drawn inside. `block_grid.py` flags grids that are weak or leave the
blocks' insides alone.
"""

import torch
from torch import Tensor

from ..images import luma_levels
from ..tiles import tile_starts, tile_stds
from .detector import Detector

GRID_PX = 8
TILE_PX = 256
STRONG_RATIO = 2.0
KEPT_SHARE = 0.75  # of the blocks with something drawn inside
LINES_SHARE = 0.25  # of the grid lines in a tile
_DRAWN_LEVELS = 2.0  # standard deviation of luma inside a block
_FLOOR_LEVELS = 0.5  # a mean step of half a level is rounding


def grid_tiles(reference_BCHW: Tensor, candidate_BCHW: Tensor) -> tuple[Tensor, Tensor]:
    """For every 256-px tile, (B, tiles) float64: the rise of grid steepness, and the share of drawn blocks kept.

    The rise is 1 when nothing changed or when it is no more than that of the same lines moved by 1 to 7 px, which a
    grid leaves alone while a picture that moved or was smoothed changes all of them.
    """
    height, width = (side // GRID_PX * GRID_PX for side in candidate_BCHW.shape[2:])
    if min(height, width) < 4 * GRID_PX:  # three lines are no grid
        return (torch.ones(candidate_BCHW.shape[0], 1, dtype=torch.float64),) * 2
    tile_y, tile_x = min(TILE_PX, height), min(TILE_PX, width)
    reference_BHW, candidate_BHW = luma_levels(reference_BCHW), luma_levels(candidate_BCHW)
    ratios, kept = [], []
    for top in tile_starts(height, tile_y, TILE_PX):
        for left in tile_starts(width, tile_x, TILE_PX):
            window = (slice(None), slice(top, top + tile_y), slice(left, left + tile_x))
            reference, candidate = reference_BHW[window], candidate_BHW[window]
            rise_BP = _rise_by_phase(reference, candidate)
            ratios.append(rise_BP[:, 0] / rise_BP[:, 1:].amax(dim=1).clamp_min(1))
            # One more on both sides: a tile that had nothing drawn has nothing to lose.
            kept.append((_drawn_blocks(candidate) + 1) / (_drawn_blocks(reference) + 1))
    return torch.stack(ratios, dim=1).clamp_min(1), torch.stack(kept, dim=1)


def is_mosaic(ratio: Tensor, kept: Tensor) -> Tensor:
    """Which of the tiles of `grid_tiles` are mosaics, (B, tiles) bool."""
    return (ratio > STRONG_RATIO) & (kept < KEPT_SHARE)


def _rise_by_phase(reference_BHW: Tensor, candidate_BHW: Tensor) -> Tensor:
    """(B, 8) rise of the steepness of lines every 8 px, which start on the grid or 1, 2, ... px after it.

    The median of the lines, because an outline that moved on to a line raises that line and a mosaic raises all it
    covers. Lines with nothing drawn near them say nothing; when most are like that, the rise is 1.
    """
    on_before, near_before, phase = _steepness(reference_BHW)
    on_after, near_after, _ = _steepness(candidate_BHW)
    before = (on_before + _FLOOR_LEVELS) / (near_before + _FLOOR_LEVELS)
    after = (on_after + _FLOOR_LEVELS) / (near_after + _FLOOR_LEVELS)
    drawn = torch.maximum(near_before, on_after) > _FLOOR_LEVELS
    rise_BL = torch.where(drawn, after / before, torch.nan)
    rises = []
    for offset in range(GRID_PX):
        mine = phase == offset
        enough = drawn[:, mine].to(torch.float64).mean(dim=1) >= LINES_SHARE
        rises.append(torch.where(enough, rise_BL[:, mine].nanmedian(dim=1).values, 1.0))
    return torch.stack(rises, dim=1)


def _steepness(luma_BHW: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Mean absolute step in levels across each row's and column's line, and of the four steps on either side of it.

    Both (B, lines), for a tile that starts on the grid, and each line's offset from the grid in px, (lines,).
    """
    steps_x = (luma_BHW[:, :, 1:] - luma_BHW[:, :, :-1]).abs().mean(dim=1)
    steps_y = (luma_BHW[:, 1:, :] - luma_BHW[:, :-1, :]).abs().mean(dim=2)
    reach = GRID_PX // 2
    windows = [steps.unfold(1, 2 * reach + 1, 1) for steps in (steps_x, steps_y)]
    # Step i lies between pixels i and i + 1, so the first grid line is step GRID_PX - 1.
    phases = [(torch.arange(window.shape[1]) + reach + 1) % GRID_PX for window in windows]
    window_BLN = torch.cat(windows, dim=1)
    on = window_BLN[:, :, reach]
    return on, (window_BLN.sum(dim=2) - on) / (2 * reach), torch.cat(phases)


def _drawn_blocks(luma_BHW: Tensor) -> Tensor:
    """(B,) number of 8-px blocks on the grid with something drawn inside."""
    starts_y, starts_x = (tile_starts(side, GRID_PX, GRID_PX) for side in luma_BHW.shape[1:])
    return (tile_stds(luma_BHW, starts_y, starts_x, GRID_PX, GRID_PX) > _DRAWN_LEVELS).sum(dim=(1, 2))


def _compute(reference_BCHW: Tensor | None, candidate_BCHW: Tensor) -> list[str | None]:
    if reference_BCHW is None:
        return [None] * candidate_BCHW.shape[0]  # pixel art is a mosaic on purpose
    ratios, kept = grid_tiles(reference_BCHW, candidate_BCHW)
    found = is_mosaic(ratios, kept)
    return [
        f"a mosaic of 8-px blocks: {share:.0%} of the drawn blocks are left in a tile, and the lines between them are "
        f"{ratio:.1f} times steeper than in the reference"
        if hit
        else None
        for hit, share, ratio in zip(
            found.any(dim=1).tolist(),
            torch.where(found, kept, torch.inf).amin(dim=1).tolist(),
            ratios.amax(dim=1).tolist(),
            strict=True,
        )
    ]


detector = Detector(
    name="mosaic",
    breaks=True,
    summary="in a 256-px tile, 8-px grid lines are over twice as steep and a quarter of the blocks lost their insides",
    source="after the blockiness of Wang, Sheikh & Bovik 2002, doi:10.1109/ICIP.2002.1038064; own thresholds",
    compute=_compute,
)
