"""Gradient magnitude similarity deviation: how unevenly edges were damaged. Blind to colour casts."""

import torch
from torch import Tensor

from ..images import luma_levels
from .metric import Metric

_C = 170.0  # stabiliser on [0, 255], from the paper


def _compute(reference_BCHW: Tensor, candidate_BCHW: Tensor) -> Tensor:
    x, y = _gradient_magnitude(reference_BCHW), _gradient_magnitude(candidate_BCHW)
    similarity = (2 * x * y + _C) / (x.square() + y.square() + _C)
    return similarity.flatten(1).std(dim=1, correction=0)


def _gradient_magnitude(image_BCHW: Tensor) -> Tensor:
    luma_B1HW = torch.nn.functional.avg_pool2d(luma_levels(image_BCHW).unsqueeze(1), kernel_size=2)
    prewitt = torch.tensor([[1.0, 0.0, -1.0]] * 3, dtype=torch.float64).view(1, 1, 3, 3) / 3
    horizontal = torch.nn.functional.conv2d(luma_B1HW, prewitt, padding=1)
    vertical = torch.nn.functional.conv2d(luma_B1HW, prewitt.transpose(2, 3), padding=1)
    return (horizontal.square() + vertical.square()).sqrt()


metric = Metric(
    name="gmsd",
    unit="1",
    higher_is_better=False,
    best=0.0,
    summary="standard deviation of the similarity of luma gradients at half resolution",
    source="Xue et al. 2014, doi:10.1109/TIP.2013.2293423",
    compute=_compute,
)
