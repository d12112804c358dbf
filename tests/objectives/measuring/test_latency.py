"""Latency: the clock's arithmetic, never the machine's speed."""

import pytest
from paretune.objectives.measuring import latency


def test_time_call_ms_reads_the_clock_around_the_call(monkeypatch: pytest.MonkeyPatch) -> None:
    events: list[str] = []
    now_ns = iter([1_000_000, 13_500_000])

    def clock() -> int:
        events.append("clock")
        return next(now_ns)

    def call() -> str:
        events.append("call")
        return "picture"

    monkeypatch.setattr(latency.time, "perf_counter_ns", clock)
    monkeypatch.setattr(latency, "synchronize", lambda device: events.append(f"sync {device}"))
    assert latency.time_call_ms(call, "cuda:1") == (12.5, "picture")
    assert events == ["sync cuda:1", "clock", "call", "sync cuda:1", "clock"]


def test_an_unknown_device_is_refused() -> None:
    latency.synchronize("cpu")
    with pytest.raises(ValueError, match="mps"):
        latency.synchronize("mps")


def test_summarize_as_numpy_would() -> None:
    summary = latency.summarize([4.0, 1.0, 3.0, 2.0])
    assert summary.to_dict() == {
        "n": 4,
        "median_ms": 2.5,
        "p95_ms": pytest.approx(3.85),
        "min_ms": 1.0,
        "max_ms": 4.0,
        "iqr_ms": 1.5,
        "relative_iqr": 0.6,
    }


def test_one_sample_has_no_spread() -> None:
    summary = latency.summarize([7.0])
    assert (summary.median_ms, summary.p95_ms, summary.iqr_ms) == (7.0, 7.0, 0.0)


@pytest.mark.parametrize("samples_ms", [[], [1.0, float("nan")], [-1.0]])
def test_bad_samples_are_refused(samples_ms: list[float]) -> None:
    with pytest.raises(ValueError, match="samples"):
        latency.summarize(samples_ms)


def test_the_mean_of_a_mix_counts_requests_by_their_weight() -> None:
    assert latency.mix_mean([100.0, 200.0], [3.0, 1.0]) == 125.0
    for values, weights in (([1.0], [1.0, 2.0]), ([1.0], [0.0]), ([1.0, 1.0], [2.0, -1.0])):
        with pytest.raises(ValueError, match="weight"):
            latency.mix_mean(values, weights)
