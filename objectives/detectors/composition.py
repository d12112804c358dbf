"""Another picture, or a part of it replaced: things stand elsewhere than in the reference.

It may still be a good picture, so this is only a flag.
"""

from torch import Tensor

from ..drift import ncc32, phash
from .detector import Detector

LEAST_NCC32 = 0.90
MOST_BITS = 12


def _compute(reference_BCHW: Tensor | None, candidate_BCHW: Tensor) -> list[str | None]:
    if reference_BCHW is None:
        return [None] * candidate_BCHW.shape[0]
    correlations = ncc32.metric(reference_BCHW, candidate_BCHW).tolist()
    bits = phash.metric(reference_BCHW, candidate_BCHW).tolist()
    return [_reason(*values) for values in zip(correlations, bits, strict=True)]


def _reason(correlation: float, bits: float) -> str | None:
    if correlation < LEAST_NCC32:
        return f"another composition: thumbnails correlate by {correlation:.2f}"
    if bits > MOST_BITS:
        return f"other forms: {bits:.0f} of 64 bits of the perceptual hash differ"
    return None


detector = Detector(
    name="composition",
    breaks=False,
    summary="thumbnails of 32 px correlate by less than .90, or over 12 of 64 bits of their perceptual hash differ",
    source="as drift/ncc32.py and drift/phash.py; own thresholds",
    compute=_compute,
)
