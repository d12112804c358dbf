"""Verdicts and the drift scale: ordered, consistent with each other, monotone, never NaN."""

import math
import random
import subprocess
import sys

import pytest
from paretune.objectives.detectors import DETECTORS
from paretune.objectives.verdict import (
    CAPS,
    EQUALITY_METRIC,
    MAX_DRIFT,
    THRESHOLDS,
    Verdict,
    configuration_drift,
    configuration_verdict,
    drift,
    judge,
    verdict_of_drift,
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
        flagged = dice.choice([(), (), ("noise",), ("color_cast", "noise")])
        value, verdict = drift(metrics, flagged=flagged), judge(metrics, broken=False, flagged=flagged)
        seen.add(verdict)
        assert math.isfinite(value)
        assert 0 <= value <= MAX_DRIFT
        assert verdict_of_drift(value) is verdict, metrics
        if verdict is not Verdict.BIT_EXACT and "color_cast" in flagged:
            assert not verdict.at_least(Verdict.NEAR_LOSSLESS)
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


def test_a_flag_can_only_make_it_worse() -> None:
    dice = random.Random(3)
    for _ in range(2_000):
        metrics = random_metrics(dice)
        assert drift(metrics, flagged=["color_cast"]) >= drift(metrics)
        assert drift(metrics, flagged=["noise", "composition"]) == drift(metrics)


def test_a_cast_is_at_best_visible_whatever_the_metrics_say() -> None:
    assert judge(BARELY, broken=False, flagged=["color_cast"]) is Verdict.VISIBLE
    assert drift(BARELY, flagged=["color_cast"]) == pytest.approx(2)
    assert judge({**BARELY, "ncc32": 0.5}, broken=False, flagged=["color_cast"]) is Verdict.DIFFERENT
    assert judge(EQUAL, broken=False, flagged=["color_cast"]) is Verdict.BIT_EXACT
    assert judge(BARELY, broken=True, flagged=["color_cast"]) is Verdict.BROKEN
    flags = {detector.name for detector in DETECTORS if not detector.breaks}
    for cap in CAPS:
        assert cap.detector in flags
        assert cap.source


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
        ({"ssimulacra2": 92.0}, Verdict.IMPERCEPTIBLE),
        ({"ssimulacra2": 91.9}, Verdict.NEAR_LOSSLESS),
        ({"ssimulacra2": 80.9}, Verdict.VISIBLE),
        ({"ssimulacra2": -500.0}, Verdict.VISIBLE),
        ({"lpips": 0.01}, Verdict.IMPERCEPTIBLE),
        ({"lpips": 0.02}, Verdict.NEAR_LOSSLESS),
        ({"lpips": 0.06}, Verdict.VISIBLE),
        ({"lpips": 0.26}, Verdict.DIFFERENT),
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


@pytest.mark.parametrize("name", [EQUALITY_METRIC, *(row.metric for row in THRESHOLDS if row.required)])
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
    assert Verdict("near-lossless") is Verdict.NEAR_LOSSLESS
    with pytest.raises(ValueError, match="no drift"):
        _ = Verdict.NOT_ASSESSED.drift_limit


def test_an_optional_metric_takes_part_when_present() -> None:
    without = {name: value for name, value in BARELY.items() if name != "lpips"}
    assert judge(without, broken=False) is Verdict.IMPERCEPTIBLE
    assert drift(without) == drift(BARELY)
    assert drift({**without, "lpips": 0.15}) == pytest.approx(2.5)


@pytest.mark.parametrize(
    ("counts", "expected"),
    [
        ({Verdict.BIT_EXACT: 64}, Verdict.BIT_EXACT),
        ({Verdict.BIT_EXACT: 63, Verdict.IMPERCEPTIBLE: 1}, Verdict.IMPERCEPTIBLE),
        ({Verdict.IMPERCEPTIBLE: 63, Verdict.NEAR_LOSSLESS: 1}, Verdict.NEAR_LOSSLESS),
        ({Verdict.IMPERCEPTIBLE: 63, Verdict.DIFFERENT: 1}, Verdict.NEAR_LOSSLESS),
        ({Verdict.NEAR_LOSSLESS: 18, Verdict.VISIBLE: 1}, Verdict.VISIBLE),  # fewer than 20: all of them
        ({Verdict.NEAR_LOSSLESS: 19, Verdict.VISIBLE: 1}, Verdict.NEAR_LOSSLESS),
        ({Verdict.NEAR_LOSSLESS: 61, Verdict.VISIBLE: 3}, Verdict.NEAR_LOSSLESS),
        ({Verdict.NEAR_LOSSLESS: 60, Verdict.VISIBLE: 4}, Verdict.VISIBLE),
        ({Verdict.VISIBLE: 39, Verdict.DIFFERENT: 1}, Verdict.VISIBLE),
        ({Verdict.BIT_EXACT: 999, Verdict.BROKEN: 1}, Verdict.BROKEN),
        ({Verdict.BIT_EXACT: 999, Verdict.NOT_ASSESSED: 1}, Verdict.NOT_ASSESSED),
        ({Verdict.BROKEN: 1, Verdict.NOT_ASSESSED: 1}, Verdict.BROKEN),
    ],
)
def test_the_verdict_of_a_configuration(counts: dict[Verdict, int], expected: Verdict) -> None:
    verdicts = [verdict for verdict, count in counts.items() for _ in range(count)]
    random.Random(0).shuffle(verdicts)
    assert configuration_verdict(verdicts) is expected


def test_the_drift_of_a_configuration_has_the_band_of_its_verdict() -> None:
    dice = random.Random(2)
    seen = set()
    for _ in range(5_000):
        top = dice.choice([0.0, 1.0, 2.0, 3.0, 4.0])
        drifts = [dice.choice([0.0, dice.uniform(0, top), dice.uniform(0, 1), top]) for _ in range(dice.randint(1, 70))]
        drifts += [dice.uniform(0, 4)] * dice.choice([0, 0, 1, 3])
        value, verdict = configuration_drift(drifts, False), configuration_verdict([*map(verdict_of_drift, drifts)])
        seen.add(verdict)
        assert verdict_of_drift(value) is verdict, drifts
        assert value <= max(drifts)
        assert configuration_drift(drifts, True) == MAX_DRIFT
    assert seen == set(list(Verdict)[:5])
    assert configuration_drift([0.5, 0.2, 0.0], False) == 0.5


def test_a_configuration_without_pictures_has_no_verdict() -> None:
    for refused in (lambda: configuration_verdict([]), lambda: configuration_drift([], False)):
        with pytest.raises(ValueError, match="no pictures"):
            refused()


def test_importing_the_package_imports_no_torch() -> None:
    code = "import sys, paretune.objectives; assert not {'torch', 'numpy', 'PIL'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
