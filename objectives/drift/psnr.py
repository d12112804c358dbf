"""Peak signal-to-noise ratio, of each picture on its own.

Never of pooled errors: pictures at 46 and 15 dB pool to 18 dB, which describes neither.
"""

import torch
from torch import Tensor

from .metric import Metric


def psnr_db_of_mse(mse: Tensor) -> Tensor:
    """Mean squared error of values in [0, 1] -> PSNR in dB, same shape; +inf where the error is 0."""
    return -10 * torch.log10(mse)


def _compute(reference_BCHW: Tensor, candidate_BCHW: Tensor) -> Tensor:
    difference = reference_BCHW.to(torch.float64) - candidate_BCHW.to(torch.float64)
    return psnr_db_of_mse(difference.square().mean(dim=(1, 2, 3)))


metric = Metric(
    name="psnr_db",
    unit="dB",
    higher_is_better=True,
    best=float("inf"),
    summary="peak signal-to-noise ratio over all channels and pixels; +inf when equal",
    source="Huynh-Thu & Ghanbari 2008, doi:10.1049/el:20080522",
    compute=_compute,
)
