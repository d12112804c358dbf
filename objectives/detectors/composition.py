"""Another picture: things stand elsewhere than in the reference. May be a good picture, so it is a flag."""

from torch import Tensor

from ..drift import ncc32
from .detector import Detector

LEAST_NCC32 = 0.90


def _compute(reference_BCHW: Tensor | None, candidate_BCHW: Tensor) -> list[str | None]:
    if reference_BCHW is None:
        return [None] * candidate_BCHW.shape[0]
    return [
        f"another composition: thumbnails correlate by {correlation:.2f}" if correlation < LEAST_NCC32 else None
        for correlation in ncc32.metric(reference_BCHW, candidate_BCHW).tolist()
    ]


detector = Detector(
    name="composition",
    breaks=False,
    summary="thumbnails of 32 px correlate by less than .90",
    source="as drift/ncc32.py; own threshold",
    compute=_compute,
)
