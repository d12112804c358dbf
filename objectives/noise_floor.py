"""The noise floor: how far the unchanged reference is from itself, measured in processes of its own."""

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from .figures import FIGURES
from .measuring.intervals import quantile, student_quantile

SCHEMA_VERSION = 1
PERCENTILE = 0.95
UNSTEADY = 0.3
"""Above this floor of latency, single measurements say nothing about configurations: the machine was disturbed."""


def relative_difference(one: float, other: float) -> float:
    """How much larger the larger one is, relative to the smaller; 0 for equal values, infinity beside a 0."""
    low, high = sorted((one, other))
    if low <= 0:
        return 0.0 if high <= 0 else math.inf
    return high / low - 1


def floor_of(values: Sequence[float]) -> float:
    """The relative difference that two measurements of the same thing stay under in 95 % of cases.

    The larger of the 95th percentile of all pairs' differences and the same percentile of a normal distribution
    estimated from them (Student's t, which allows for how few they are): the pairs of five processes are only ten, and
    their percentile alone would be exceeded about twice as often as it says. Raises ValueError for fewer than 2 values.
    """
    if len(values) < 2:
        raise ValueError("a noise floor needs at least 2 measurements")
    pairs = [relative_difference(a, b) for i, a in enumerate(values) for b in values[i + 1 :]]
    deviation = statistics.stdev(math.log(value) for value in values)
    expected = math.expm1(student_quantile((1 + PERCENTILE) / 2, len(values) - 1) * math.sqrt(2) * deviation)
    return max(quantile(pairs, PERCENTILE), expected)


@dataclass(frozen=True)
class NoiseFloor:
    """Relative floors of a machine and a workload; `values` are what each process measured."""

    processes: int
    floors: Mapping[str, float]
    values: Mapping[str, Sequence[float]]

    @classmethod
    def of(cls, measurements: Sequence[Mapping[str, Any]]) -> "NoiseFloor":
        """From the reference's measurements in at least 2 processes. Raises ValueError."""
        names = [figure.name for figure in FIGURES if figure.has_floor]
        values = {name: [float(measured[name]) for measured in measurements] for name in names}
        return cls(len(measurements), {name: floor_of(column) for name, column in values.items()}, values)

    def of_figure(self, name: str) -> float:
        """The floor of a figure; 0 for one that has none (drift repeats exactly, or its detectors say so)."""
        return float(self.floors.get(name, 0.0))

    def tie(self, name: str, one: float, other: float) -> bool:
        """Whether two values of a figure cannot be told apart."""
        return relative_difference(one, other) <= self.of_figure(name)

    def middle(self, name: str) -> float:
        """Where the reference is: the median of its processes."""
        return statistics.median(self.values[name])

    def holds(self, name: str, now: float) -> bool:
        """Whether the reference, measured again, is where it was: within the floor of the median of its processes."""
        return self.tie(name, now, self.middle(name))

    @property
    def unsteady(self) -> bool:
        """Whether latencies scatter so much that single measurements cannot be compared."""
        return self.of_figure("latency_ms") > UNSTEADY

    def text(self, name: str) -> str:
        """The floor of a figure as a percentage; above `UNSTEADY` only that it is, because no more can be said."""
        floor = self.of_figure(name)
        return f"{floor:.1%}" if floor <= UNSTEADY else f"above {UNSTEADY:.0%}"

    def to_dict(self) -> dict[str, Any]:
        """Plain, JSON-able."""
        return {
            "schema_version": SCHEMA_VERSION,
            "processes": self.processes,
            "floors": dict(self.floors),
            "values": {name: list(column) for name, column in self.values.items()},
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> "NoiseFloor":
        """The inverse of to_dict. Raises ValueError for another schema version."""
        if data.get("schema_version") != SCHEMA_VERSION:
            raise ValueError(f"noise floor schema {data.get('schema_version')!r}: this version reads {SCHEMA_VERSION}")
        return cls(data["processes"], data["floors"], data["values"])
