"""The shape that every metric with weights has, and what all of their scorers check."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from ..images import check_pair, check_pictures

Scorer = Callable[[Tensor | None, Tensor, Sequence[str]], Tensor]
"""(reference_BCHW, candidate_BCHW, prompts) -> (B,) float64 on the CPU; pictures are floats (B, 3, H, W) in [0, 1].

Drift needs the reference and ignores the prompts; quality needs a prompt per picture and ignores the reference.
Each picture's value is its own, whatever else is in the batch. Raises ValueError for other shapes or types.
"""


@dataclass(frozen=True, kw_only=True)
class LearnedMetric:
    """One measure by a trained model, whose weights the user has on disk. Nothing is ever downloaded.

    `load(path, device)` reads them once per process and gives the scorer. It raises ValueError, one sentence, when the
    path does not hold what `weights` says, or one of `packages` (names for pip) cannot be imported.
    `kind` is "drift" (same picture as the reference?) or "quality" (a good picture for its prompt?).
    `source` is the paper or program that defines it.
    """

    name: str
    unit: str
    higher_is_better: bool
    kind: Literal["drift", "quality"]
    needs_prompt: bool
    packages: tuple[str, ...]
    weights: str
    summary: str
    source: str
    load: Callable[[Path, str], Scorer]


def drift_scorer(compute: Callable[[Tensor, Tensor], Tensor]) -> Scorer:
    """The scorer of a drift metric from what it does to one pair: two (1, 3, H, W) float32 on the CPU -> one value."""

    def score(reference_BCHW: Tensor | None, candidate_BCHW: Tensor, prompts: Sequence[str]) -> Tensor:
        if reference_BCHW is None:
            raise ValueError("a drift metric needs the reference's pictures")
        check_pair(reference_BCHW, candidate_BCHW)
        with torch.no_grad():
            pairs = zip(_one_by_one(reference_BCHW), _one_by_one(candidate_BCHW), strict=True)
            return _values([compute(reference, candidate) for reference, candidate in pairs])

    return score


def quality_scorer(compute: Callable[[Tensor, str], Tensor]) -> Scorer:
    """The scorer of a quality metric from what it does to one (1, 3, H, W) float32 on the CPU and its prompt."""

    def score(reference_BCHW: Tensor | None, candidate_BCHW: Tensor, prompts: Sequence[str]) -> Tensor:
        check_pictures("candidate", candidate_BCHW)
        if isinstance(prompts, str) or len(prompts) != len(candidate_BCHW):
            raise ValueError(f"{len(candidate_BCHW)} pictures need a list of as many prompts")
        with torch.no_grad():
            pairs = zip(_one_by_one(candidate_BCHW), prompts, strict=True)
            return _values([compute(candidate, prompt) for candidate, prompt in pairs])

    return score


def _one_by_one(image_BCHW: Tensor) -> tuple[Tensor, ...]:
    # Kernels may round differently for another batch size, and one picture of 1024 px at a time always fits.
    pictures: tuple[Tensor, ...] = image_BCHW.detach().cpu().float().split(1)
    return pictures


def _values(scores: list[Tensor]) -> Tensor:
    return torch.tensor([float(score) for score in scores], dtype=torch.float64)
