"""The shape that every drift metric has."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..images import check_pair


@dataclass(frozen=True, kw_only=True)
class Metric:
    """One measure of how far a candidate picture is from its reference. Call it; `compute` skips the checks.

    `best` is its value, exactly, for two equal pictures. `source` is the paper or document that defines it.
    `shared` is for metrics that begin with the same costly step, such as a map of colour differences: it takes the two
    pictures, and `compute` then takes what it returned instead. `measure` takes that step once for all of them.
    """

    name: str
    unit: str
    higher_is_better: bool
    best: float
    summary: str
    source: str
    compute: Callable[..., Tensor]
    shared: Callable[[Tensor, Tensor], Any] | None = None

    def __call__(self, reference_BCHW: Tensor, candidate_BCHW: Tensor) -> Tensor:
        """Both (B, 3, H, W) floats in [0, 1], at least 16 px a side -> (B,) float64, each picture on its own.

        Raises ValueError for other shapes or types. Works on the CPU, whatever device the pictures are on.
        """
        return measure([self], reference_BCHW, candidate_BCHW)[self.name]


def measure(metrics: Iterable[Metric], reference_BCHW: Tensor, candidate_BCHW: Tensor) -> dict[str, Tensor]:
    """The values of all `metrics` by name, as calling each gives them; what some of them share is computed once."""
    check_pair(reference_BCHW, candidate_BCHW)
    # Not on a GPU: the trial's memory is in use there, and a verdict must not depend on where it was reached.
    reference, candidate = reference_BCHW.cpu().float(), candidate_BCHW.cpu().float()
    values: dict[str, Tensor] = {}
    steps: dict[Callable[[Tensor, Tensor], Any], Any] = {}
    with torch.no_grad():
        for metric in metrics:
            if metric.shared is None:
                value = metric.compute(reference, candidate)
            else:
                if metric.shared not in steps:
                    steps[metric.shared] = metric.shared(reference, candidate)
                value = metric.compute(steps[metric.shared])
            values[metric.name] = value.to(torch.float64)
    return values
