"""What failed on a machine is not tried again there, in whatever study, and everybody is told why."""

from pathlib import Path
from typing import Any

import pytest
from paretune.agent.results import FailedBefore, Results, failed_before
from paretune.agent.review import explain, remembered
from paretune.agent.review.report import report_html
from paretune.search_space import Configuration, apply_source
from paretune.studies import EndedTrial, Outcome
from support.replayed import FUSED, replay

LAYOUT, CACHE, QKV = ("channels_last", {}), ("deepcache", {"interval": 3}), ("fused_qkv", {})
TILING = ("vae_tiling", {})


def of(*techniques: tuple[str, dict[str, Any]]) -> Configuration:
    return Configuration.of(techniques)


def ended(configuration: Configuration, outcome: Outcome = Outcome.COMPLETE) -> tuple[Configuration, EndedTrial]:
    return configuration, EndedTrial("earlier", 4, configuration.to_dict(), outcome, "it broke", "")


@pytest.mark.parametrize("outcome", [Outcome.APPLY_ERROR, Outcome.COMPILE_ERROR, Outcome.CRASH])
def test_a_pair_that_failed_is_found_in_whatever_has_both(outcome: Outcome) -> None:
    known = FailedBefore([ended(of(CACHE)), ended(of(LAYOUT, CACHE), outcome)])
    found = known.of(of(LAYOUT, CACHE, TILING))
    assert found is not None
    assert found.words() == (
        "channels_last + deepcache(interval=3, branch=0, full_percent=0) failed here before, in trial 4 of study "
        f"earlier ({outcome}): it broke"
    )
    assert known.of(of(LAYOUT, TILING)) is None
    assert known.of(of(LAYOUT, ("deepcache", {"interval": 2}))) is None


def test_one_that_fails_alone_explains_every_larger_failure() -> None:
    failures = [ended(of(*techniques), Outcome.CRASH) for techniques in ((QKV, CACHE), (QKV,), (QKV, CACHE, TILING))]
    assert [str(failed.configuration) for failed in FailedBefore(failures).all] == ["fused_qkv"]


def test_of_three_only_the_pair_that_never_worked_is_to_blame() -> None:
    failure = ended(of(LAYOUT, CACHE, QKV), Outcome.COMPILE_ERROR)
    assert FailedBefore([failure]).all == []  # any of the pairs may have been it
    known = FailedBefore([ended(of(LAYOUT, CACHE)), ended(of(CACHE, QKV, TILING)), failure])
    assert [failed.configuration for failed in known.all] == [of(LAYOUT, QKV)]


def test_what_could_not_be_applied_for_the_same_reason_is_to_blame_for_all_of_it() -> None:
    """As recipes that share a technique which this kind of pipeline cannot have: one of them says nothing of it yet."""
    first, second, third = of(LAYOUT, CACHE, QKV), of(LAYOUT, QKV, TILING), of(QKV, TILING, ("sdpa_kernel", {}))
    failures = [ended(one, Outcome.APPLY_ERROR) for one in (first, second, third)]
    assert FailedBefore(failures[:1]).all == []
    assert [failed.configuration for failed in FailedBefore(failures[:2]).all] == [of(LAYOUT, QKV)]
    assert [failed.configuration for failed in FailedBefore(failures).all] == [of(QKV)]
    assert FailedBefore([*failures, ended(of(QKV))]).all == []  # it works alone
    crashes = [ended(one, Outcome.CRASH) for one in (first, second, third)]
    assert FailedBefore(crashes).all == []  # any two may end in the same word


def test_what_works_later_is_forgotten_and_what_lacked_memory_or_time_never_counted() -> None:
    assert FailedBefore([ended(of(QKV), Outcome.CRASH), ended(of(QKV, TILING))]).all == []
    others = [ended(of(QKV), outcome) for outcome in (Outcome.OOM, Outcome.TIMEOUT, Outcome.INVALID_OUTPUT)]
    assert FailedBefore(others).all == []


@pytest.fixture
def results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Results:
    # The code of a replayed study names no versions, and the fingerprint that its records name is none.
    monkeypatch.setattr("paretune.agent.results.remembered.apply_source", lambda one, versions: apply_source(one))
    found = replay(tmp_path)
    monkeypatch.setattr(type(found.fingerprint), "key", "f")
    return found


def test_report_and_explanation_say_what_failed_before(results: Results) -> None:
    known = remembered(results)
    assert [failed.configuration for failed in known.all] == [FUSED]
    words = "fused_qkv failed here before, in trial 5 of study replayed (apply_error): apply: it &lt;broke&gt;"
    assert words in report_html(results)
    (step,) = explain(FUSED, {}, known)
    assert step.failed_before == (known.all[0].words(),)
    assert "failed here before" not in str(explain(of(LAYOUT), {}, known))


def test_changed_code_and_other_pipelines_have_a_new_chance(results: Results, monkeypatch: pytest.MonkeyPatch) -> None:
    from paretune.testing import TINY_FACTS

    other = failed_before(results.records, results.fingerprint, {"main": TINY_FACTS})
    monkeypatch.setattr("paretune.agent.results.remembered.apply_source", lambda *_: "changed")
    assert other.all == remembered(results).all == []
