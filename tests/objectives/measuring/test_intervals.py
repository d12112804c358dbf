"""Intervals and comparisons, against published tables and by drawing from known distributions."""

import random
import statistics

import pytest
from paretune.objectives.measuring.intervals import (
    compare_paired,
    median_interval,
    quantile,
    relative_interval_width,
    student_cdf,
    student_quantile,
)


@pytest.mark.parametrize(
    ("degrees", "t"),
    # NIST/SEMATECH e-Handbook of Statistical Methods, table 1.3.6.7.2, upper critical values for .975.
    [(1, 12.706), (2, 4.303), (4, 2.776), (7, 2.365), (15, 2.131), (30, 2.042), (100, 1.984)],
)
def test_student_as_in_the_table(degrees: int, t: float) -> None:
    assert student_quantile(0.975, degrees) == pytest.approx(t, abs=6e-4)
    assert student_quantile(0.025, degrees) == pytest.approx(-t, abs=6e-4)
    assert student_cdf(t, degrees) == pytest.approx(0.975, abs=1e-4)


def test_student_refuses_what_has_no_answer() -> None:
    for probability, degrees in ((0.0, 3), (1.0, 3), (0.5, 0)):
        with pytest.raises(ValueError, match="probability"):
            student_quantile(probability, degrees)


def test_median_interval_leaves_out_what_the_binomial_allows() -> None:
    # 12 samples: the 3rd and the 10th hold the median with 96.1 % (Conover 1999, table A3).
    assert median_interval(range(1, 13)) == (3, 10)
    assert median_interval(range(1, 7)) == (1, 6)
    assert median_interval([5.0]) == (5.0, 5.0)
    with pytest.raises(ValueError, match="no samples"):
        median_interval([])


def test_median_interval_holds_the_median_as_often_as_it_says() -> None:
    generator = random.Random(3)
    for n in (6, 9, 20, 41):
        inside = 0
        for _ in range(1000):
            low, high = median_interval([generator.lognormvariate(0, 0.3) for _ in range(n)])
            inside += low <= 1 <= high
        assert inside >= 935, n


def test_relative_width_narrows_with_more_samples() -> None:
    generator = random.Random(5)
    samples = [100 + generator.gauss(0, 2) for _ in range(60)]
    assert relative_interval_width(samples) < relative_interval_width(samples[:6])
    assert relative_interval_width([0.0, 0.0]) == 0
    assert quantile([4.0, 1.0, 3.0, 2.0], 0.5) == 2.5


def blocks(generator: random.Random, n: int, effect: float, noise: float) -> tuple[list[float], list[float]]:
    """n blocks of a machine that drifts by far more than the noise of a single measurement."""
    drift = [1 + 0.3 * generator.random() for _ in range(n)]
    baseline = [1000 * d * generator.lognormvariate(0, noise) for d in drift]
    return baseline, [1000 * (1 + effect) * d * generator.lognormvariate(0, noise) for d in drift]


def test_the_same_thing_is_called_different_no_more_often_than_stated() -> None:
    generator = random.Random(7)
    wrong = sum(compare_paired(*blocks(generator, 8, 0.0, 0.02)).decision != "tie" for _ in range(1000))
    assert wrong <= 70  # 5 % of 1,000, and what chance adds


def test_the_smallest_effect_is_found_as_often_as_stated() -> None:
    generator = random.Random(9)
    smallest = statistics.median(compare_paired(*blocks(generator, 8, 0.0, 0.02)).smallest_effect for _ in range(200))
    found = sum(compare_paired(*blocks(generator, 8, smallest, 0.02)).decision == "slower" for _ in range(500))
    assert 0.7 < found / 500 < 0.95


def test_a_comparison_says_what_it_found() -> None:
    found = compare_paired([100, 102, 101, 99], [80, 82, 80, 80])
    assert found.decision == "faster"
    assert found.low < found.ratio < found.high < 1
    assert found.words().startswith("faster: 1.25 times as fast")
    assert compare_paired([100, 102], [101, 101]).decision == "tie"
    assert compare_paired([100, 102, 101, 99], [100.2, 102.2, 101.2, 99.2], least_effect=0.01).decision == "tie"


@pytest.mark.parametrize(("one", "other"), [([1.0], [1.0]), ([1.0, 2.0], [1.0]), ([1.0, 0.0], [1.0, 1.0])])
def test_what_cannot_be_compared_is_refused(one: list[float], other: list[float]) -> None:
    with pytest.raises(ValueError, match=r"blocks|positive"):
        compare_paired(one, other)
