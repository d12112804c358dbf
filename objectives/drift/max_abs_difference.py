"""Largest difference of any channel of any pixel, in 8-bit steps: 0 is the only proof of equality."""

from torch import Tensor

from ..images import to_uint8
from .metric import Metric


def _compute(reference_BCHW: Tensor, candidate_BCHW: Tensor) -> Tensor:
    difference = to_uint8(reference_BCHW).int() - to_uint8(candidate_BCHW).int()
    return difference.abs().flatten(1).amax(dim=1)


metric = Metric(
    name="max_abs_difference_lsb",
    unit="LSB of 8 bits",
    higher_is_better=False,
    best=0.0,
    summary="largest difference of any channel of any pixel",
    source="definition",
    compute=_compute,
)
