"""When measuring stops, replayed: the calls are recorded numbers, and no clock is asked."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pytest
from paretune.objectives import stopping, timing
from paretune.objectives.intervals import relative_interval_width
from paretune.objectives.latency import summarize
from paretune.objectives.stopping import StopRule, dominated_by


@dataclass(frozen=True)
class Request:
    name: str
    weight: float = 1.0


class State:
    """A machine that throttles the calls it is told to."""

    def __init__(self, throttled: dict[int, str] | None = None) -> None:
        self._throttled = throttled or {}
        self._calls = -1

    def __enter__(self) -> "State":
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def throttled(self, start_s: float, end_s: float) -> str | None:
        self._calls += 1
        return self._throttled.get(self._calls)

    def summary(self) -> dict[str, Any]:
        return {"samples": self._calls + 1}


@dataclass
class Energy:
    joules: float | None = 30.0


@contextmanager
def energy() -> Iterator[Energy]:
    yield Energy()


def timed(shapes: list[list[Request]], recorded: dict[str, list[float]], rule: StopRule, **options: Any) -> Any:
    calls = {name: iter(samples) for name, samples in recorded.items()}
    return timing.time_shapes(
        shapes,
        call=lambda request: (next(calls[request.name]), [0, 0]),
        keep=lambda request, images: 0.0,
        rule=rule,
        relative_width=relative_interval_width,
        summarize=summarize,
        **{"state": State(), "energy_meter": energy, **options},
    )


@pytest.fixture(autouse=True)
def no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timing, "REPEAT_PAUSE_S", 0.0)


STEADY = [100.0, 100.1, 99.9, 100.0, 100.05, 99.95, 100.0, 100.0]
WILD = [100.0, 130.0, 90.0, 120.0, 85.0, 110.0, 140.0, 95.0, 105.0, 125.0, 99.0, 101.0]


def test_steady_calls_stop_at_the_least_and_wild_ones_go_on() -> None:
    rule = StopRule(least_calls=5, most_calls=12, target=0.02)
    steady = timed([[Request("a")]], {"a": STEADY}, rule)["latency"][0]
    assert (steady["n"], steady["stop"]) == (5, stopping.INTERVAL)
    wild = timed([[Request("a")]], {"a": WILD}, rule)["latency"][0]
    assert (wild["n"], wild["stop"]) == (12, stopping.CALLS)
    assert wild["interval"] > 0.02
    assert {"median_ms", "p95_ms", "iqr_ms", "samples_ms"} <= set(wild)


def test_the_time_ends_it_too_but_never_before_the_least_calls() -> None:
    rule = StopRule(least_calls=5, target=0.0001, most_seconds=10)
    assert rule.reason([1.0, 2.0], 1000, relative_interval_width) is None
    assert rule.reason(WILD[:5], 9.9, relative_interval_width) is None
    assert rule.reason(WILD[:5], 10, relative_interval_width) == stopping.TIME


def test_shapes_take_turns_and_count_by_their_weight() -> None:
    shapes = [[Request("a"), Request("b")], [Request("c", weight=6)]]
    order: list[str] = []
    calls = {"a": 100.0, "b": 100.0, "c": 20.0}

    def call(request: Request) -> tuple[float, list[int]]:
        order.append(request.name)
        return calls[request.name], [0] * (4 if request.name == "c" else 1)

    measured = timing.time_shapes(
        shapes,
        call=call,
        keep=lambda request, images: 0.0,
        rule=StopRule(least_calls=3),
        relative_width=relative_interval_width,
        summarize=summarize,
        state=State(),
        energy_meter=energy,
    )
    assert order == ["a", "c", "b", "c", "a", "c"]
    assert measured["latency_ms"] == pytest.approx((2 * 100 + 6 * 20) / 8)
    assert measured["latency_per_image_ms"] == pytest.approx((2 * 100 + 6 * 20) / (2 * 1 + 6 * 4))
    assert measured["energy_j"] == pytest.approx(30 * 8 / (2 * 1 + 6 * 4))


def test_a_throttled_call_is_repeated_and_kept_aside() -> None:
    state = State({1: "hardware slowdown"})
    measured = timed([[Request("a")]], {"a": [100, 170, 100, 100, 100, 100]}, StopRule(least_calls=5), state=state)
    shape = measured["latency"][0]
    assert shape["samples_ms"] == [100] * 5
    assert (shape["throttled_ms"], shape["throttled"]) == ([170], [])


def test_where_every_call_is_throttled_they_count_and_are_flagged() -> None:
    state = State(dict.fromkeys(range(50), "thermal"))
    shape = timed([[Request("a")]], {"a": [150.0] * 20}, StopRule(least_calls=5), state=state)["latency"][0]
    assert shape["n"] == 5
    assert len(shape["throttled_ms"]) == timing.MOST_REPEATS
    assert shape["throttled"] == ["thermal"] * 5


def test_what_another_trial_clearly_beats_is_not_measured_to_the_end() -> None:
    asked: list[float] = []

    def dominated(latency_ms: float) -> int:
        asked.append(latency_ms)
        return 4

    measured = timed([[Request("a")]], {"a": WILD}, StopRule(least_calls=5), dominated=dominated)
    assert measured["dominated_by"] == 4
    assert asked == [100.0]
    assert (measured["latency"][0]["n"], measured["latency"][0]["stop"]) == (3, "dominated")


FRONT = [{"trial": 2, "latency_ms": 100.0, "peak_vram_gib": 8.0, "drift": 0.5}]


@pytest.mark.parametrize(
    ("latency_ms", "memory_gib", "drift", "better"),
    [
        (200.0, 9.0, 0.6, 2),
        (149.0, 9.0, 0.6, None),  # not clearly slower
        (200.0, 7.0, 0.6, None),  # it takes less memory
        (200.0, 9.0, 0.4, None),  # its pictures are closer, so far
        (200.0, 8.0, 0.5, 2),
    ],
)
def test_dominated_means_in_everything(latency_ms: float, memory_gib: float, drift: float, better: int | None) -> None:
    known = {"latency_ms": latency_ms, "peak_vram_gib": memory_gib}
    assert dominated_by(known, lambda: drift, FRONT) == better


def test_without_judged_pictures_latency_and_memory_decide() -> None:
    front = [{"trial": 2, "latency_ms": 100.0, "peak_vram_gib": 8.0}]
    known = {"latency_ms": 200.0, "peak_vram_gib": 9.0}
    assert dominated_by(known, lambda: None, front) == 2
    assert dominated_by(known, lambda: None, FRONT) is None


def test_a_quicker_start_saves_what_is_slower_when_it_is_an_objective() -> None:
    front = [{"trial": 2, "latency_ms": 100.0, "peak_vram_gib": 8.0, "cold_start_s": 60.0}]
    known = {"latency_ms": 200.0, "peak_vram_gib": 9.0}
    assert dominated_by({**known, "cold_start_s": 5.0}, lambda: None, front) is None
    assert dominated_by({**known, "cold_start_s": 61.0}, lambda: None, front) == 2
