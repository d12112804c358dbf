"""Times calls of requests, shape by shape in turn, until each is known well enough."""

import time
from collections.abc import Callable, Sequence
from typing import Any

from .energy import EnergyMeter
from .intervals import relative_interval_width
from .latency import mix_mean, summarize
from .machine_state import MachineState
from .memory import nvml_handle_if_any
from .stopping import StopRule

CALLS_BEFORE_DOMINATED = 3
MOST_REPEATS = 3
"""So many throttled calls of a shape are repeated. Further ones count and are flagged, so that there is a result."""
REPEAT_PAUSE_S = 0.5
LONG_PAUSE_S = 0.5
"""After a longer pause clocks have fallen: a call that is not timed comes first."""


def time_shapes(
    shapes: Sequence[Sequence[Any]],
    device: str,
    *,
    call: Callable[[Any], tuple[float, Any]],
    keep: Callable[[Any, Any], None],
    rule: StopRule,
    dominated: Callable[[float], int | None] = lambda latency_ms: None,
) -> dict[str, Any]:
    """Time every shape (a list of requests that cost the same) on `device` until `rule` ends it.

    Shapes take turns, as requests do in production, so that a disturbance hits all of them and none for long.
    call(request) -> (ms, pictures); keep(request, pictures) is told of every call;
    dominated(mix latency so far, ms) -> the trial that makes this one pointless.

    Returns latency_ms (the weighted mix), latency_per_image_ms, latency (per shape, with the samples, why measuring
    stopped and what was throttled), energy_j per image, machine, and dominated_by when it was.
    """
    watches = [_Watch(requests) for requests in shapes]
    better: int | None = None
    handle = nvml_handle_if_any(device)
    with MachineState(device, handle) as state:
        while better is None and any(watch.stopped is None for watch in watches):
            for watch in watches:
                if watch.stopped is None:
                    _one_call(watch, call, keep, state, handle)
                    watch.stopped = rule.reason(watch.samples_ms, watch.seconds)
            if all(len(watch.samples_ms) == CALLS_BEFORE_DOMINATED for watch in watches):
                asked = time.perf_counter()
                better = dominated(_latency_ms(watches))
                if better is None and time.perf_counter() - asked > LONG_PAUSE_S:
                    for watch in watches:
                        call(watch.requests[0])
    latency_ms = _latency_ms(watches)
    measured: dict[str, Any] = {
        "latency_ms": latency_ms,
        "latency_per_image_ms": latency_ms / _images_per_request(watches),
        "latency": [
            {
                "requests": [request.name for request in watch.requests],
                "weight": watch.weight,
                "samples_ms": [round(sample, 4) for sample in watch.samples_ms],
                **summarize(watch.samples_ms).to_dict(),
                "interval": relative_interval_width(watch.samples_ms),
                "stop": "dominated" if better is not None else watch.stopped,
                "throttled_ms": [round(sample, 4) for sample in watch.set_aside_ms],
                "throttled": watch.throttled,
            }
            for watch in watches
        ],
        "energy_j": _energy_per_image(watches),
        "machine": state.summary(),
    }
    return measured if better is None else {**measured, "dominated_by": better}


class _Watch:
    """One shape while it is timed."""

    def __init__(self, requests: Sequence[Any]) -> None:
        self.requests = requests
        self.weight = sum(request.weight for request in requests)
        self.samples_ms: list[float] = []
        self.set_aside_ms: list[float] = []
        """Throttled calls that were repeated."""
        self.throttled: list[str] = []
        """Why calls that count were throttled all the same."""
        self.seconds = 0.0
        self.images = 0
        self.joules: float | None = 0.0
        self.calls = 0
        self.stopped: str | None = None


def _one_call(
    watch: _Watch,
    call: Callable[[Any], tuple[float, Any]],
    keep: Callable[[Any, Any], None],
    state: MachineState,
    nvml_handle: Any | None,
) -> None:
    """Time the next request of a shape, again while the machine throttles."""
    request = watch.requests[len(watch.samples_ms) % len(watch.requests)]
    while True:
        started_s = time.perf_counter()
        with EnergyMeter(nvml_handle) as energy:
            milliseconds, images = call(request)
        ended_s = time.perf_counter()
        watch.seconds += ended_s - started_s
        watch.calls += 1
        watch.images += len(images)
        watch.joules = None if energy.joules is None or watch.joules is None else watch.joules + energy.joules
        keep(request, images)
        reason = state.throttled(started_s, ended_s)
        if reason is None or len(watch.set_aside_ms) >= MOST_REPEATS:
            break
        watch.set_aside_ms.append(milliseconds)
        time.sleep(REPEAT_PAUSE_S)
    watch.samples_ms.append(milliseconds)
    if reason is not None:
        watch.throttled.append(reason)


def _latency_ms(watches: Sequence[_Watch]) -> float:
    """What one request of the production mix costs, from the calls so far."""
    medians_ms = [summarize(watch.samples_ms).median_ms for watch in watches]
    return _mix_mean(watches, medians_ms)


def _energy_per_image(watches: Sequence[_Watch]) -> float | None:
    if any(watch.joules is None for watch in watches):
        return None
    joules_per_request = _mix_mean(watches, [(watch.joules or 0.0) / watch.calls for watch in watches])
    return joules_per_request / _images_per_request(watches)


def _images_per_request(watches: Sequence[_Watch]) -> float:
    return _mix_mean(watches, [watch.images / watch.calls for watch in watches])


def _mix_mean(watches: Sequence[_Watch], values: Sequence[float]) -> float:
    return mix_mean(values, [watch.weight for watch in watches])
