"""Statistics of repeated measurements: intervals, and whether two configurations differ."""

import math
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cache
from typing import Any

CONFIDENCE = 0.95
POWER = 0.8


def quantile(samples: Sequence[float], q: float) -> float:
    """Linear interpolation (type 7 of Hyndman & Fan 1996, numpy's default). Raises ValueError without samples."""
    if not samples:
        raise ValueError("no samples")
    ordered = sorted(samples)
    position = q * (len(ordered) - 1)
    low = math.floor(position)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (position - low)


def median_interval(samples: Sequence[float], confidence: float = CONFIDENCE) -> tuple[float, float]:
    """An interval that holds the true median with the given confidence, whatever the distribution.

    Order statistics: the number of samples below the median is binomial(n, 1/2). With fewer samples than the
    confidence needs (6 for 95 %), the interval is the whole range; it then holds the median with 1 - 2 ** (1 - n).
    Raises ValueError without samples.
    """
    if not samples:
        raise ValueError("no samples")
    ordered = sorted(samples)
    n = len(ordered)
    left_out = 0.0
    rank = 0  # samples left out on either side
    while rank < (n - 1) // 2:
        left_out += math.comb(n, rank) * 0.5**n
        if 2 * left_out > 1 - confidence:
            break
        rank += 1
    rank = max(rank - 1, 0)
    return ordered[rank], ordered[n - 1 - rank]


def relative_interval_width(samples: Sequence[float]) -> float:
    """Width of the median's interval over the median; 0 for a median of 0."""
    low, high = median_interval(samples)
    middle = statistics.median(samples)
    return (high - low) / middle if middle > 0 else 0.0


def student_cdf(t: float, degrees: int) -> float:
    """Cumulative distribution of Student's t, to about 1e-8: Simpson's rule over the density, in angles.

    With t = sqrt(degrees) tan(angle) the density becomes a power of a cosine on a finite range.
    """
    if t == 0:
        return 0.5
    angle = math.atan2(abs(t), math.sqrt(degrees))
    steps = 400
    width = angle / steps
    total = 0.0
    for i in range(steps + 1):
        weight = 1 if i in (0, steps) else 4 if i % 2 else 2
        total += weight * math.cos(i * width) ** (degrees - 1)
    log_scale = math.lgamma((degrees + 1) / 2) - math.lgamma(degrees / 2) - 0.5 * math.log(math.pi)
    area = math.exp(log_scale) * total * width / 3
    return 0.5 + area if t > 0 else 0.5 - area


@cache
def student_quantile(probability: float, degrees: int) -> float:
    """The t below which Student's distribution has this probability. Raises ValueError outside of (0, 1)."""
    if not 0 < probability < 1 or degrees < 1:
        raise ValueError("student_quantile needs a probability between 0 and 1 and at least one degree of freedom")
    if probability < 0.5:
        return -student_quantile(1 - probability, degrees)
    low, high = 0.0, 1.0
    while student_cdf(high, degrees) < probability:
        high *= 2
    for _ in range(80):
        middle = (low + high) / 2
        low, high = (middle, high) if student_cdf(middle, degrees) < probability else (low, middle)
    return (low + high) / 2


@dataclass(frozen=True)
class Comparison:
    """Candidate against baseline, from paired blocks. Ratios are candidate over baseline: below 1 is faster.

    `smallest_effect` is the relative difference that so many blocks of such spread find in 80 % of tries.
    """

    blocks: int
    ratio: float
    low: float
    high: float
    smallest_effect: float
    decision: str
    """"faster", "slower" or "tie"."""

    @property
    def times(self) -> float:
        """How many times as fast as the baseline the candidate is: above 1 is faster."""
        return 1 / self.ratio

    @property
    def interval(self) -> tuple[float, float]:
        """The 95 % interval of `times`."""
        return 1 / self.high, 1 / self.low

    def to_dict(self) -> dict[str, Any]:
        """Plain, JSON-able values under the names of the fields; `times` and `interval` too."""
        return {**asdict(self), "times": self.times, "interval": self.interval}

    def words(self) -> str:
        """ "faster: 1.23 times as fast (95 % interval 1.20 to 1.27, 8 blocks)"; of a tie, what it could have missed."""
        low, high = self.interval
        words = f"{self.decision}: {self.times:.2f} times as fast (95 % interval {low:.2f} to {high:.2f}, "
        words += f"{self.blocks} blocks)"
        return f"{words}; {self.missed_words()}" if self.decision == "tie" else words

    def missed_words(self) -> str:
        """How large a difference could have gone unnoticed, as far as a number says something."""
        if self.smallest_effect > 1:
            return "the blocks scatter so much that even a doubling of the speed could have been missed"
        return f"a difference of less than {self.smallest_effect:.1%} could have been missed"


def compare_paired(baseline: Sequence[float], candidate: Sequence[float], least_effect: float = 0.0) -> Comparison:
    """Compare two configurations measured in the same blocks: a t-interval of the mean log ratio.

    Paired, because a machine's slow drift touches both members of a block alike; logarithms, because noise is
    proportional. `decision` is "tie" unless the 95 % interval leaves out 1 and the ratio differs from it by more than
    `least_effect`. Raises ValueError for fewer than 2 blocks, unequal numbers, or times that are not positive.
    """
    n = len(baseline)
    if n < 2 or n != len(candidate):
        raise ValueError(f"{n} and {len(candidate)} blocks: a comparison needs the same number of both, at least 2")
    if min(*baseline, *candidate) <= 0:
        raise ValueError("times must be positive")
    logs = [math.log(c / b) for b, c in zip(baseline, candidate, strict=True)]
    mean, error = statistics.fmean(logs), statistics.stdev(logs) / math.sqrt(n)
    t = student_quantile((1 + CONFIDENCE) / 2, n - 1)
    low, high = math.exp(mean - t * error), math.exp(mean + t * error)
    ratio = math.exp(mean)
    decision = "tie"
    if (low > 1 or high < 1) and abs(ratio - 1) > least_effect:
        decision = "slower" if ratio > 1 else "faster"
    smallest = math.expm1((t + student_quantile(POWER, n - 1)) * error)
    return Comparison(n, ratio, low, high, smallest, decision)
