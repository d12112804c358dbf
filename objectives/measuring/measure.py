"""Loads a workload, applies a configuration, and measures it: all that a trial measures."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .latency import synchronize, time_call_ms
from .latent_tap import LatentTap
from .loading import find_apply, load_file, only_sources
from .memory import PeakMemory, device_used_gib, release_unused
from .phases import Phases
from .plan import Plan
from .stages import StageTimer
from .stopping import StopRule
from .timing import time_shapes
from .variants import variant

SCHEMA_VERSION = 2


@dataclass(frozen=True)
class Made:
    """What came out of the pipelines: by request, as decoded, neither rounded nor clamped."""

    pictures: dict[str, Any] = field(default_factory=dict)
    """(B, 3, H, W), float32 on the CPU."""
    latents: dict[str, Any] = field(default_factory=dict)
    """(B, C, h, w) as the decoder got them, on the CPU; only where a pipeline has a VAE that was called."""


def measure_configuration(
    folder: Path,
    device: str,
    *,
    plan: Plan,
    phases: Phases,
    after_load: Callable[[dict[str, Any], list[Any]], None] = lambda pipelines, requests: None,
    after_warm_up: Callable[[dict[str, Any]], None] = lambda pipelines: None,
    dominated: Callable[[Mapping[str, Any], Mapping[str, Any]], int | None] = lambda known, pictures: None,
) -> tuple[dict[str, Any], Made]:
    """Measure the configuration in `folder` (workload.py, workload.json, apply.py) on `device` as `plan` says.

    Memory and stages have passes of their own, because sampling and marking disturb timing. `dominated` is asked
    between timed calls, with the measurements and the pictures so far; a trial number ends timing.

    Returns the measurements (JSON-able; ms, GiB, s, J) and what was made.
    """
    # Read before this process touches the GPU: where NVML cannot tell processes apart, it is what others use.
    used_before_gib = device_used_gib(device) if device.startswith("cuda") else None
    with phases("load"):
        workload = load_file(folder / "workload.py", "workload").Workload.read(folder)
        if workload.python is not None:
            only_sources(workload.python.parent)
        pipelines = workload.load(device)
        synchronize(device)
        after_load(pipelines, workload.requests)
    shapes = _by_shape(workload.requests)
    measurements: dict[str, Any] = {"schema": SCHEMA_VERSION, "device": device}

    # Sampled rarely: the first call is a part of the cold start, and compiling takes long enough to be seen.
    with PeakMemory(device, interval_ms=50.0, used_before_gib=used_before_gib) as setup:
        with phases("apply"):
            load_file(find_apply(folder), "apply").apply(pipelines)
            synchronize(device)
        serving = _Serving(workload, pipelines, device)
        with phases("first_call"):
            measurements["first_call_ms"], pictures = serving.call(workload.requests[0])
            serving.keep(workload.requests[0], pictures)
        if not plan.only_cold:
            with phases("warm_up"):
                for index, requests in enumerate(shapes):
                    for _ in range(plan.warm_up_calls - (1 if index == 0 else 0)):
                        serving.call(requests[0])
                after_warm_up(pipelines)
    measurements["setup_peak_vram_gib"] = setup.summary.peak_vram_gib
    if plan.only_cold:
        return measurements, serving.made
    if plan.memory:
        with phases("memory"):
            measurements["memory"] = _peak_memory(serving, shapes, used_before_gib)
        measurements["peak_vram_gib"] = measurements["memory"]["peak_vram_gib"]
    if plan.measure:
        with phases("measure"):
            timed = time_shapes(
                [_timed_requests(requests, plan.pictures) for requests in shapes],
                device,
                call=serving.call,
                keep=serving.keep,
                rule=StopRule(plan.calls, plan.most_calls, plan.most_seconds, plan.target),
                dominated=lambda latency_ms: dominated(
                    {**measurements, "latency_ms": latency_ms}, serving.made.pictures
                ),
            )
        measurements |= timed
    if "dominated_by" in measurements:
        return measurements, serving.made
    if plan.pictures:
        with phases("pictures"):
            for name in plan.pictures:
                if name not in serving.made.pictures:
                    request = variant(workload.requests, name)
                    serving.keep(request, serving.call(request)[1])
    if plan.stages:
        with phases("stages"):
            measurements["stages"] = [_stages(serving, requests) for requests in shapes]
    return measurements, serving.made


class _Serving:
    """Calls pipelines that a configuration was applied to, and keeps what they make."""

    def __init__(self, workload: Any, pipelines: dict[str, Any], device: str) -> None:
        self.workload = workload
        self.pipelines = pipelines
        self.device = device
        self.made = Made()
        self._tap = LatentTap(pipelines)

    def call(self, request: Any) -> tuple[float, Any]:
        """Serve a request: its time in ms, and the pictures as float32 on the CPU, which is not in the time."""
        milliseconds, images = time_call_ms(lambda: self.workload.run(self.pipelines, request), self.device)
        return milliseconds, images.detach().to("cpu").float()

    def keep(self, request: Any, pictures: Any) -> float:
        """Keep a request's pictures; returns how far a repetition is from the first time (NaN compares as 0)."""
        if request.name in self.made.pictures:
            return float((pictures - self.made.pictures[request.name]).abs().nan_to_num().max())
        self.made.pictures[request.name] = pictures
        if (latents := self._tap.take()) is not None:
            self.made.latents[request.name] = latents
        return 0.0


def _by_shape(requests: Sequence[Any]) -> list[list[Any]]:
    """Requests that cost the same together, in the order of the first of each."""
    shapes: dict[tuple[Any, ...], list[Any]] = {}
    for request in requests:
        shapes.setdefault(request.shape(), []).append(request)
    return list(shapes.values())


def _timed_requests(requests: Sequence[Any], pictures: Sequence[str]) -> list[Any]:
    """Those of one shape that pictures are kept of; one at least."""
    return [request for request in requests if not pictures or request.name in pictures] or [requests[0]]


def _peak_memory(serving: _Serving, shapes: Sequence[Sequence[Any]], used_before_gib: float | None) -> dict[str, Any]:
    """The MemorySummary, as plain values, of the shape that takes most."""
    release_unused(serving.device)
    peaks = []
    for requests in shapes:
        with PeakMemory(serving.device, used_before_gib=used_before_gib) as peak:
            serving.call(requests[0])
        peaks.append(peak.summary)
    return max(peaks, key=lambda summary: summary.peak_vram_gib).to_dict()


def _stages(serving: _Serving, requests: Sequence[Any]) -> dict[str, Any]:
    """Where the time of one call of a shape goes."""
    with StageTimer(serving.pipelines, serving.device) as timer:
        serving.call(requests[0])
    return {"requests": [request.name for request in requests], **timer.summary()}
