"""What each technique of a configuration earns: the configuration without it, and it alone, in the same blocks."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ...objectives.measuring.intervals import Comparison, compare_paired
from ...search_space import Configuration, technique
from ...studies import RunKind, RunRecord
from .results import Results
from .trial import Trial

LEAST_BLOCKS = 2


@dataclass(frozen=True)
class Earned:
    """One technique of the configuration; None for what could not be measured."""

    technique: str
    summary: str
    left_out: str
    """The configuration without it, or why there is none."""
    without: Comparison | None
    """The configuration without it, against the whole: a ratio above 1 is what it earns."""
    without_ms: float | None
    """How much longer a request takes without it, in the blocks; below 0 it costs time."""
    without_gib: float | None
    """How much more memory is needed without it; below 0 it costs memory."""
    without_drift: float | None
    """The drift of the pictures without it."""
    alone: Comparison | None
    """It alone, against the unchanged pipelines: a ratio below 1 is what it earns by itself."""
    alone_drift: float | None

    def to_dict(self) -> dict[str, Any]:
        """Plain, JSON-able."""
        compared = {"without": self.without, "alone": self.alone}
        return {**vars(self), **{k: None if v is None else v.to_dict() for k, v in compared.items()}}


@dataclass(frozen=True)
class Ablation:
    """All of them, and the whole configuration beside."""

    trial: int
    blocks: int
    whole_ms: float
    whole_gib: float
    whole_drift: float | None
    earned: tuple[Earned, ...]

    def ranked(self) -> list[Earned]:
        """What earns most first; what could not be left out last."""
        return sorted(self.earned, key=lambda one: -math.inf if one.without_ms is None else one.without_ms)[::-1]

    def to_dict(self) -> dict[str, Any]:
        """Plain, JSON-able."""
        return {**vars(self), "earned": [one.to_dict() for one in self.earned]}


def without(configuration: Configuration, name: str) -> Configuration:
    """The configuration with one technique left out."""
    return Configuration(tuple(step for step in configuration.steps if step.technique != name))


def alone(configuration: Configuration, name: str) -> Configuration:
    """Nothing but one of its techniques."""
    return Configuration(tuple(step for step in configuration.steps if step.technique == name))


def ablation_of(results: Results, trial: Trial) -> Ablation | None:
    """From the newest ablation of a trial of which there is enough; None when there is none."""
    made = [one.run for one in results.linked_runs(RunKind.ABLATION) if one.run.trial == trial.number]
    for session in sorted({run.session for run in made}, reverse=True):
        by_key: dict[str, list[RunRecord]] = {}
        for run in made:
            if run.session == session:
                by_key.setdefault(run.configuration_key, []).append(run)
        whole = _Measured(by_key.get(trial.configuration.key, []))
        if len(whole.latencies) >= LEAST_BLOCKS:
            return _ablation(trial, by_key, whole)
    return None


def _ablation(trial: Trial, by_key: Mapping[str, list[RunRecord]], whole: "_Measured") -> Ablation:
    reference = _Measured(by_key.get(Configuration().key, []))
    earned = []
    for step in trial.configuration.steps:
        left = _Measured(by_key.get(without(trial.configuration, step.technique).key, []))
        by_itself = _Measured(by_key.get(alone(trial.configuration, step.technique).key, []))
        compared = whole.compared(left)
        earned.append(
            Earned(
                technique=step.technique,
                summary=technique(step.technique).summary,
                left_out=left.reason or str(without(trial.configuration, step.technique)),
                without=compared,
                without_ms=None if compared is None else whole.latency_ms * (compared.ratio - 1),
                without_gib=None if left.peak_gib is None else left.peak_gib - (whole.peak_gib or 0.0),
                without_drift=left.drift,
                alone=reference.compared(by_itself),
                alone_drift=by_itself.drift,
            )
        )
    return Ablation(
        trial=trial.number,
        blocks=len(whole.latencies),
        whole_ms=whole.latency_ms,
        whole_gib=whole.peak_gib or 0.0,
        whole_drift=whole.drift,
        earned=tuple(earned),
    )


class _Measured:
    """One configuration's runs of an ablation."""

    def __init__(self, runs: Sequence[RunRecord]) -> None:
        complete = [run for run in runs if run.complete]
        self.latencies = {run.position: float(run.measurements["latency_ms"]) for run in complete}
        first = next((run.measurements for run in complete if "peak_vram_gib" in run.measurements), {})
        self.peak_gib: float | None = first.get("peak_vram_gib")
        self.drift: float | None = first.get("drift")
        failed = next((run for run in runs if not run.complete), None)
        few = len(self.latencies) < LEAST_BLOCKS
        self.reason = f"{failed.outcome}: {failed.reason}" if failed is not None and few else ""

    @property
    def latency_ms(self) -> float:
        return sum(self.latencies.values()) / len(self.latencies)

    def compared(self, other: "_Measured") -> Comparison | None:
        """The other against this one, in the blocks that both were in."""
        shared = sorted(self.latencies.keys() & other.latencies.keys())
        if len(shared) < LEAST_BLOCKS:
            return None
        return compare_paired([self.latencies[b] for b in shared], [other.latencies[b] for b in shared])
