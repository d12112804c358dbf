"""From metrics to a verdict, and to one number that an optimiser can minimise. Imports neither torch nor numpy."""

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

EQUALITY_METRIC = "max_abs_difference_lsb"
"""The metric that proves equality: 0 means the same 8-bit picture."""

MAX_DRIFT = 4.0

_LEAST_DRIFT = 1e-6  # of pictures that differ: 0 is kept for equal ones
_ONE_WORSE_IN = 20  # pictures, for a verdict that promises no losslessness: 5 %


class Verdict(StrEnum):
    """What a comparison with the reference amounts to, best first; `not-assessed` ranks last."""

    BIT_EXACT = "bit-exact"
    IMPERCEPTIBLE = "imperceptible"
    NEAR_LOSSLESS = "near-lossless"
    VISIBLE = "visible"
    DIFFERENT = "different"
    BROKEN = "broken"
    NOT_ASSESSED = "not-assessed"

    @property
    def rank(self) -> int:
        """0 for the best. What nobody looked at ranks below what was seen to be broken."""
        return list(Verdict).index(self)

    def at_least(self, other: "Verdict") -> bool:
        """Whether this verdict is as good as `other`, or better."""
        return self.rank <= other.rank

    @property
    def drift_limit(self) -> float:
        """The largest drift that still earns this verdict: `at_least(v)` is `drift <= v.drift_limit`.

        `different` and `broken` share 4. Raises ValueError for `not-assessed`, which has no drift.
        """
        if self is Verdict.NOT_ASSESSED:
            raise ValueError("not-assessed has no drift")
        return min(float(self.rank), MAX_DRIFT)


@dataclass(frozen=True, kw_only=True)
class Thresholds:
    """What one metric must reach for each verdict; None where the verdict asks nothing of it.

    A metric that asks something of a verdict asks at least as much of every better one (the verdicts are nested), so
    a None between two numbers, or on the stricter side, means "the next number below".
    `best` and `worst` are the ends of the scale between which drift is interpolated: beyond them it stays level.
    `required` metrics must be present; others take part when they are (a model whose weights are not here).
    """

    metric: str
    best: float
    worst: float
    imperceptible: float | None
    near_lossless: float | None
    visible: float | None
    required: bool
    source: str

    @property
    def higher_is_better(self) -> bool:
        """Whether larger values are closer to the reference."""
        return self.best > self.worst

    def meets(self, value: float, verdict: Verdict) -> bool:
        """Whether `value` satisfies everything this metric asks of `verdict` (imperceptible to visible)."""
        demands = (self.imperceptible, self.near_lossless, self.visible)[verdict.rank - 1 :]
        return all(d is None or (value >= d if self.higher_is_better else value <= d) for d in demands)


_OWN = "own choice, checked on a ladder of synthetic distortions"
_SSIMULACRA2 = (
    "its authors' scale (90: not seen in a flicker test, 80: not side by side), raised by 2 and 1, about what "
    "the rounding of their program takes off pictures of 1024 px there"
)

THRESHOLDS: tuple[Thresholds, ...] = (
    Thresholds(
        metric="psnr_db",
        best=80.0,  # a few LSBs in a whole picture; up there differences are of no interest
        worst=10.0,
        imperceptible=40.0,
        near_lossless=35.0,
        visible=None,
        required=True,
        source="35 dB: cache-dit's gate for context and tensor parallelism; 40 dB: " + _OWN,
    ),
    Thresholds(
        metric="worst_tile_psnr_db",
        best=80.0,
        worst=5.0,
        imperceptible=35.0,
        near_lossless=28.0,
        visible=None,
        required=True,
        source=_OWN,
    ),
    Thresholds(
        metric="ssim",
        best=1.0,
        worst=0.0,
        imperceptible=None,
        near_lossless=0.95,
        visible=None,
        required=True,
        source=_OWN,
    ),
    Thresholds(
        metric="ssimulacra2",
        best=100.0,
        worst=-100.0,
        imperceptible=92.0,
        near_lossless=81.0,
        visible=None,
        required=True,
        source=_SSIMULACRA2,
    ),
    Thresholds(
        metric="delta_e_mean",
        best=0.0,
        worst=20.0,
        imperceptible=1.0,
        near_lossless=2.0,
        visible=None,
        required=True,
        source="1 is about the just noticeable difference of CIEDE2000; 2: " + _OWN,
    ),
    Thresholds(
        metric="ms_ssim",
        best=1.0,
        worst=0.0,
        imperceptible=None,
        near_lossless=None,
        visible=0.5,
        required=True,
        source=_OWN,
    ),
    Thresholds(
        metric="ncc32",
        best=1.0,
        worst=-1.0,
        imperceptible=None,
        near_lossless=None,
        visible=0.90,
        required=True,
        source=_OWN,
    ),
    Thresholds(
        metric="lpips",
        best=0.0,
        worst=1.0,
        imperceptible=0.01,
        near_lossless=0.05,
        visible=0.25,
        required=False,
        source="TensorRT-LLM's gates: 0.01 for CUDA graphs, 0.05 its first for pictures; 0.25: the loosest of peers",
    ),
)
"""The rules, a row per metric. Changing a number changes what verdicts mean: record it in the changelog."""


