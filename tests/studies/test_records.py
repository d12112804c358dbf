"""The tables behind a study: what goes in comes out, at once, for every reader; and runs are never changed."""

import sqlite3
from pathlib import Path
from typing import Any

import pytest
from paretune.studies import SCHEMA_VERSION, Outcome, Records, RunKind, RunRecord, StudyRecord, UserError, utc_now
from sqlalchemy.exc import SQLAlchemyError
from support.machines import fingerprint
from support.replayed import measured


def study_of(name: str, prompt: str) -> dict[str, Any]:
    request = {"prompt": prompt, "width_px": 64, "height_px": 64, "steps": 5}
    pipelines = {"main": {"class": "StableDiffusionXLPipeline", "model": "someone/model"}}
    return {"schema": 1, "name": name, "workload": {"pipelines": pipelines, "requests": [request]}}


def study_record(name: str) -> StudyRecord:
    return StudyRecord(
        name=name,
        import_s=5.0,
        schema_version=SCHEMA_VERSION,
        created_at=utc_now(),
        study=study_of(name, "ein Bär, 熊"),
        workload_key="w",
        fingerprint=fingerprint("cpu"),
        files="/somewhere",
        space={"deepcache": {"interval": [2, 3]}},
        left_out={},
        pipelines={},
    )


def run(study: str, trial: int, key: str, kind: RunKind = RunKind.TRIAL, **figures: Any) -> RunRecord:
    return RunRecord(
        schema_version=SCHEMA_VERSION,
        kind=kind,
        workload_key="w",
        configuration_key=key,
        configuration={"schema": 1, "techniques": []},
        fingerprint_key="f",
        worker="local",
        study=study,
        trial=trial,
        session=0,
        position=0,
        outcome=Outcome.COMPLETE,
        reason="",
        log_tail="",
        measurements={**measured(1000.0, 2.0, "bit-exact", 0.0, None, "cpu"), **figures},
        phases_s={"load": 1.5, "apply": 0.25},
        apply_py="",
        folder="",
        finished_at=utc_now(),
    )


@pytest.fixture
def records(tmp_path: Path) -> Records:
    return Records(f"sqlite:///{tmp_path}/new/folder/studies.db")


def test_what_is_written_is_read_by_another_connection_at_once(records: Records) -> None:
    records.add_study(study_record("a"), [run("a", 0, "reference", latency_ms=0.1 + 0.2)])
    records.add_run(run("a", 2, "k2", latency_ms=3.0))
    records.add_run(run("a", 1, "k1", latency_ms=2.0))
    other = Records(records.url)
    assert other.study("a").study == study_of("a", "ein Bär, 熊")
    found = other.runs("a")
    assert [(one.trial, one.run.configuration_key) for one in found] == [(0, "reference"), (2, "k2"), (1, "k1")]
    assert found[0].run.measurements["latency_ms"] == 0.1 + 0.2
    assert list(found[0].run.phases_s) == ["load", "apply"]
    assert [one.trial for one in other.runs("a", after=found[1].link)] == [1], "only what came since"


def test_studies_of_one_database_are_apart(records: Records) -> None:
    for name in ("a", "b"):
        records.add_study(study_record(name), [run(name, 0, "reference")])
    records.add_run(run("b", 1, "k"))
    assert [study.name for study in records.studies()] == records.study_names() == ["a", "b"]
    assert (len(records.runs("a")), len(records.runs("b"))) == (1, 2)
    assert records.find_study("c") is None
    with pytest.raises(UserError, match=r"there is no study 'c' in sqlite:.* \(studies there: a, b\)"):
        records.study("c")


def test_a_study_uses_what_another_one_has_measured_without_a_copy(records: Records) -> None:
    records.add_study(study_record("a"), [run("a", 0, "reference")])
    records.add_run(run("a", 3, "k", latency_ms=2.0))
    known = [one.run for one in records.runs("a")]
    records.add_study(study_record("b"), [run("b", 0, "reference", RunKind.CANARY)], known[:1])
    records.use_runs("b", 1, known[1:])
    assert [(one.trial, one.run.study, one.run.kind) for one in records.runs("b")] == [
        (0, "a", "trial"),
        (0, "b", "canary"),
        (1, "a", "trial"),
    ]
    with pytest.raises(UserError, match="UNIQUE"):
        records.use_runs("b", 2, known[1:])


def test_a_study_and_its_reference_are_written_together_or_not_at_all(records: Records) -> None:
    records.add_study(study_record("a"), [run("a", 0, "reference")])
    known = [one.run for one in records.runs("a")]
    with pytest.raises(UserError):
        records.add_study(study_record("b"), [], [*known, *known])
    assert records.find_study("b") is None


def test_judging_again_is_written_together_or_not_at_all(records: Records) -> None:
    records.add_study(study_record("a"), [run("a", 0, "reference")])
    again = run("a", 0, "reference", RunKind.REJUDGE, drift=0.5)
    records.judge_again("a", study_of("a", "new"), "w2", [again])
    assert (records.study("a").study, records.study("a").workload_key) == (study_of("a", "new"), "w2")
    assert [one.run.kind for one in records.runs("a")] == ["trial", "rejudge"]
    broken = run("a", 0, "reference", RunKind.REJUDGE, drift=float("nan"))
    with pytest.raises((ValueError, SQLAlchemyError, UserError)):
        records.judge_again("a", study_of("a", "newer"), "w3", [broken])
    assert records.study("a").study == study_of("a", "new")


def test_a_figure_that_is_none_never_gets_in(records: Records) -> None:
    records.add_study(study_record("a"), [run("a", 0, "reference")])
    with pytest.raises((ValueError, SQLAlchemyError, UserError)):
        records.add_run(run("a", 1, "k", latency_ms=float("nan")))
    assert len(records.runs("a")) == 1


def test_tables_are_plain_sql_that_other_tools_read(records: Records, tmp_path: Path) -> None:
    records.add_study(study_record("a"), [run("a", 0, "reference", latency_ms=2.5)])
    with sqlite3.connect(tmp_path / "new" / "folder" / "studies.db") as connection:
        query = "select json_extract(measurements, '$.latency_ms'), kind, outcome from paretune_run"
        assert connection.execute(query).fetchall() == [(2.5, "trial", "complete")]
        assert connection.execute("pragma journal_mode").fetchall() == [("wal",)]


def test_a_database_of_an_earlier_version_is_refused(tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / "old.db") as connection:
        connection.execute("create table paretune_run (id integer primary key, study text)")
    with pytest.raises(UserError, match="was made by an earlier version of paretune: name another --storage"):
        Records(f"sqlite:///{tmp_path}/old.db")


def test_the_newest_word_of_a_person_counts(records: Records) -> None:
    records.add_study(study_record("a"), [run("a", 0, "reference")])
    for rating, rater in (("worse", "Ann"), ("same", "Bob"), ("same", "Ann")):
        records.rate("a", 0, "cat-0.png", rating, rater)
    assert [(r.rater, r.rating) for r in records.ratings("a")] == [("Bob", "same"), ("Ann", "same")]


def test_outcomes_and_kinds_are_closed_lists() -> None:
    assert [outcome.value for outcome in Outcome] == [
        *("complete", "oom", "timeout", "crash", "compile_error", "apply_error", "unsupported", "invalid_output"),
        "infrastructure",
    ]
    assert [kind.value for kind in RunKind] == [
        *("trial", "floor", "canary", "pictures", "block", "cold_start", "ablation", "reordering", "rejudge")
    ]
