"""Latency of a call: the synchronised wall clock a user waits for.

This file imports only the standard library (torch inside the one function that needs it): it is copied verbatim into
processes where paretune is not installed.
"""

import dataclasses
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

T = TypeVar("T")


def synchronize(device: str) -> None:
    """Wait until all work queued on `device` ("cpu", "cuda", "cuda:1") has finished.

    Raises ValueError for a device that is neither.
    """
    kind = device.partition(":")[0]
    if kind == "cpu":
        return  # calls on the CPU return when they are done
    if kind != "cuda":
        raise ValueError(f"device {device!r} is not supported: use 'cpu' or 'cuda[:index]'")
    import torch

    torch.cuda.synchronize(device)


def time_call_ms(call: Callable[[], T], device: str) -> tuple[float, T]:
    """Run `call` once; return its wall-clock time in ms, synchronised before and after, and its result.

    The clock is `time.perf_counter_ns`: monotonic, so a clock adjustment during the call cannot distort it.
    """
    synchronize(device)  # work queued earlier must not be charged to this call
    start_ns = time.perf_counter_ns()
    result = call()
    synchronize(device)  # the call may return before the GPU has finished
    return (time.perf_counter_ns() - start_ns) / 1e6, result


@dataclass(frozen=True)
class LatencySummary:
    """Repeated measurements of one call. `relative_iqr` = iqr / median, without unit, the spread used to stop."""

    n: int
    median_ms: float
    p95_ms: float
    min_ms: float
    max_ms: float
    iqr_ms: float
    relative_iqr: float

    def to_dict(self) -> dict[str, float]:
        """Plain, JSON-able values under the names of the fields."""
        return dataclasses.asdict(self)


def summarize(samples_ms: Sequence[float]) -> LatencySummary:
    """Summarise samples in ms; quantiles interpolate linearly (type 7 of Hyndman & Fan 1996, numpy's default).

    Raises ValueError when there are no samples, or when one is negative or not finite.
    """
    if not samples_ms:
        raise ValueError("no latency samples to summarise")
    if not all(math.isfinite(sample) and sample >= 0 for sample in samples_ms):
        raise ValueError("latency samples must be finite and not negative")
    ordered = sorted(samples_ms)
    median_ms = _quantile(ordered, 0.5)
    iqr_ms = _quantile(ordered, 0.75) - _quantile(ordered, 0.25)
    return LatencySummary(
        n=len(ordered),
        median_ms=median_ms,
        p95_ms=_quantile(ordered, 0.95),
        min_ms=ordered[0],
        max_ms=ordered[-1],
        iqr_ms=iqr_ms,
        relative_iqr=iqr_ms / median_ms if median_ms > 0 else 0.0,
    )


def mix_latency_ms(medians: Sequence[float], weights: Sequence[float]) -> float:
    """Weighted mean, in ms, of the requests' median latencies: what one request of the production mix costs.

    A mean and not a median over requests: capacity is bought for the sum of the work.

    Raises ValueError when the lengths differ, a weight is negative, or all weights are zero.
    """
    if len(medians) != len(weights):
        raise ValueError(f"{len(medians)} medians but {len(weights)} weights")
    if any(weight < 0 for weight in weights):
        raise ValueError("weights must not be negative")
    total = math.fsum(weights)
    if total <= 0:
        raise ValueError("at least one weight must be positive")
    return math.fsum(median * weight for median, weight in zip(medians, weights, strict=True)) / total


def _quantile(ordered: Sequence[float], q: float) -> float:
    position = q * (len(ordered) - 1)
    low = math.floor(position)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (position - low)
