"""How far people agree, and what their ratings say of a metric; on numbers whose answer is known."""

import random

import pytest
from paretune.objectives.people import LEAST_RATINGS, Opinion, agreement, ranks_as_people, threshold, too_few


def opinions(count: int, planted: float, careless: float, seed: int = 0) -> list[Opinion]:
    """Ratings of `count` pictures by a metric that grows with quality; some raters say the opposite."""
    numbers = random.Random(seed)
    values = [numbers.uniform(0, 100) for _ in range(count)]
    return [
        Opinion(i, (value < planted) != (numbers.random() < careless), value)
        for i, value in enumerate(values)
        for _ in range(2)
    ]


@pytest.mark.parametrize("planted", [30.0, 50.0, 75.0])
def test_the_interval_holds_the_planted_threshold_and_narrows_with_more_ratings(planted: float) -> None:
    few, many = (threshold(opinions(count, planted, 0.1), higher_is_better=True) for count in (40, 400))
    assert abs(many.value - planted) < 4
    assert many.low - 1 <= planted <= many.high + 1
    assert many.high - many.low < few.high - few.low
    assert (many.ratings, many.pictures) == (800, 400)


def test_a_metric_that_falls_with_quality_is_turned_round() -> None:
    rising = opinions(200, 40, 0.05)
    falling = [Opinion(one.picture, one.worse, -one.value) for one in rising]
    up, down = threshold(rising, higher_is_better=True), threshold(falling, higher_is_better=False)
    assert down.value == pytest.approx(-up.value)
    assert (down.low, down.high) == pytest.approx((-up.high, -up.low))


def test_too_few_are_said_to_be_too_few() -> None:
    assert too_few(opinions(400, 50, 0.1)) is None
    assert too_few([]) == (
        'too few: 0 ratings of 0 pictures, 0 of them "worse"; it takes 40 of 20, with 10 "worse" and 10 others'
    )
    assert too_few(opinions(LEAST_RATINGS, 0, 0)) is not None, "nobody called any worse"
    assert too_few([Opinion(0, i % 2 == 0, 1.0) for i in range(100)]) is not None, "one picture"


def test_how_well_a_metric_predicts_people() -> None:
    assert ranks_as_people(opinions(100, 50, 0), higher_is_better=True) == 1
    assert ranks_as_people(opinions(100, 50, 0), higher_is_better=False) == 0
    assert ranks_as_people(opinions(2000, 50, 0.5), higher_is_better=True) == pytest.approx(0.5, abs=0.05)
    assert ranks_as_people([Opinion(0, True, 1.0)], higher_is_better=True) is None


def test_agreement_is_krippendorffs_alpha() -> None:
    """The four observers' example of his "Computing Krippendorff's Alpha-Reliability" (2011), part C: 0.743."""
    a = ["1", "2", "3", "3", "2", "1", "4", "1", "2", ".", ".", "."]
    b = ["1", "2", "3", "3", "2", "2", "4", "1", "2", "5", ".", "3"]
    c = [".", "3", "3", "3", "2", "3", "4", "2", "2", "5", "1", "."]
    d = ["1", "2", "3", "3", "2", "4", "4", "1", "2", "5", "1", "."]
    units = [[said for said in unit if said != "."] for unit in zip(a, b, c, d, strict=True)]
    assert agreement(units) == pytest.approx(0.743, abs=0.0005)


def test_agreement_of_everybody_and_of_nobody() -> None:
    assert agreement([["worse", "worse"], ["same", "same"]]) == 1
    assert agreement([["worse"], ["same"]]) is None
    assert agreement([["same", "same"]]) is None
