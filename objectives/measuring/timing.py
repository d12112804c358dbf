"""Times calls of requests, shape by shape in turn, until each is known well enough."""

import math
import time
from collections.abc import Callable, Sequence
from typing import Any

from .energy import EnergyMeter
from .graphs_made import Made
from .intervals import relative_interval_width
from .latency import mix_mean, summarize
from .machine_state import MachineState
from .memory import nvml_handle_if_any
from .stopping import StopRule
from .trace import Trace

CALLS_BEFORE_DOMINATED = 3
MOST_REPEATS = 3
"""So many throttled calls of a shape are repeated. Further ones count and are flagged, so that there is a result."""
REPEAT_PAUSE_S = 0.5
LONG_PAUSE_S = 0.5
"""After a longer pause clocks have fallen: a call that is not timed comes first."""
NO_TRACE = Trace()


def time_shapes(
    shapes: Sequence[Sequence[Any]],
    device: str,
    *,
    call: Callable[[Any], tuple[float, Any]],
    keep: Callable[[Any, Any], None],
    rule: StopRule,
    dominated: Callable[[float], int | None] = lambda latency_ms: None,
    trace: Trace = NO_TRACE,
    compiled: Callable[[], Made] = lambda: Made(0, 0),
) -> dict[str, Any]:
    """Time every shape (a list of requests that cost the same) on `device` until `rule` ends it.

    Shapes take turns, as requests do in production, so that a disturbance hits all of them and none for long. With a
    trace, all of it is called, again and again: how often it has a shape is its weight, and calls after a change of
    adapters are kept apart from the others, which are the shape's own latency.
    call(request) -> (ms, pictures); keep(request, pictures) is told of every call;
    dominated(mix latency so far, ms) -> the trial that makes this one pointless; compiled() -> what was compiled and
    recorded by now.

    Returns latency_ms (the weighted mix; with a trace, the mean over it, stalls included), latency_per_image_ms,
    latency (per shape, with the samples, why measuring stopped and what was throttled), energy_j per image, machine,
    recompiles and recaptures in all timed calls, with a trace that changes adapters swaps and swap_stall_ms, and
    dominated_by when it was.
    """
    watches = [_Watch(requests, trace) for requests in shapes]
    watch_of = {request.name: watch for watch, requests in zip(watches, shapes, strict=True) for request in requests}
    watch_of |= {request.name: _watch_of(request, watches) for request in trace.order if request.name not in watch_of}
    better: int | None = None
    asked_before = False
    if trace.swaps:
        call(trace.order[-1])  # whatever was called before: the first place comes after the last
    began = compiled()
    handle = nvml_handle_if_any(device)
    with MachineState(device, handle) as state:
        while better is None and any(watch.stopped is None for watch in watches):
            for place, request in enumerate(trace.order):
                swapped = place in trace.swaps
                before = compiled()
                _one_call(watch_of[request.name], request, call, keep, state, handle, swapped=swapped)
                if swapped:
                    watch_of[request.name].swap_made.append(compiled().since(before))
            for watch in watches:
                if not trace.order and watch.stopped is None:
                    request = watch.requests[len(watch.samples_ms) % len(watch.requests)]
                    _one_call(watch, request, call, keep, state, handle)
                if watch.stopped is None:
                    watch.stopped = rule.reason(watch.samples_ms, watch.seconds)
            enough = all(len(watch.samples_ms) >= CALLS_BEFORE_DOMINATED for watch in watches)
            if enough and not asked_before:
                asked_before = True
                asked = time.perf_counter()
                better = dominated(_latency_ms(watches))
                if not trace.order and better is None and time.perf_counter() - asked > LONG_PAUSE_S:
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
        "recompiles": (found := compiled().since(began)).graphs,
        "recaptures": found.captures,
    }
    if trace.swaps:
        measured |= _swaps(watches)
    return measured if better is None else {**measured, "dominated_by": better}


