"""The shape that every drift metric has."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ..images import check_pair


@dataclass(frozen=True, kw_only=True)
class Metric:
    """One measure of how far a candidate picture is from its reference. Call it; `compute` skips the checks.

    `best` is its value, exactly, for two equal pictures. `source` is the paper or document that defines it.
    """

    name: str
    unit: str
    higher_is_better: bool
    best: float
    summary: str
    source: str
    compute: Callable[[Tensor, Tensor], Tensor]

    def __call__(self, reference_BCHW: Tensor, candidate_BCHW: Tensor) -> Tensor:
        """Both (B, 3, H, W) floats in [0, 1], at least 16 px a side -> (B,) float64, each picture on its own.

        Raises ValueError for other shapes or types. Works on the CPU, whatever device the pictures are on.
        """
        check_pair(reference_BCHW, candidate_BCHW)
        with torch.no_grad():
            reference, candidate = reference_BCHW.cpu().float(), candidate_BCHW.cpu().float()
            return self.compute(reference, candidate).to(torch.float64)
