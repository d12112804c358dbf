"""Means over square tiles that cover a whole picture, whatever its size."""

import torch
from torch import Tensor


def tile_starts(length_px: int, tile_px: int, stride_px: int) -> list[int]:
    """First pixels of the tiles along one side: every `stride_px`, and a last tile flush with the end.

    Needs tile_px <= length_px. The last tile overlaps its neighbour when the stride does not divide the side: no
    pixel is left out and no tile is padded.
    """
    last = length_px - tile_px
    starts = list(range(0, last + 1, stride_px))
    return starts if starts[-1] == last else [*starts, last]


def tile_means(values_BHW: Tensor, starts_y: list[int], starts_x: list[int], height_px: int, width_px: int) -> Tensor:
    """Mean of `values_BHW` in each tile -> float64 (B, len(starts_y), len(starts_x)).

    By a summed-area table in float64: exact to about 1e-9 for pictures of 1e6 pixels, and one pass for any overlap.
    """
    table = torch.nn.functional.pad(values_BHW.to(torch.float64), (1, 0, 1, 0)).cumsum(1).cumsum(2)
    top, left = torch.tensor(starts_y), torch.tensor(starts_x)
    bottom, right = top + height_px, left + width_px

    def corner(y: Tensor, x: Tensor) -> Tensor:
        return table[:, y[:, None], x[None, :]]

    sums = corner(bottom, right) - corner(top, right) - corner(bottom, left) + corner(top, left)
    return sums / (height_px * width_px)


def tile_stds(values_BHW: Tensor, starts_y: list[int], starts_x: list[int], height_px: int, width_px: int) -> Tensor:
    """Standard deviation in each tile, float64, same shape as `tile_means`."""
    centred = values_BHW.to(torch.float64) - values_BHW.to(torch.float64).mean(dim=(1, 2), keepdim=True)
    mean = tile_means(centred, starts_y, starts_x, height_px, width_px)
    mean_of_squares = tile_means(centred.square(), starts_y, starts_x, height_px, width_px)
    return (mean_of_squares - mean.square()).clamp_min(0).sqrt()
