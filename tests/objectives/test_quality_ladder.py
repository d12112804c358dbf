"""Known damage gets the verdict it deserves: the ladder of support/ladder.py, on pictures of the small model."""

from pathlib import Path

import pytest
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
