"""Latency of a call: the synchronised wall clock a user waits for."""

import dataclasses
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from .intervals import quantile

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
    median_ms = quantile(samples_ms, 0.5)
    iqr_ms = quantile(samples_ms, 0.75) - quantile(samples_ms, 0.25)
    return LatencySummary(
        n=len(samples_ms),
        median_ms=median_ms,
        p95_ms=quantile(samples_ms, 0.95),
        min_ms=min(samples_ms),
        max_ms=max(samples_ms),
        iqr_ms=iqr_ms,
        relative_iqr=iqr_ms / median_ms if median_ms > 0 else 0.0,
    )


def mix_mean(values: Sequence[float], weights: Sequence[float]) -> float:
    """Weighted mean over requests, of their median latencies for one: what one request of the production mix costs.

    A mean and not a median over requests: capacity is bought for the sum of the work.

    Raises ValueError when the lengths differ, a weight is negative, or all weights are zero.
    """
    if len(values) != len(weights):
        raise ValueError(f"{len(values)} values but {len(weights)} weights")
    if any(weight < 0 for weight in weights):
        raise ValueError("weights must not be negative")
    total = math.fsum(weights)
    if total <= 0:
        raise ValueError("at least one weight must be positive")
    return math.fsum(value * weight for value, weight in zip(values, weights, strict=True)) / total
