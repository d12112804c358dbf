"""The noise floor: what it calls a tie, and how often it is wrong."""

import json
import math
import random

import pytest
from paretune.objectives.noise_floor import NoiseFloor, floor_of, relative_difference


def test_relative_difference_has_no_direction() -> None:
    assert relative_difference(110, 100) == relative_difference(100, 110) == pytest.approx(0.1)
    assert relative_difference(0, 0) == 0
    assert math.isinf(relative_difference(0, 1))


def test_the_floor_covers_the_largest_difference_of_few_processes() -> None:
    values = [100.0, 101.0, 103.0]
    assert floor_of(values) >= 0.03 * 0.9
    assert floor_of([100.0, 100.0]) == 0
    with pytest.raises(ValueError, match="2 measurements"):
        floor_of([100.0])


@pytest.mark.parametrize("processes", [3, 5, 8])
def test_two_measurements_of_the_same_thing_are_ties_in_95_of_100_cases(processes: int) -> None:
    generator = random.Random(processes)
    wrong = tried = 0
    for _ in range(1500):
        floor = floor_of([generator.lognormvariate(0, 0.02) for _ in range(processes)])
        one, other = (generator.lognormvariate(0, 0.02) for _ in range(2))
        wrong += relative_difference(one, other) > floor
        tried += 1
    assert wrong / tried <= 0.06


def test_a_floor_survives_being_written_down() -> None:
    floor = NoiseFloor.of(
        [{"latency_ms": ms, "peak_vram_gib": 2.0, "cold_start_s": 5.0} for ms in (100.0, 104.0, 98.0)]
    )
    assert floor.of_figure("peak_vram_gib") == 0
    assert floor.of_figure("drift") == 0
    assert floor.tie("latency_ms", 100, 102)
    assert not floor.tie("latency_ms", 100, 200)
    assert NoiseFloor.from_dict(json.loads(json.dumps(floor.to_dict()))) == floor
    with pytest.raises(ValueError, match="schema"):
        NoiseFloor.from_dict({"schema_version": 99})
