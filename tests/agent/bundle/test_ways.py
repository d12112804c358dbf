"""Compiled code for a bundle: every way is tried in fresh processes, what is finished stays, the best is taken."""

import json
import math
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from paretune.agent.bundle import WAY, cold_starts, ways, with_compiled_code
from paretune.agent.bundle.proof import count_twice, judge_counts
from paretune.agent.bundle.ways import Artefacts, Wanted, Way, build_ways
from paretune.objectives.measuring.building import WAYS
from paretune.objectives.verdict import Verdict
from paretune.search_space import Configuration, apply_source
from support.compiling_product import write_run_files


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    """Everything that a bundle has before its artefacts: of a product with two shapes."""
    folder = tmp_path / "bundle"
    folder.mkdir()
    (folder / "apply.py").write_text(apply_source(Configuration.of({"torch_compile": {}})))
    write_run_files(folder / "check")
    return folder


@pytest.fixture
def wanted(tmp_path: Path) -> Wanted:
    """Random weights: pictures are only looked at for numbers that are not finite."""
    shown = [tmp_path / f"{name}.png" for name in ("cat-0", "dog-0", "dog-1")]
    return Wanted("cpu", [], 1, 1, 100.0, 0.02, shown, Verdict.NOT_ASSESSED, cold_starts=1, times_compiling=math.inf)


def way(name: str, **known: Any) -> Way:
    return replace(Way(name, build_s=60.0, cold_start_s=5.0, latency_ms=100.0), **known)


def test_the_way_that_starts_fastest_is_kept_unless_its_code_is_slower() -> None:
    tried = [
        way("starts slowly", cold_start_s=30.0),
        way("runs slowly", cold_start_s=3.0, latency_ms=120.0),
        way("best", latency_ms=103.0),
        Way("fails", failed="it fails"),
    ]
    ranked = sorted(tried, key=lambda one: ways._rank(one, tried, 0.02))
    assert [one.name for one in ranked] == ["best", "starts slowly", "runs slowly", "fails"]


