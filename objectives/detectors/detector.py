"""The shape that every detector of failures has."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ..images import check_pair, check_pictures


@dataclass(frozen=True, kw_only=True)
class Detector:
    """One way in which a picture goes wrong. Call it; `compute` skips the checks.

    `breaks`: a hit makes the picture broken, whatever its metrics; otherwise the reason is only a flag beside them.
    `raw`: wants the decoded floats as they came, before they were quantised to 8 bits.
    """

    name: str
    breaks: bool
    raw: bool = False
    summary: str
    source: str
    compute: Callable[[Tensor | None, Tensor], list[str | None]]

    def __call__(self, reference_BCHW: Tensor | None, candidate_BCHW: Tensor) -> list[str | None]:
        """(B, 3, H, W) floats in [0, 1], at least 16 px a side -> per picture what is wrong, or None.

        Without a reference, detectors that only compare find nothing. Raises ValueError for other shapes or types.
        """
        if reference_BCHW is None:
            check_pictures("candidate", candidate_BCHW)
        else:
            check_pair(reference_BCHW, candidate_BCHW)
        with torch.no_grad():
            reference = None if reference_BCHW is None else reference_BCHW.cpu().float()
            return self.compute(reference, candidate_BCHW.cpu().float())