def own_thresholds(near_lossless: Mapping[str, float]) -> tuple[Thresholds, ...]:
    """The table with other thresholds of near-lossless, as people's ratings may ask for.

    What is imperceptible has to be near-lossless as well: where that asked for less, it asks for as much.
    """

    def own(row: Thresholds) -> Thresholds:
        value = near_lossless.get(row.metric)
        if value is None:
            return row
        stricter = max if row.higher_is_better else min
        imperceptible = None if row.imperceptible is None else stricter(row.imperceptible, value)
        return replace(row, near_lossless=value, imperceptible=imperceptible, source="people's ratings of this study")

    return tuple(map(own, THRESHOLDS))


@dataclass(frozen=True, kw_only=True)
class Cap:
    """The best verdict that a detector's flag leaves to a picture whose metrics would allow a better one."""

    detector: str
    at_best: Verdict
    source: str


CAPS: tuple[Cap, ...] = (
    Cap(
        detector="color_cast",
        at_best=Verdict.VISIBLE,
        source="own choice: a cast of 6 levels in two channels is visible by its 34.5 dB, narrowly; where it clips "
        "highlights, PSNR rises over the threshold and the tint stays",
    ),
)
"""The flags that decide, whatever the metrics say."""

_RULED = (Verdict.IMPERCEPTIBLE, Verdict.NEAR_LOSSLESS, Verdict.VISIBLE)


def judge(
    metrics: Mapping[str, float],
    broken: bool,
    flagged: Collection[str] = (),
    thresholds: Sequence[Thresholds] = THRESHOLDS,
) -> Verdict:
    """The verdict on one picture from its metrics and what the detectors found.

    `broken`: whether one that breaks pictures hit; `flagged`: the names of those that hit (see CAPS). Metrics without a
    row are ignored. Without a required one (or the equality metric) the verdict is `not-assessed`. A metric that is NaN
    proves nothing and gives `different`.
    """
    if broken:
        return Verdict.BROKEN
    if _missing(metrics, thresholds):
        return Verdict.NOT_ASSESSED
    if metrics[EQUALITY_METRIC] == 0:
        return Verdict.BIT_EXACT
    present = [row for row in thresholds if row.metric in metrics]
    if _any_nan(metrics, present):
        return Verdict.DIFFERENT
    allowed = [v for v in _RULED if all(cap.at_best.at_least(v) for cap in CAPS if cap.detector in flagged)]
    for verdict in allowed:
        if all(row.meets(metrics[row.metric], verdict) for row in present):
            return verdict
    return Verdict.DIFFERENT


def drift(
    metrics: Mapping[str, float],
    broken: bool = False,
    flagged: Collection[str] = (),
    thresholds: Sequence[Thresholds] = THRESHOLDS,
) -> float:
    """How far one picture is from its reference, to be minimised: the verdict's band, and where in it.

    0 bit-exact; (0, 1] imperceptible; (1, 2] near-lossless; (2, 3] visible; (3, 4] different; 4 broken. Each metric is
    mapped piecewise linearly between its thresholds and the worst one decides. It never decreases when a metric gets
    worse, is finite, and jumps only where a rule does (SSIM just below .95 leaves imperceptible and near-lossless at
    once, and a flag of CAPS lifts drift just over the limit of the verdict that it denies).

    Raises ValueError when a required metric is missing: what was not measured has no drift.
    """
    if broken:
        return MAX_DRIFT
    missing = _missing(metrics, thresholds)
    if missing:
        raise ValueError(f"drift needs the metrics {', '.join(missing)}")
    if metrics[EQUALITY_METRIC] == 0:
        return 0.0
    present = [row for row in thresholds if row.metric in metrics]
    if _any_nan(metrics, present):
        return MAX_DRIFT
    floors = [_least_drift(cap.at_best) for cap in CAPS if cap.detector in flagged]
    return max(_LEAST_DRIFT, *floors, *(_drift_of(row, metrics[row.metric]) for row in present))


