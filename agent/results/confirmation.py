"""Confirming blocks: fresh processes of several configurations that took turns, and what they say of each other."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ...objectives.measuring.intervals import Comparison, compare_paired
from ...studies import LinkedRun

LEAST_BLOCKS = 2

Latencies = dict[int, dict[int, float]]
"""{trial: {block: latency_ms}}"""


@dataclass(frozen=True)
class Confirmation:
    """One configuration against the reference, against torch.compile as people write it, and against the best that
    torch.compile alone reaches, in the same blocks; None for what was not in them, for the configuration itself, and
    for the last where it is the same as the one before.
    """

    reference: Comparison | None
    torch_compile: Comparison | None
    torch_compile_best: Comparison | None = None

    @property
    def faster(self) -> bool:
        """Whether it is faster than the reference beyond doubt."""
        return self.reference is not None and self.reference.decision == "faster"

    @property
    def confirmed(self) -> bool:
        """Whether it is faster than the reference beyond doubt, and no slower than torch.compile at its best."""
        compiled = (self.torch_compile, self.torch_compile_best)
        return self.faster and all(one is None or one.decision != "slower" for one in compiled)

    @property
    def against(self) -> dict[str, Comparison]:
        """{"the reference": ..., "torch.compile": ..., "torch.compile at its best": ...}, as far as there are such."""
        found = {
            "the reference": self.reference,
            "torch.compile": self.torch_compile,
            "torch.compile at its best": self.torch_compile_best,
        }
        return {name: comparison for name, comparison in found.items() if comparison is not None}

    @property
    def blocks(self) -> int:
        """How many blocks it had a part in."""
        return max(comparison.blocks for comparison in self.against.values())

    def to_dict(self) -> dict[str, Any]:
        """JSON-able; ratios of times, below 1 is faster."""
        return {name: found.to_dict() for name, found in vars(self).items() if found is not None}

    def words(self) -> str:
        """ "1.54 times as fast as the reference (95 % interval 1.27 to 1.62), a tie with torch.compile (...), in 4
        blocks of fresh processes."; of a tie, how small a difference could have been missed.
        """
        said = ", ".join(compared_words(name, comparison) for name, comparison in self.against.items())
        words = f"{said}, in {self.blocks} blocks of fresh processes."
        ties = [one for one in self.against.values() if one.decision == "tie"]
        if not ties:
            return words
        missed = max(ties, key=lambda one: one.smallest_effect).missed_words()
        return f"{words} {missed[0].upper()}{missed[1:]}."


@dataclass(frozen=True)
class Speed:
    """How many times as fast as the reference a trial is."""

    times: float | None
    """None where a trial that was measured once cannot be compared: on an unsteady machine, and when the reference was
    never again where it had been.
    """
    tie: bool = False
    """Nothing was shown: the difference is within the noise floor, or the blocks' interval holds 1."""
    interval: tuple[float, float] | None = None
    """The 95 % interval in confirming blocks, whose ratio `times` is then; None when the trial was measured once."""
    blocks: int = 0
    unconfirmed: bool = False
    """Whether it rests on one measurement of the trial alone."""

    def __str__(self) -> str:
        words = [] if self.times is None else [f"{self.times:.2f}x"]
        if self.interval is not None:
            words[0] += f" ({self.interval[0]:.2f} to {self.interval[1]:.2f} in {self.blocks} blocks)"
        words += [word for word, so in (("a tie", self.tie), ("unconfirmed", self.unconfirmed)) if so]
        return ", ".join(words)


def compared_words(name: str, comparison: Comparison) -> str:
    """ "1.54 times as fast as the reference (95 % interval 1.27 to 1.62)", or that it is a tie."""
    low, high = comparison.interval
    if comparison.decision == "tie":
        return f"a tie with {name} (95 % interval {low:.2f} to {high:.2f} times as fast)"
    return f"{comparison.times:.2f} times as fast as {name} (95 % interval {low:.2f} to {high:.2f})"


def newest_blocks(runs: Sequence[LinkedRun]) -> dict[str, Latencies]:
    """By place, the one that was confirmed at first in front: of the newest confirmation in which two or more
    configurations have enough blocks to compare; empty when there is none. One that failed in its blocks is left out,
    and takes nothing from the others.
    """
    for session in sorted({one.run.session for one in runs}, reverse=True):
        by_place: dict[str, Latencies] = {}
        for one in runs:
            if one.run.session == session and one.run.complete:
                of_trial = by_place.setdefault(one.run.worker, {}).setdefault(one.trial, {})
                of_trial[one.run.position] = float(one.run.measurements["latency_ms"])
        found = {place: _enough(latencies) for place, latencies in by_place.items()}
        if found := {place: enough for place, enough in found.items() if len(enough) > 1}:
            return found
    return {}


def _enough(latencies: Latencies) -> Latencies:
    return {trial: blocks for trial, blocks in latencies.items() if len(blocks) >= LEAST_BLOCKS}


def compare_trials(latencies: Latencies, baseline: int, candidate: int) -> Comparison | None:
    """A candidate against a baseline, from the blocks that measured both; None when there are too few."""
    if baseline == candidate or baseline not in latencies or candidate not in latencies:
        return None
    blocks = sorted(latencies[baseline].keys() & latencies[candidate].keys())
    if len(blocks) < LEAST_BLOCKS:
        return None
    return compare_paired([latencies[baseline][b] for b in blocks], [latencies[candidate][b] for b in blocks])
