"""Known damage gets the verdict it deserves: the ladder of support/ladder.py, on pictures of the small model."""

import random
from pathlib import Path

import pytest
from paretune.objectives.people import Opinion, threshold, too_few
from paretune.objectives.pictures import PictureJudgement
from paretune.objectives.verdict import Verdict
from support.ladder import LADDER, NAMES, Rung, caps_table, picture, series_of, thresholds_table

DOCUMENT = Path(__file__).parents[2] / "docs" / "quality.md"
each_rung = pytest.mark.parametrize("rung", LADDER, ids=lambda rung: rung.name)


@pytest.fixture(scope="module")
def judgements() -> dict[tuple[str, str], PictureJudgement]:
    """By rung and picture."""
    pictures = {name: picture(name) for name in NAMES}
    return {(rung.name, name): rung.judge(pictures[name]) for rung in LADDER for name in NAMES}


@each_rung
def test_the_verdict_is_one_the_table_allows(rung: Rung, judgements: dict[tuple[str, str], PictureJudgement]) -> None:
    verdicts = {name: judgements[rung.name, name].verdict for name in NAMES}
    assert all(rung.allows(verdict) for verdict in verdicts.values()), f"{verdicts}, allowed is {rung.allowed}"


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("series", series_of(LADDER))
def test_more_damage_is_never_less_drift(
    series: str, name: str, judgements: dict[tuple[str, str], PictureJudgement]
) -> None:
    drifts = [judgements[rung.name, name].drift for rung in series_of(LADDER)[series]]
    assert drifts == sorted(drifts)
    assert drifts[0] > 0


@pytest.mark.parametrize("rung", [rung for rung in LADDER if rung.named], ids=lambda rung: rung.name)
def test_a_failure_is_named(rung: Rung, judgements: dict[tuple[str, str], PictureJudgement]) -> None:
    for name in NAMES:
        speaking = {flag.partition(":")[0] for flag in judgements[rung.name, name].flags}
        assert speaking & set(rung.named), f"{name}: {speaking or 'no detector spoke'}"


@each_rung
def test_no_failure_is_invented(rung: Rung, judgements: dict[tuple[str, str], PictureJudgement]) -> None:
    if rung.at_worst is not Verdict.BROKEN:
        assert [judgements[rung.name, name].broken for name in NAMES] == [None] * len(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_what_nobody_can_see_is_not_flagged(name: str, judgements: dict[tuple[str, str], PictureJudgement]) -> None:
    for rung in LADDER:
        if judgements[rung.name, name].verdict is Verdict.IMPERCEPTIBLE:
            assert judgements[rung.name, name].flags == ()


def test_the_document_shows_the_rules_in_force() -> None:
    """`python benchmarks/quality_ladder.py` prints the tables to paste."""
    for table in (thresholds_table(), caps_table()):
        assert "\n".join(table) in DOCUMENT.read_text()


PLANTED = {"ssimulacra2": (70.0, 12.0), "psnr_db": (34.0, 3.0), "delta_e_mean": (2.0, 0.8)}
"""What simulated raters go by, and how far from it the found threshold may be: about two rungs of the ladder."""
CARELESS = 0.1
"""How often one of them says the opposite."""


@pytest.mark.parametrize("metric", PLANTED)
def test_a_planted_threshold_is_found_again_from_noisy_raters(
    metric: str, judgements: dict[tuple[str, str], PictureJudgement]
) -> None:
    """Three raters look at every picture of the ladder; what they call worse is beyond the planted threshold."""
    planted, error = PLANTED[metric]
    careless = random.Random(0)
    opinions = []
    for key, judged in judgements.items():
        value = judged.metrics.get(metric)
        if value is None or not abs(value) < 1e6:
            continue
        beyond = value > planted if metric == "delta_e_mean" else value < planted
        opinions += [Opinion(key, beyond != (careless.random() < CARELESS), value) for _ in range(3)]
    assert too_few(opinions) is None
    found = threshold(opinions, higher_is_better=metric != "delta_e_mean")
    assert abs(found.value - planted) <= error, found
    assert found.low <= found.value <= found.high
    assert found.low - error <= planted <= found.high + error
    assert found.agrees > 0.8
    assert too_few(opinions[:30]) is not None
