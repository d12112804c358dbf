"""What people say of pictures, beside what metrics say: how far people agree, and where a metric parts as they do."""

import math
from collections import Counter
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy

WORSE = "worse"
"""The rating that speaks against a picture; "same" and "better" do not."""
LEAST_RATINGS, LEAST_PICTURES, LEAST_OF_EACH = 40, 20, 10
"""Fewer ratings, rated pictures, or ratings of one kind ("worse", and the others) say nothing about a threshold."""
RESAMPLED = 400


@dataclass(frozen=True)
class Opinion:
    """One rating of one picture, and one metric's value of that picture."""

    picture: Hashable
    worse: bool
    value: float


@dataclass(frozen=True, kw_only=True)
class Threshold:
    """Where a metric parts what people call worse from the rest."""

    value: float
    low: float
    high: float
    """The 95 % interval of the value, from resampled pictures."""
    agrees: float
    """Mean of the share of "worse" that lies beyond it and of the share of the others that does not; 0.5 is chance."""
    ratings: int
    pictures: int


def too_few(opinions: Sequence[Opinion]) -> str | None:
    """Why a threshold cannot be asked of so few ratings, as the end of a sentence; None where it can."""
    worse = sum(one.worse for one in opinions)
    pictures = len({one.picture for one in opinions})
    if (
        len(opinions) >= LEAST_RATINGS
        and pictures >= LEAST_PICTURES
        and min(worse, len(opinions) - worse) >= LEAST_OF_EACH
    ):
        return None
    ratings = f"{len(opinions)} rating{'s' if len(opinions) != 1 else ''}"
    return (
        f'too few: {ratings} of {pictures} picture{"s" if pictures != 1 else ""}, {worse} of them "worse"; it takes '
        f'{LEAST_RATINGS} of {LEAST_PICTURES}, with {LEAST_OF_EACH} "worse" and {LEAST_OF_EACH} others'
    )


def threshold(opinions: Sequence[Opinion], *, higher_is_better: bool) -> Threshold:
    """The threshold that agrees best with the ratings, and how sure it is.

    The interval is from pictures drawn again with replacement, with all ratings of each: what several people say of one
    picture is not several pictures. Raises ValueError without ratings of both kinds.
    """
    sign = -1.0 if higher_is_better else 1.0  # from here on, larger is worse
    values = numpy.array([sign * one.value for one in opinions])
    worse = numpy.array([one.worse for one in opinions])
    if worse.all() or not worse.any():
        raise ValueError("a threshold needs ratings of both kinds")
    names = {picture: place for place, picture in enumerate(dict.fromkeys(one.picture for one in opinions))}
    pictures = numpy.array([names[one.picture] for one in opinions])
    numbers = numpy.random.default_rng(0)
    drawn = numbers.multinomial(len(names), numpy.full(len(names), 1 / len(names)), size=RESAMPLED)
    weights = numpy.vstack([numpy.ones(len(opinions)), drawn[:, pictures]])
    cuts, scores = _cuts(values, worse, weights)
    found = [_middle_of_best(cuts, row) for row in scores if not math.isnan(row[0])]
    best, again = found[0], numpy.array(found[1:] or found[:1])
    low, high = sorted(sign * float(end) for end in numpy.percentile(again, [2.5, 97.5]))
    return Threshold(
        value=sign * best,
        low=low,
        high=high,
        agrees=float(scores[0].max()),
        ratings=len(opinions),
        pictures=len(names),
    )


def ranks_as_people(opinions: Sequence[Opinion], *, higher_is_better: bool) -> float | None:
    """How well a metric predicts people: the chance that of two pictures, one called worse and one not, it says so too.

    1 is always, 0.5 is chance (the area under the ROC curve). None without ratings of both kinds.
    """
    sign = -1.0 if higher_is_better else 1.0
    worse = numpy.array([sign * one.value for one in opinions if one.worse])
    others = numpy.array([sign * one.value for one in opinions if not one.worse])
    if not len(worse) or not len(others):
        return None
    return float(((worse[:, None] > others) + 0.5 * (worse[:, None] == others)).mean())


def agreement(ratings: Sequence[Sequence[str]]) -> float | None:
    """How far people agree beyond chance: Krippendorff's alpha for unordered categories. ratings: of each picture.

    1 is always, 0 as often as by chance. None where no two people rated the same picture, or all ratings are the same.
    Krippendorff: "Content Analysis", 4th edition, 2018, chapter 12.
    """
    shared = [Counter(one) for one in ratings if len(one) > 1]
    total = Counter[str]()
    for counts in shared:
        total.update(counts)
    n = total.total()
    expected = sum(total[a] * total[b] for a in total for b in total if a != b)
    if not expected:
        return None
    observed = sum(
        sum(counts[a] * counts[b] for a in counts for b in counts if a != b) / (counts.total() - 1) for counts in shared
    )
    return 1 - (n - 1) * observed / expected


def _cuts(values: "numpy.ndarray", worse: "numpy.ndarray", weights: "numpy.ndarray") -> tuple["numpy.ndarray", ...]:
    """Places between the values, and for each row of weights how well each of them agrees."""
    order = numpy.argsort(values, kind="stable")
    values, worse, weights = values[order], worse[order], weights[:, order]
    fine_below = (weights * ~worse).cumsum(axis=1)
    worse_below = (weights * worse).cumsum(axis=1)
    ends = numpy.flatnonzero(numpy.diff(values) > 0)
    cuts = (values[ends] + values[ends + 1]) / 2
    with numpy.errstate(invalid="ignore", divide="ignore"):
        fine = fine_below[:, ends] / fine_below[:, -1:]
        beyond = 1 - worse_below[:, ends] / worse_below[:, -1:]
    return cuts, (fine + beyond) / 2


def _middle_of_best(cuts: "numpy.ndarray", scores: "numpy.ndarray") -> float:
    best = numpy.flatnonzero(scores >= scores.max() - 1e-12)
    return float(cuts[best[len(best) // 2]])
