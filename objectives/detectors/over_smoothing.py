"""Fine detail was lost: textures smeared as by a blur."""

from torch import Tensor

from .detector import Detector
from .laplacian import laplacian_energy_ratio

RATIO = 0.5


def _compute(reference_BCHW: Tensor | None, candidate_BCHW: Tensor) -> list[str | None]:
    if reference_BCHW is None:
        return [None] * candidate_BCHW.shape[0]
    return [
        f"smoothed: {ratio:.0%} of the reference's fine detail is left" if ratio < RATIO else None
        for ratio in laplacian_energy_ratio(reference_BCHW, candidate_BCHW).tolist()
    ]


detector = Detector(
    name="over_smoothing",
    breaks=False,
    summary="Laplacian energy under half of the reference's",
    source="Pech-Pacheco et al. 2000, doi:10.1109/ICPR.2000.903548; own threshold",
    compute=_compute,
)
