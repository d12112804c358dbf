"""Loads a workload, applies a configuration, and measures it: all that a trial measures."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .contract import InvalidOutputError, checked_entries, checked_pictures, difference
from .gpu_busy import gpu_busy
from .graphs_made import Compilations
from .latency import synchronize, time_call_ms
from .latent_tap import LatentTap
from .loading import apply_beside, load_file, only_sources
from .memory import PeakMemory, device_used_gib, release_unused
from .phases import Phases
from .plan import Plan
from .stages import StageTimer
from .stopping import StopRule
from .timing import time_shapes
from .trace import Trace
from .variants import VARIANT, variant
from .visits import Visits, denoisers_of

SCHEMA_VERSION = 2


@dataclass(frozen=True)
class Made:
    """What came out of the pipelines: by request, as decoded, neither rounded nor clamped."""

    pictures: dict[str, Any] = field(default_factory=dict)
    """(B, 3, H, W), float32 on the CPU: what the request gave first."""
    repeats: dict[str, Any] = field(default_factory=dict)
    """Likewise, what it gave later that was furthest from the first; only where something was not equal to it."""
    latents: dict[str, Any] = field(default_factory=dict)
    """(B, C, h, w) as the decoder got them, on the CPU; only where a pipeline has a VAE that was called."""


def measure_configuration(
    folder: Path,
    device: str,
    *,
    plan: Plan,
    phases: Phases,
    after_load: Callable[[dict[str, Any], list[Any]], None] = lambda pipelines, requests: None,
    after_warm_up: Callable[[dict[str, Any], Made], None] = lambda pipelines, made: None,
    dominated: Callable[[Mapping[str, Any], Mapping[str, Any]], int | None] = lambda known, pictures: None,
) -> tuple[dict[str, Any], Made]:
    """Measure the configuration in `folder` (workload.py, workload.json, apply.py) on `device` as `plan` says.

    Memory and stages have passes of their own, because sampling and marking disturb timing. `dominated` is asked
    between timed calls, with the measurements and the pictures so far; a trial number ends timing.

    Returns the measurements (JSON-able; ms, GiB, s, J) and what was made. Raises InvalidOutputError as soon as a call,
    timed or not, gives something else than pictures, or takes no denoising step.
    """
    # Read before this process touches the GPU: where NVML cannot tell processes apart, it is what others use.
    used_before_gib = device_used_gib(device) if device.startswith("cuda") else None
    with phases("load"):
        workload = load_file(folder / "workload.py", "workload").Workload.read(folder)
        if workload.python is not None:
            only_sources(workload.python.parent)
        pipelines = checked_entries(workload.load(device))
        synchronize(device)
        after_load(pipelines, workload.requests)
    shapes = _by_shape(workload.requests)
    measurements: dict[str, Any] = {"schema": SCHEMA_VERSION, "device": device}

    # Sampled rarely: the first call is a part of the cold start, and compiling takes long enough to be seen.
    with PeakMemory(device, interval_ms=50.0, used_before_gib=used_before_gib) as setup:
        with phases("apply"):
            apply_beside(folder, pipelines, use_artefacts=plan.artefacts)
            synchronize(device)
        serving = _Serving(workload, pipelines, device)
        with phases("first_call"):
            measurements["first_call_ms"] = serving.call_and_keep(workload.requests[0])
        if not plan.only_cold:
            with phases("warm_up"):
                for index, requests in enumerate(shapes):
                    for _ in range(plan.warm_up_calls - (1 if index == 0 else 0)):
                        serving.compare(requests[0], serving.call(requests[0])[1])
                trace = Trace.of(workload, shapes, serving.adapters)
                for request in trace.order if plan.measure else ():
                    # Every change of adapters that the timed calls will see, once.
                    serving.keep(request, serving.call(request)[1])
                after_warm_up(pipelines, serving.made)
    measurements["setup_peak_vram_gib"] = setup.summary.peak_vram_gib
    if plan.only_cold:
        return measurements, serving.made
    if plan.memory:
        with phases("memory"):
            measurements["memory"] = _peak_memory(serving, shapes, used_before_gib)
        measurements["peak_vram_gib"] = measurements["memory"]["peak_vram_gib"]
    if plan.measure:
        with phases("measure"), Compilations() as compilations:
            timed = time_shapes(
                [_timed_requests(requests, plan.pictures) for requests in shapes],
                device,
                trace=trace,
                compiled=compilations.made,
                call=serving.call,
                keep=serving.keep,
                rule=StopRule(plan.calls, plan.most_calls, plan.most_seconds, plan.target),
                dominated=lambda latency_ms: dominated(
                    {**measurements, "latency_ms": latency_ms}, serving.made.pictures
                ),
            )
        measurements |= timed
    ended_early = "dominated_by" in measurements
    if plan.pictures and not ended_early:
        with phases("pictures"):
            for name in plan.pictures:
                if name not in serving.made.pictures:
                    serving.call_and_keep(variant(workload.requests, name))
    if plan.stages and not ended_early:
        with phases("stages"):
            measurements["stages"] = [_stages(serving, requests) for requests in shapes]
            if device.startswith("cuda"):
                busy = [_gpu_busy(serving, requests) for requests in shapes]
                if all(found["kernels"] for found in busy):  # else the driver does not let this process see them
                    measurements["gpu_busy"] = busy
    measurements["visits"] = serving.visits
    measurements["repeat_max_difference"] = serving.largest_difference
    return measurements, serving.made


class _Serving:
    """Calls pipelines that a configuration was applied to, looks at what they make, and keeps it."""

    def __init__(self, workload: Any, pipelines: dict[str, Any], device: str) -> None:
        self.workload = workload
        self.pipelines = pipelines
        self.device = device
        self.made = Made()
        self.largest_difference = 0.0
        """Of any value of a picture from what the same request gave first."""
        self.visits: dict[str, list[dict[str, Any]]] = {}
        """What each request visits, as recorded when it was served first."""
        self._tap = LatentTap(pipelines)
        self._denoised: set[str] = set()

    def call(self, request: Any, **around: Any) -> tuple[float, Any]:
        """Serve a request: its time in ms, and the pictures on their device, looked at after the time has been taken.

        around: see Visits. Raises InvalidOutputError when it gave no pictures or took no denoising step.
        """
        name = request.name.partition(VARIANT)[0]
        with Visits(self.pipelines, detailed=name not in self.visits, **around) as visits:
            milliseconds, returned = time_call_ms(lambda: self.workload.run(self.pipelines, request), self.device)
        self._check_steps(request, visits.taken)
        self.visits.setdefault(name, [visit.to_dict() for visit in visits.made])
        return milliseconds, checked_pictures(returned, request)

    def adapters(self, request: Any) -> Any:
        """What a request needs loaded: the adapters that it declares, and those that were seen in its visits."""
        seen = {name for visit in self.visits.get(request.name, ()) for name in visit["adapters"]}
        return (tuple(sorted(request.adapters)), tuple(sorted(seen)))

    def call_and_keep(self, request: Any) -> float:
        """Both; returns the time in ms, and leaves nothing on the device."""
        milliseconds, pictures = self.call(request)
        self.keep(request, pictures)
        return milliseconds

    def keep(self, request: Any, pictures: Any) -> None:
        """Keep what a request gives first, and compare what it gives later with that."""
        if request.name in self.made.pictures:
            self.compare(request, pictures)
            return
        self.made.pictures[request.name] = _kept(pictures)
        if (latents := self._tap.take()) is not None:
            self.made.latents[request.name] = latents

    def compare(self, request: Any, pictures: Any) -> None:
        """Keep the repetition that is furthest from what the request gave first, if its pictures are to be kept."""
        first = self.made.pictures.get(request.name)
        if first is None or (found := difference(pictures, first, request)) == 0:
            return
        known = self.made.repeats.get(request.name)
        if known is None or found > difference(known, first, request):
            self.made.repeats[request.name] = _kept(pictures)
        self.largest_difference = max(self.largest_difference, found)

    def _check_steps(self, request: Any, taken: int) -> None:
        entry = self.pipelines.get(request.pipeline)
        by_name = entry is not None and any(True for _ in denoisers_of(entry))
        if taken > 0:
            self._denoised.add(request.name)
        elif by_name or request.name in self._denoised:
            raise InvalidOutputError(
                f"request {request.name} was answered without a denoising step, which is no measurement: if something "
                "keeps finished pictures, such as a cache in front of the pipeline, switch it off; if this request "
                "needs no denoiser, let its `pipeline` name the entry of load() that serves it"
            )


def _kept(pictures: Any) -> Any:
    """A copy on the CPU, in float32: a workload may write its next pictures into the same memory."""
    import torch

    return pictures.to("cpu", torch.float32, copy=True)


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
            _, pictures = serving.call(requests[0])
        serving.compare(requests[0], pictures)
        del pictures  # the next shape's peak is without them
        peaks.append(peak.summary)
    return max(peaks, key=lambda summary: summary.peak_vram_gib).to_dict()


def _stages(serving: _Serving, requests: Sequence[Any]) -> dict[str, Any]:
    """Where the time of one call of a shape goes."""
    with StageTimer(serving.pipelines, serving.device, memory=True) as timer:
        _, pictures = serving.call(requests[0], around=timer.entry)
    serving.compare(requests[0], pictures)
    return {"requests": [request.name for request in requests], **timer.summary()}


def _gpu_busy(serving: _Serving, requests: Sequence[Any]) -> dict[str, Any]:
    """In how much of one call of a shape the GPU was busy, and with what."""
    made: list[Any] = []
    found = gpu_busy(lambda: made.append(serving.call(requests[0])[1]))
    serving.compare(requests[0], made.pop())
    return {"requests": [request.name for request in requests], **found}
