"""Verdicts and the drift scale: ordered, consistent with each other, monotone, never NaN."""

import math
import random
import subprocess
import sys

import pytest
from paretune.objectives.verdict import (
    EQUALITY_METRIC,
    MAX_DRIFT,
    THRESHOLDS,
    Thresholds,
    Verdict,
    drift,
    judge,
    verdict_of_drift,
    worst,
)

EQUAL = {EQUALITY_METRIC: 0.0, **{row.metric: row.best for row in THRESHOLDS}}
BARELY = {EQUALITY_METRIC: 1.0, **{row.metric: row.best for row in THRESHOLDS}}


def random_metrics(dice: random.Random) -> dict[str, float]:
    """Values everywhere, and often exactly on a threshold, a rounding beside it, or beyond the scale."""
    metrics = {EQUALITY_METRIC: dice.choice([0.0, 1.0, 200.0])}
    for row in THRESHOLDS:
        low, high = sorted((row.best, row.worst))
        steps = [step for step in (row.imperceptible, row.near_lossless, row.visible) if step is not None]
        step = dice.choice(steps)
        metrics[row.metric] = dice.choice(
            [
                dice.uniform(low, high),
                dice.uniform(min(step, row.best), max(step, row.best)),
                step,
                math.nextafter(step, math.inf),
                math.nextafter(step, -math.inf),
                row.best,
                row.worst,
                math.inf if row.higher_is_better else -1.0,
                -math.inf if row.higher_is_better else math.inf,
                *[row.best] * 8,
            ]
        )
    return metrics


def test_the_drift_band_is_the_verdict() -> None:
    dice = random.Random(0)
    seen = set()
    for _ in range(20_000):
        metrics = random_metrics(dice)
        value, verdict = drift(metrics), judge(metrics, broken=False)
        seen.add(verdict)
        assert math.isfinite(value)
        assert 0 <= value <= MAX_DRIFT
        assert verdict_of_drift(value) is verdict, metrics
        for limit in list(Verdict)[:5]:
            assert verdict.at_least(limit) == (value <= limit.drift_limit)
    assert seen == set(list(Verdict)[:5])


def test_drift_never_falls_when_one_metric_gets_worse() -> None:
    dice = random.Random(1)
    for _ in range(5_000):
        metrics = random_metrics(dice)
        row = dice.choice(THRESHOLDS)
        other = random_metrics(dice)[row.metric]
        worse = min(metrics[row.metric], other) if row.higher_is_better else max(metrics[row.metric], other)
        assert drift({**metrics, row.metric: worse}) >= drift(metrics)


def test_thresholds_are_nested_and_named_once() -> None:
    assert len({row.metric for row in THRESHOLDS}) == len(THRESHOLDS)
    for row in THRESHOLDS:
        steps = [row.best, row.imperceptible, row.near_lossless, row.visible, row.worst]
        given = [step for step in steps if step is not None]
        assert given == sorted(given, reverse=row.higher_is_better)
        assert row.source


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({}, Verdict.IMPERCEPTIBLE),
        ({"psnr_db": 40.0}, Verdict.IMPERCEPTIBLE),
        ({"psnr_db": 39.9}, Verdict.NEAR_LOSSLESS),
        ({"psnr_db": 34.9}, Verdict.VISIBLE),
        ({"worst_tile_psnr_db": 34.9}, Verdict.NEAR_LOSSLESS),
        ({"worst_tile_psnr_db": 10.0}, Verdict.VISIBLE),
        ({"ssim": 0.95}, Verdict.IMPERCEPTIBLE),
        ({"ssim": 0.949}, Verdict.VISIBLE),
        ({"delta_e_mean": 1.1}, Verdict.NEAR_LOSSLESS),
        ({"delta_e_mean": 2.1}, Verdict.VISIBLE),
        ({"ncc32": 0.89}, Verdict.DIFFERENT),
        ({"ms_ssim": 0.49}, Verdict.DIFFERENT),
    ],
)
def test_the_rules(change: dict[str, float], expected: Verdict) -> None:
    assert judge({**BARELY, **change}, broken=False) is expected


def test_equal_pictures() -> None:
    assert judge(EQUAL, broken=False) is Verdict.BIT_EXACT
    assert drift(EQUAL) == 0
    assert 0 < drift(BARELY) < 0.01


def test_broken_outranks_every_metric() -> None:
    assert judge(EQUAL, broken=True) is Verdict.BROKEN
    assert drift(EQUAL, broken=True) == MAX_DRIFT
    assert judge({}, broken=True) is Verdict.BROKEN


@pytest.mark.parametrize("name", list(BARELY))
def test_nan_proves_nothing(name: str) -> None:
    metrics = {**BARELY, name: math.nan}
    assert judge(metrics, broken=False) is Verdict.DIFFERENT
    assert drift(metrics) == MAX_DRIFT


@pytest.mark.parametrize("name", list(BARELY))
def test_what_was_not_measured_is_not_assessed(name: str) -> None:
    metrics = {key: value for key, value in BARELY.items() if key != name}
    assert judge(metrics, broken=False) is Verdict.NOT_ASSESSED
    with pytest.raises(ValueError, match=name):
        drift(metrics)


def test_verdicts_are_ordered() -> None:
    assert Verdict.BIT_EXACT.at_least(Verdict.IMPERCEPTIBLE)
    assert Verdict.VISIBLE.at_least(Verdict.VISIBLE)
    assert not Verdict.BROKEN.at_least(Verdict.DIFFERENT)
    assert not Verdict.NOT_ASSESSED.at_least(Verdict.BROKEN)
    assert worst([Verdict.VISIBLE, Verdict.BIT_EXACT]) is Verdict.VISIBLE
    assert Verdict("near-lossless") is Verdict.NEAR_LOSSLESS
    with pytest.raises(ValueError, match="no drift"):
        _ = Verdict.NOT_ASSESSED.drift_limit


def test_an_optional_metric_takes_part_when_present() -> None:
    perceptual = Thresholds(
        metric="perceptual",
        best=0.0,
        worst=1.0,
        imperceptible=0.01,
        near_lossless=0.05,
        visible=0.25,
        required=False,
        source="test",
    )
    rows = (*THRESHOLDS, perceptual)
    assert judge(BARELY, False, rows) is Verdict.IMPERCEPTIBLE
    assert judge({**BARELY, "perceptual": 0.3}, False, rows) is Verdict.DIFFERENT
    assert drift({**BARELY, "perceptual": 0.15}, False, rows) == pytest.approx(2.5)


def test_importing_the_package_imports_no_torch() -> None:
    code = "import sys, paretune.objectives; assert not {'torch', 'numpy', 'PIL'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
