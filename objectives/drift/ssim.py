"""Structural similarity at full resolution, mean over the three channels (not of luma, not downsampled first)."""

from torch import Tensor

from .gaussian import ssim_terms
from .metric import Metric


def _compute(reference_BCHW: Tensor, candidate_BCHW: Tensor) -> Tensor:
    similarity_BC, _ = ssim_terms(reference_BCHW, candidate_BCHW)
    return similarity_BC.mean(dim=1)


metric = Metric(
    name="ssim",
    unit="1",
    higher_is_better=True,
    best=1.0,
    summary="structural similarity, Gaussian window of 11 px, full resolution, mean of R, G and B",
    source="Wang et al. 2004, doi:10.1109/TIP.2003.819861",
    compute=_compute,
)
