"""In how much of a call the GPU was busy: the rest is the host, launching kernels or waiting."""

import functools
from collections.abc import Callable, Iterable
from typing import Any

KINDS = {
    "attention": ("flash", "fmha", "sdpa", "attention"),
    "convolution": ("conv", "fprop", "cudnn", "implicit"),
    "matrix product": ("gemm", "nvjet", "cutlass", "cublas", "splitk"),
    "triton": ("triton",),
    "copy": ("memcpy", "memset", "copy"),
}
"""Classes of kernels, by parts of their names; the first that fits counts."""
OTHER = "other"


def gpu_busy(call: Callable[[], Any]) -> dict[str, Any]:
    """Record one call with torch.profiler, on the device only: {"busy_ms", "kernels", "by_kind_ms"}.

    busy_ms: in which at least one kernel or copy ran. Kernels inside of CUDA graphs are seen one by one. The recording
    slows down the host, not the kernels: compare busy_ms with the latency of calls that were not recorded.
    """
    import torch
    from torch.profiler import ProfilerActivity

    with torch.profiler.profile(activities=[ProfilerActivity.CUDA]) as recorded:
        call()
    spans: list[tuple[int, int]] = []
    by_kind_ms: dict[str, float] = {}
    for event in recorded.profiler.kineto_results.events():
        if event.device_type() != torch.autograd.DeviceType.CUDA:  # type: ignore[attr-defined]
            continue
        spans.append((event.start_ns(), event.start_ns() + event.duration_ns()))
        kind = kernel_kind(event.name())
        by_kind_ms[kind] = by_kind_ms.get(kind, 0.0) + event.duration_ns() / 1e6
    return {"busy_ms": covered_ns(spans) / 1e6, "kernels": len(spans), "by_kind_ms": by_kind_ms}


@functools.cache
def kernel_kind(name: str) -> str:
    """The class of a kernel."""
    low = name.lower()
    return next((kind for kind, parts in KINDS.items() if any(part in low for part in parts)), OTHER)


def covered_ns(spans: Iterable[tuple[int, int]]) -> int:
    """How long at least one of these spans (begin, end) lasted; what overlaps counts once."""
    covered, last_end = 0, 0
    for begin, end in sorted(spans):
        covered += max(0, end - max(begin, last_end))
        last_end = max(last_end, end)
    return covered