def verdict_of_drift(value: float) -> Verdict:
    """The verdict whose band holds this drift. Cannot tell `broken` from `different`: says `different`."""
    return next((verdict for verdict in Verdict if value <= verdict.drift_limit), Verdict.DIFFERENT)


def configuration_verdict(verdicts: Sequence[Verdict]) -> Verdict:
    """The verdict on a configuration from those of its pictures.

    One broken picture breaks it, and else one that was not assessed leaves it not assessed. Bit-exact and imperceptible
    are promises of losslessness: every picture has to keep them. Otherwise it is the best verdict that at least 95 % of
    the pictures reach, which is all of them when there are fewer than 20. Raises ValueError for no pictures.
    """
    _some(verdicts)
    for verdict in (Verdict.BROKEN, Verdict.NOT_ASSESSED):
        if verdict in verdicts:
            return verdict
    ordered = sorted(verdicts, key=lambda verdict: verdict.rank)
    if ordered[-1].at_least(Verdict.IMPERCEPTIBLE):
        return ordered[-1]
    return max(ordered[_deciding(len(ordered))], Verdict.NEAR_LOSSLESS, key=lambda verdict: verdict.rank)


def configuration_drift(drifts: Sequence[float], any_broken: bool) -> float:
    """The drift of a configuration from those of its pictures: its band is that of `configuration_verdict`.

    The worst drift while that is imperceptible, else the one that 95 % of the pictures stay within, and then more than
    1; 4 when any picture is broken. Raises ValueError for no pictures.
    """
    _some(drifts)
    ordered = sorted(drifts)
    if any_broken:
        return MAX_DRIFT
    if ordered[-1] <= Verdict.IMPERCEPTIBLE.drift_limit:
        return ordered[-1]
    return max(ordered[_deciding(len(ordered))], math.nextafter(Verdict.IMPERCEPTIBLE.drift_limit, math.inf))


def _least_drift(verdict: Verdict) -> float:
    """The bottom of a verdict's band."""
    return math.nextafter(list(Verdict)[verdict.rank - 1].drift_limit, math.inf)


def _deciding(n: int) -> int:
    """Of n pictures, best first, the place of the worst one that counts."""
    return n - n // _ONE_WORSE_IN - 1


def _some(values: Sequence[object]) -> None:
    if not values:
        raise ValueError("no pictures to judge a configuration by")


def _drift_of(row: Thresholds, value: float) -> float:
    """Piecewise linear through (best, 0), each threshold at its verdict's limit, and (worst, one band further)."""
    sign = -1.0 if row.higher_is_better else 1.0  # from here on, larger is worse
    worse = sign * value
    low_value, low_drift = sign * row.best, 0.0
    for verdict in _RULED:
        demands = [
            sign * d for d in (row.imperceptible, row.near_lossless, row.visible)[verdict.rank - 1 :] if d is not None
        ]
        if not demands:
            break
        limit, limit_drift = min(demands), verdict.drift_limit
        if worse <= limit:
            return _between(worse, low_value, limit, low_drift, limit_drift)
        low_value, low_drift = limit, limit_drift
    return _between(worse, low_value, sign * row.worst, low_drift, low_drift + 1.0)


def _between(value: float, low_value: float, high_value: float, low_drift: float, high_drift: float) -> float:
    """Linear from (low_value, low_drift) to (high_value, high_drift), level beyond, in (low_drift, high_drift]."""
    if value <= low_value and low_drift == 0:
        return 0.0
    if value >= high_value:
        return high_drift
    share = max(0.0, (value - low_value) / (high_value - low_value))
    # A value beyond a threshold by less than a rounding error is beyond it all the same.
    return min(high_drift, max(math.nextafter(low_drift, math.inf), low_drift + share * (high_drift - low_drift)))


def _missing(metrics: Mapping[str, float], thresholds: Sequence[Thresholds]) -> list[str]:
    required = [EQUALITY_METRIC, *(row.metric for row in thresholds if row.required)]
    return [name for name in required if name not in metrics]


def _any_nan(metrics: Mapping[str, float], rows: Sequence[Thresholds]) -> bool:
    return any(math.isnan(metrics[row.metric]) for row in rows) or math.isnan(metrics[EQUALITY_METRIC])
