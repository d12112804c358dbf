"""verify --cold: what a process may compile when a bundle is loaded (nothing), and who is named when it does."""

from pathlib import Path
from typing import Any

import pytest
from paretune.agent.bundle import cold_starts
from paretune.agent.bundle.proof import Counted, judge_counts
from paretune.objectives.measuring.compilations import CAPTURED, CPP, GRAPHS


def counted(loading: Any = None, first: Any = None, second: Any = None, missed: Any = None) -> Counted:
    rounds = [{"cat": {}, "dog": {}, **(first or {})}, {"cat": {}, "dog": {}, **(second or {})}]
    return Counted(loading=loading or {}, rounds=rounds, missed=missed or {})


CASES: dict[str, tuple[Counted, int | None, str | None]] = {
    "nothing at all": (counted(), None, None),
    "the announced captures": (counted(loading={CAPTURED: 1}, first={"cat": {CAPTURED: 2}}), 3, None),
    "compiled while loading": (counted(loading={CPP: 2}), None, "while loading: 2 C++ files compiled"),
    "a request that compiles": (
        counted(first={"dog": {GRAPHS: 1, CPP: 4}}),
        None,
        "request dog: 1 graphs traced, 4 C++ files compiled",
    ),
    "one that compiles the second time": (
        counted(second={"cat": {GRAPHS: 1}}),
        None,
        "request cat in the second round: 1 graphs traced",
    ),
    "captured again": (counted(second={"cat": {CAPTURED: 3}}), None, "again in the second round: request cat: 3"),
    "more captures than announced": (counted(first={"cat": {CAPTURED: 4}}), 3, "4, 3 announced"),
    "fewer captures than announced": (counted(first={"cat": {CAPTURED: 2}}), 3, "2, 3 announced"),
    "a call that fits no artefact": (counted(missed={"dog": 20}), None, "request dog: 20"),
}


@pytest.mark.parametrize(("found", "announced", "words"), CASES.values(), ids=CASES)
def test_whoever_compiles_captures_or_misses_is_named(found: Counted, announced: int | None, words: str | None) -> None:
    checks = judge_counts(found, announced, "standalone_compile")
    failed = [check.text for check in checks if not check.passed]
    assert len(failed) == (words is not None)
    assert words is None or words in failed[0]


def test_a_bundle_without_compiled_code_that_compiles_is_told_how_to_have_some() -> None:
    compiled, *_ = judge_counts(counted(first={"cat": {GRAPHS: 1}}), None, None)
    assert compiled.text.endswith("it holds no compiled code: export it with artefacts on a machine like this one")
    assert all(check.passed for check in judge_counts(counted(), None, None)), "it needs none"


def test_what_torchs_portable_cache_is_found_for_is_traced_and_not_compiled() -> None:
    compiled, *_ = judge_counts(counted(first={"cat": {GRAPHS: 2}, "dog": {GRAPHS: 1}}), 0, "portable_cache")
    assert compiled.passed
    assert compiled.text.endswith("; 3 graphs were traced, and found in torch's portable cache: that takes time, too")
    compiled, *_ = judge_counts(counted(first={"cat": {GRAPHS: 2, CPP: 1}}), 0, "portable_cache")
    assert (compiled.passed, compiled.text) == (False, "request cat: 1 C++ files compiled")


def test_cold_starts_are_told_by_phase_with_and_without_the_artefacts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "artefacts").mkdir()
    asked: list[tuple[str, ...]] = []

    def run_cold(script: Path, device: str, timeout_s: float, *options: str) -> dict[str, Any]:
        asked.append(options)
        first = [900.0, 800.0, 5000.0][len(asked) % 3]
        phases = {"import": 3.0, "load": 2.0, "apply": 0.5}
        return {
            **{"phases_s": phases, "first_call_ms": first, "after_s": 0.1, "process_s": 5.7 + first / 1000},
            "setup_peak_vram_gib": 7.0 + len(asked),
        }

    monkeypatch.setattr(cold_starts, "run_cold", run_cold)
    found = cold_starts.measure_cold_starts(tmp_path, "cuda", 3, artefacts=True)
    assert found.words() == (
        "4.5 s (median of 3, 4.4 to 8.6; interpreter 0.1, imports 3.0, apply 0.5, first picture 0.9; "
        "weights 2.0, not counted; at most 10.00 GiB)"
    )
    cold_starts.measure_cold_starts(tmp_path, "cuda", 1, artefacts=False)
    assert asked == [(), (), (), ("--no-artefacts",)]
