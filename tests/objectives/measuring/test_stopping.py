"""When measuring stops, and which trial makes another one pointless."""

import pytest
from paretune.objectives.measuring import stopping
from paretune.objectives.measuring.stopping import StopRule, dominated_by, interval_target

WILD = [100.0, 130.0, 90.0, 120.0, 85.0]


def test_the_time_ends_it_too_but_never_before_the_least_calls() -> None:
    rule = StopRule(least_calls=5, target=0.0001, most_seconds=10)
    assert rule.reason([1.0, 2.0], 1000) is None
    assert rule.reason(WILD, 9.9) is None
    assert rule.reason(WILD, 10) == stopping.TIME


@pytest.mark.parametrize(("floor", "target"), [(0.02, 0.01), (0.004, 0.002), (0.0, 0.002)])
def test_a_median_is_known_well_beside_the_noise_floor(floor: float, target: float) -> None:
    assert interval_target(floor) == pytest.approx(target)


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
