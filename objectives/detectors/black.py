"""An empty picture: black, or any single shade, where the reference shows something."""

from torch import Tensor

from ..images import luma_levels
from .detector import Detector

FLAT_LEVELS = 2.0  # standard deviation of luma, of 255
LEFT_SHARE = 0.05  # of the reference's standard deviation


def _compute(reference_BCHW: Tensor | None, candidate_BCHW: Tensor) -> list[str | None]:
    stds = luma_levels(candidate_BCHW).std(dim=(1, 2), correction=0).tolist()
    if reference_BCHW is None:
        return [f"the picture is empty: luma varies by {std:.2f} levels" if std < FLAT_LEVELS else None for std in stds]
    reasons: list[str | None] = []
    for std, before in zip(stds, luma_levels(reference_BCHW).std(dim=(1, 2), correction=0).tolist(), strict=True):
        # Half: a nearly empty reference whose copy falls just under two levels has not been lost.
        empty = before > FLAT_LEVELS and (std < LEFT_SHARE * before or (std < FLAT_LEVELS and std < before / 2))
        reasons.append(f"the picture is empty: luma varies by {std:.2f} levels, before {before:.2f}" if empty else None)
    return reasons


detector = Detector(
    name="black",
    breaks=True,
    summary="luma has standard deviation under 2 levels, or under 5 % of the reference's",
    source="own thresholds; the failure: diffusers issue 4325",
    compute=_compute,
)
