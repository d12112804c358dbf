"""Fine detail that was not there: noise, ringing or checkerboards."""

from torch import Tensor

from .detector import Detector
from .laplacian import laplacian_energy_ratio

RATIO = 2.0


def _compute(reference_BCHW: Tensor | None, candidate_BCHW: Tensor) -> list[str | None]:
    if reference_BCHW is None:
        return [None] * candidate_BCHW.shape[0]
    return [
        f"noisy: {ratio:.1f} times the reference's fine detail" if ratio > RATIO else None
        for ratio in laplacian_energy_ratio(reference_BCHW, candidate_BCHW).tolist()
    ]


detector = Detector(
    name="noise",
    breaks=False,
    summary="Laplacian energy over twice the reference's",
    source="Pech-Pacheco et al. 2000, doi:10.1109/ICPR.2000.903548; own threshold",
    compute=_compute,
)