class _Watch:
    """One shape while it is timed."""

    def __init__(self, requests: Sequence[Any], trace: Trace) -> None:
        self.requests = requests
        names = {request.name for request in requests}
        self.weight = float(sum(request.weight for request in requests))
        self.swaps_in_trace = 0
        if trace.order:
            same = requests[0].shape()
            places = [at for at, one in enumerate(trace.order) if one.name in names or one.shape() == same]
            self.weight = float(len(set(places) - trace.extra))
            self.swaps_in_trace = len(trace.swaps.intersection(places))
        self.swap_ms: list[float] = []
        """Calls after a change of adapters."""
        self.swap_made: list[Made] = []
        """What each of them compiled and recorded."""
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


def _watch_of(request: Any, watches: Sequence[_Watch]) -> _Watch:
    return next(watch for watch in watches if watch.requests[0].shape() == request.shape())


def _one_call(
    watch: _Watch,
    request: Any,
    call: Callable[[Any], tuple[float, Any]],
    keep: Callable[[Any, Any], None],
    state: MachineState,
    nvml_handle: Any | None,
    *,
    swapped: bool = False,
) -> None:
    """Time a request of a shape, again while the machine throttles: not after a change of adapters, which would be
    another one the second time.
    """
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
        if reason is None or swapped or len(watch.set_aside_ms) >= MOST_REPEATS:
            break
        watch.set_aside_ms.append(milliseconds)
        time.sleep(REPEAT_PAUSE_S)
    (watch.swap_ms if swapped else watch.samples_ms).append(milliseconds)
    if reason is not None:
        watch.throttled.append(reason)


def _latency_ms(watches: Sequence[_Watch]) -> float:
    """What one request of the production mix costs, from the calls so far."""
    medians_ms = [summarize(watch.samples_ms).median_ms for watch in watches]
    swaps = [_stall_ms(watch) * watch.swaps_in_trace for watch in watches]
    return _mix_mean(watches, medians_ms) + math.fsum(swaps) / math.fsum(watch.weight for watch in watches)


def _stall_ms(watch: _Watch) -> float:
    """What a request of this shape waits extra after a change of adapters: medians, less each other; not below 0."""
    if not watch.swap_ms:
        return 0.0
    return max(0.0, summarize(watch.swap_ms).median_ms - summarize(watch.samples_ms).median_ms)


def _swaps(watches: Sequence[_Watch]) -> dict[str, Any]:
    """What changes of adapters cost."""
    swapped = [watch for watch in watches if watch.swap_ms]
    made = [one for watch in swapped for one in watch.swap_made]
    return {
        "swap_stall_ms": mix_mean([_stall_ms(watch) for watch in swapped], [len(watch.swap_ms) for watch in swapped]),
        "swaps": {
            "n": sum(len(watch.swap_ms) for watch in swapped),
            "recompiles": sum(one.graphs for one in made),
            "recaptures": sum(one.captures for one in made),
            "by_shape": [
                {
                    "requests": [request.name for request in watch.requests],
                    "samples_ms": [round(sample, 4) for sample in watch.swap_ms],
                    "stall_ms": _stall_ms(watch),
                    "recompiles": [one.graphs for one in watch.swap_made],
                    "recaptures": [one.captures for one in watch.swap_made],
                }
                for watch in swapped
            ],
        },
    }


def _energy_per_image(watches: Sequence[_Watch]) -> float | None:
    if any(watch.joules is None for watch in watches):
        return None
    joules_per_request = _mix_mean(watches, [(watch.joules or 0.0) / watch.calls for watch in watches])
    return joules_per_request / _images_per_request(watches)


def _images_per_request(watches: Sequence[_Watch]) -> float:
    return _mix_mean(watches, [watch.images / watch.calls for watch in watches])


def _mix_mean(watches: Sequence[_Watch], values: Sequence[float]) -> float:
    return mix_mean(values, [watch.weight for watch in watches])