def test_what_is_finished_stays_when_building_is_interrupted(
    bundle: Path, wanted: Wanted, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried: list[str] = []
    interrupt = [True, False, False]

    def run(name: str, place: Path, wanted: Wanted, quickest: Way | None, on_step: Any) -> Way:
        tried.append(name)
        if name == "portable_cache" and interrupt.pop(0):
            raise KeyboardInterrupt
        if name == "portable_cache":
            raise RuntimeError("torch has nothing in its caches")
        (place / "bundle" / "artefacts").mkdir()
        (place / "bundle" / "artefacts" / "index.json").write_text(name)
        return way(name)

    monkeypatch.setattr(ways, "_try", run)
    work = tmp_path / "work"
    with pytest.raises(KeyboardInterrupt):
        build_ways(bundle, work, wanted)
    assert not (bundle / "artefacts").exists()
    found = build_ways(bundle, work, wanted)
    assert tried == ["standalone_compile", "aot_compile", "aotinductor", "portable_cache", "portable_cache"]
    assert {one.name: one.failed for one in found} == {
        "standalone_compile": None,
        "aot_compile": None,
        "portable_cache": "torch has nothing in its caches",
        "aotinductor": None,
    }
    assert (bundle / "artefacts" / "index.json").read_text() == "standalone_compile"
    (bundle / "artefacts" / "index.json").unlink()
    (bundle / "artefacts").rmdir()
    (bundle / "apply.py").write_text("another")
    build_ways(bundle, work, wanted)
    assert tried[5:] == list(WAYS)


def test_a_way_is_not_tried_when_the_others_took_as_long_as_all_may(
    bundle: Path, wanted: Wanted, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = [0.0]
    took = {"standalone_compile": 100.0, "aot_compile": 130.0, "aotinductor": 30.0}

    def run(name: str, place: Path, wanted: Wanted, quickest: Way | None, on_step: Any) -> Way:
        clock[0] += took[name]
        if name == "aotinductor":
            raise RuntimeError("it changes inputs in place")
        (place / "bundle" / "artefacts").mkdir()
        reasons = {"forward of Decoder": "TypeError: it changes weights or inputs in place"}
        return way(name, build_s=30.0, took_s=took[name], reasons=reasons)

    monkeypatch.setattr(ways, "_try", run)
    monkeypatch.setattr(ways, "time", SimpleNamespace(monotonic=lambda: clock[0]))
    built = Artefacts(ways=tuple(build_ways(bundle, tmp_path / "work", replace(wanted, times_compiling=4.0))))
    assert [one.failed for one in built.ways if one.not_tried] == [
        "not tried: the others took 260 s, 4 times as long as building them"
    ]
    assert built.words() == (
        "Trying 3 of 4 ways to keep compiled code took 260 s, 4.3 times as long as the building alone. "
        "standalone_compile is in the bundle: a cold start takes 5.0 s. "
        "It has no compiled code for forward of Decoder: TypeError: it changes weights or inputs in place. "
        "aotinductor failed: it changes inputs in place. "
        "portable_cache was not tried: the others took 260 s, 4 times as long as building them."
    )


def test_a_way_whose_workers_start_much_later_than_others_is_measured_no_further(
    bundle: Path, wanted: Wanted, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    starts = iter([4.0, 40.0])  # one that is quickest so far is not asked before
    counted: list[str] = []

    def count_twice(script: Path, *about: Any) -> Any:
        counted.append(script.parents[2].name)
        raise RuntimeError("it stops here")

    def cold(*about: Any, **options: Any) -> Any:
        return SimpleNamespace(n=1, medians={"cold_start_s": next(starts)}, peak_gib=None)

    monkeypatch.setattr(ways, "run_script", lambda *about, **options: {"parts": 2, "reasons": {}})
    monkeypatch.setattr(ways, "measure_cold_starts", cold)
    monkeypatch.setattr(ways, "count_twice", count_twice)
    for quickest, ends in ((None, "aot_compile"), (way("aot_compile", cold_start_s=10.0), "aotinductor")):
        shutil.copytree(bundle, tmp_path / ends / "bundle")
        with pytest.raises(RuntimeError, match="it stops here"):
            ways._try(ends, tmp_path / ends, wanted, quickest, lambda done, text: None)
    shutil.copytree(bundle, tmp_path / "portable_cache" / "bundle")
    given_up = ways._try(
        "portable_cache", tmp_path / "portable_cache", wanted, way("aot_compile"), lambda done, text: None
    )
    assert counted == ["aot_compile", "aotinductor"]
    assert (given_up.cold_start_s, given_up.cold_start["n"]) == (40.0, 1)
    words = Artefacts(ways=(way("aot_compile", took_s=90.0), replace(given_up, build_s=60.0, took_s=90.0))).words()
    assert words == (
        "Trying 2 of 2 ways to keep compiled code took 180 s, 1.5 times as long as the building alone. "
        "aot_compile is in the bundle: a cold start takes 5.0 s. "
        "portable_cache was not measured to the end: a cold start takes 40.0 s, and 5.0 s in aot_compile."
    )


def test_cold_starts_end_when_their_time_is_over_but_one_is_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = [0.0]

    def run_cold(*about: Any) -> dict[str, Any]:
        clock[0] += 10.0
        phases = {"import": 1.0, "load": 1.0, "apply": 1.0}
        return {"phases_s": phases, "first_call_ms": 1000.0, "after_s": 0.0, "process_s": 5.0}

    monkeypatch.setattr(cold_starts, "run_cold", run_cold)
    monkeypatch.setattr(cold_starts, "time", SimpleNamespace(monotonic=lambda: clock[0]))
    made = [cold_starts.measure_cold_starts(tmp_path, "cpu", 5, most_s=most_s).n for most_s in (-1.0, 35.0, 1000.0)]
    assert made == [1, 3, 5]


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_trial_is_started_with_compiled_code_before_anything_is_exported(bundle: Path, tmp_path: Path) -> None:
    trial = tmp_path / "trial"
    shutil.copytree(bundle / "check", trial)
    shutil.copyfile(bundle / "apply.py", trial / "apply.py")
    before = sorted(trial.rglob("*"))
    with with_compiled_code(trial, "cpu", [], 500) as folder:
        assert folder is not None
        found = count_twice(folder / "run.py", "cpu", tmp_path / "twice", folder)
        assert all(check.passed for check in judge_counts(found, 0, WAY))
    assert sorted(trial.rglob("*")) == before
    (trial / "workload.json").write_text("{")
    with with_compiled_code(trial, "cpu", [], 500) as folder:
        assert folder is None, "nothing can be built"


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_every_way_is_built_and_measured_and_the_code_travels(bundle: Path, wanted: Wanted, tmp_path: Path) -> None:
    said: list[tuple[int, int, str]] = []
    every = replace(wanted, latency_ms=0.0)  # none is as fast, so none is given up
    found = build_ways(bundle, tmp_path / "work", every, lambda *step: said.append(step))
    assert {one.name: one.failed for one in found} == dict.fromkeys(WAYS)
    (standalone,) = [one for one in found if one.name == "standalone_compile"]
    assert (standalone.parts, standalone.reasons) == (2, {})
    assert standalone.cold_start_s is not None
    assert (standalone.cold_start["n"], standalone.captures) == (1, 0)
    index = json.loads((tmp_path / "work" / "standalone_compile" / "bundle" / "artefacts" / "index.json").read_text())
    assert [part["call"]["tuple"][0]["tuple"][0]["shape"][0] for part in index["parts"]] == [1, 2]
    assert (bundle / "artefacts" / "built_for.json").is_file()
    assert [done for done, _, _ in said] == sorted(done for done, _, _ in said)
