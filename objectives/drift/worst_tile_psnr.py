"""PSNR of the worst 64-px tile: a mean over the picture hides a replaced object, the tile it stands in does not."""

import torch
from torch import Tensor

from ..tiles import tile_means, tile_starts
from .metric import Metric
from .psnr import psnr_db_of_mse

TILE_PX = 64


def _compute(reference_BCHW: Tensor, candidate_BCHW: Tensor) -> Tensor:
    # Sides under 64 px make smaller tiles; sides that 64 does not divide get a last tile flush with the edge.
    error_BHW = (reference_BCHW.to(torch.float64) - candidate_BCHW.to(torch.float64)).square().mean(dim=1)
    height_px, width_px = (min(TILE_PX, side) for side in error_BHW.shape[1:])
    starts_y = tile_starts(error_BHW.shape[1], height_px, TILE_PX)
    starts_x = tile_starts(error_BHW.shape[2], width_px, TILE_PX)
    worst_mse = tile_means(error_BHW, starts_y, starts_x, height_px, width_px).flatten(1).amax(dim=1)
    # The tile's mean comes from differences of running sums; below 1e-12 it is their rounding (a single LSB in a tile
    # is 1e-9), and equal pictures must give exactly +inf.
    return psnr_db_of_mse(torch.where(worst_mse < 1e-12, torch.zeros_like(worst_mse), worst_mse))


metric = Metric(
    name="worst_tile_psnr_db",
    unit="dB",
    higher_is_better=True,
    best=float("inf"),
    summary="PSNR of the worst tile of 64 px a side; +inf when equal",
    source="PSNR as in psnr.py, taken per tile",
    compute=_compute,
)
