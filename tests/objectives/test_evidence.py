"""What a verdict rests on: exact bounds, of prompts and not of pictures."""

import pytest
from paretune.objectives.evidence import evidence_words, failure_rate_bound, prompts_reaching
from paretune.objectives.verdict import Verdict

SAME, NEAR, VISIBLE = Verdict.BIT_EXACT, Verdict.NEAR_LOSSLESS, Verdict.VISIBLE
SIX = [f"prompt {number % 6}" for number in range(64)]
"""Six prompts, in turn, with ten or eleven seeds each."""
EACH_ITS_OWN = [f"prompt {number}" for number in range(64)]


@pytest.mark.parametrize(
    ("n", "failures", "expected"),
    # Without failures 1 - 0.05 ** (1 / n); with them, scipy 1.17.1's beta.ppf(0.95, failures + 1, n - failures).
    [(1, 0, 0.95), (6, 0, 0.393038), (59, 0, 0.049508), (64, 0, 0.045730), (64, 2, 0.095122), (20, 20, 1.0)],
)
def test_how_often_it_may_fail(n: int, failures: int, expected: float) -> None:
    assert failure_rate_bound(n, failures) == pytest.approx(expected, abs=1e-6)


def test_a_failure_rate_needs_trials() -> None:
    assert failure_rate_bound(64, confidence=0.99) > failure_rate_bound(64)
    for n, failures, confidence in ((0, 0, 0.95), (3, 4, 0.95), (3, -1, 0.95), (3, 0, 1.0)):
        with pytest.raises(ValueError, match="failure rate"):
            failure_rate_bound(n, failures, confidence)


def test_seeds_of_a_prompt_are_no_further_prompts() -> None:
    assert evidence_words([SAME] * 64, SAME, SIX) == (
        "64 of 64 pictures, 6 of 6 prompts: failure rate of prompts below 39.3 % at 95 % confidence"
    )
    assert evidence_words([SAME] * 64, SAME, EACH_ITS_OWN) == (
        "64 of 64 pictures, 64 of 64 prompts: failure rate of prompts below 4.6 % at 95 % confidence"
    )


def test_the_worst_picture_stands_for_its_prompt() -> None:
    verdicts = [NEAR] * 64
    verdicts[5] = verdicts[11] = VISIBLE  # both of the last prompt
    assert prompts_reaching(verdicts, NEAR, SIX) == (5, 6)
    assert prompts_reaching(verdicts, NEAR, EACH_ITS_OWN) == (62, 64)
    assert prompts_reaching(verdicts, VISIBLE, SIX) == (6, 6)
    assert evidence_words(verdicts, NEAR, SIX) == (
        "62 of 64 pictures, 5 of 6 prompts: failure rate of prompts below 58.2 % at 95 % confidence"
    )


def test_a_verdict_that_promises_nothing_only_counts() -> None:
    assert evidence_words([SAME] * 63 + [Verdict.BROKEN], Verdict.BROKEN, SIX) == "1 of 64 broken"


def test_without_pictures_or_prompts_there_is_no_evidence() -> None:
    with pytest.raises(ValueError, match="no pictures"):
        evidence_words([], VISIBLE, [])
    with pytest.raises(ValueError, match="64 pictures need a prompt each, not 6"):
        evidence_words([SAME] * 64, SAME, SIX[:6])
