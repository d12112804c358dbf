"""Timing, replayed: the calls are recorded numbers, and no clock is asked."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pytest
from paretune.objectives.measuring import stopping, timing
from paretune.objectives.measuring.stopping import StopRule


@dataclass(frozen=True)
class Request:
    name: str
    weight: float = 1.0


class State:
    """A MachineState: a machine that throttles the calls it is told to."""

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
def energy(handle: object) -> Iterator[Energy]:
    """An EnergyMeter."""
    yield Energy()


def on_a_machine(monkeypatch: pytest.MonkeyPatch, state: State) -> None:
    monkeypatch.setattr(timing, "MachineState", lambda device, handle: state)
    monkeypatch.setattr(timing, "EnergyMeter", energy)


def timed(shapes: list[list[Request]], recorded: dict[str, list[float]], rule: StopRule, **options: Any) -> Any:
    calls = {name: iter(samples) for name, samples in recorded.items()}
    return timing.time_shapes(
        shapes,
        "cpu",
        call=lambda request: (next(calls[request.name]), [0, 0]),
        keep=lambda request, images: None,
        rule=rule,
        **options,
    )


@pytest.fixture(autouse=True)
def quiet_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    on_a_machine(monkeypatch, State())


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


def test_shapes_take_turns_and_count_by_their_weight() -> None:
    shapes = [[Request("a"), Request("b")], [Request("c", weight=6)]]
    order: list[str] = []
    calls = {"a": 100.0, "b": 100.0, "c": 20.0}

    def call(request: Request) -> tuple[float, list[int]]:
        order.append(request.name)
        return calls[request.name], [0] * (4 if request.name == "c" else 1)

    measured = timing.time_shapes(
        shapes,
        "cpu",
        call=call,
        keep=lambda request, images: None,
        rule=StopRule(least_calls=3),
    )
    assert order == ["a", "c", "b", "c", "a", "c"]
    assert measured["latency_ms"] == pytest.approx((2 * 100 + 6 * 20) / 8)
    assert measured["latency_per_image_ms"] == pytest.approx((2 * 100 + 6 * 20) / (2 * 1 + 6 * 4))
    assert measured["energy_j"] == pytest.approx(30 * 8 / (2 * 1 + 6 * 4))


def test_a_throttled_call_is_repeated_and_kept_aside(monkeypatch: pytest.MonkeyPatch) -> None:
    on_a_machine(monkeypatch, State({1: "hardware slowdown"}))
    measured = timed([[Request("a")]], {"a": [100, 170, 100, 100, 100, 100]}, StopRule(least_calls=5))
    shape = measured["latency"][0]
    assert shape["samples_ms"] == [100] * 5
    assert (shape["throttled_ms"], shape["throttled"]) == ([170], [])


def test_where_every_call_is_throttled_they_count_and_are_flagged(monkeypatch: pytest.MonkeyPatch) -> None:
    on_a_machine(monkeypatch, State(dict.fromkeys(range(50), "thermal")))
    shape = timed([[Request("a")]], {"a": [150.0] * 20}, StopRule(least_calls=5))["latency"][0]
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
