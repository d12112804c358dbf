"""The energy of fine detail, which noise raises and smoothing lowers."""

from torch import Tensor

from ..images import luma_levels

_FLOOR = 25.0  # squared levels: a little more than the 20 that +-1 LSB on every pixel adds to an empty picture


def laplacian_energy_ratio(reference_BCHW: Tensor, candidate_BCHW: Tensor) -> Tensor:
    """Mean squared Laplacian of luma, candidate over reference, (B,) float64; 1 when nothing changed."""
    return (_energy(candidate_BCHW) + _FLOOR) / (_energy(reference_BCHW) + _FLOOR)


def _energy(image_BCHW: Tensor) -> Tensor:
    luma_BHW = luma_levels(image_BCHW)
    laplacian_BHW = luma_BHW[:, 1:-1, 1:-1] * -4
    for neighbours in (luma_BHW[:, :-2, 1:-1], luma_BHW[:, 2:, 1:-1], luma_BHW[:, 1:-1, :-2], luma_BHW[:, 1:-1, 2:]):
        laplacian_BHW.add_(neighbours)
    return laplacian_BHW.square_().mean(dim=(1, 2))
