"""The Pareto front, and which configuration of it is the best: the one order and the one rule for ties."""

import operator
from collections.abc import Callable, Sequence

from ...search_space import LOSSES
from .trial import Trial

TIE_RULE = (
    "Of configurations that tie in latency, the best is one that was confirmed in blocks, then the one with the least "
    "memory, then the one that starts faster, then the one that may lose least."
)


def pareto_front(candidates: Sequence[Trial], objectives: Sequence[str]) -> list[Trial]:
    """Those that no other one dominates: no worse in any objective and better in one. As Optuna draws it."""

    def dominates(one: tuple[float, ...], other: tuple[float, ...]) -> bool:
        return one != other and all(map(operator.le, one, other))

    figures = [tuple(trial.figure(name) for name in objectives) for trial in candidates]
    return [
        trial
        for trial, own in zip(candidates, figures, strict=True)
        if not any(dominates(other, own) for other in figures)
    ]


def best_of(front: Sequence[Trial], by: str) -> Trial:
    """The best of a front that is not empty: the least `by`, and of what ties with it, by TIE_RULE.

    Before that rule comes being faster than the reference beyond doubt; where nothing is, the reference stays, unless
    something needs less memory: without a gain, nothing is changed.
    """
    least = min(front, key=lambda trial: trial.figure(by))
    if by == "latency_ms":
        # Blocks may know better than two measurements made at different times.
        for trial in front:
            if trial.surely_less(by, least):
                least = trial
    tied = [trial for trial in front if trial is least or trial.ties_with(by, least)]
    # Ties are not transitive: what another one of them beats is out.
    tied = _those(tied, lambda trial: not any(other.surely_less(by, trial) for other in tied))
    if by == "latency_ms":
        reference = least.results.reference
        faster = [trial for trial in tied if trial.surely_less(by, reference)]
        if faster:
            tied = _those(faster, lambda trial: trial.confirmation is not None)
        elif reference in tied:
            tied = [t for t in tied if t is reference or t.surely_less("peak_vram_gib", reference)]
    for figure in ("peak_vram_gib", "cold_start_s"):
        fewest = min(tied, key=lambda trial: trial.figure(figure))
        tied = [trial for trial in tied if not fewest.surely_less(figure, trial)]
    return min(tied, key=lambda t: (LOSSES.index(t.configuration.loss), len(t.configuration.steps), t.figure(by)))


def _those(trials: list[Trial], condition: Callable[[Trial], bool]) -> list[Trial]:
    """Those that meet a condition; all of them when none does."""
    return [trial for trial in trials if condition(trial)] or trials
