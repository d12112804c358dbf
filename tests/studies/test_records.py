"""The tables behind a study: what goes in comes out, at once, for every reader."""

import sqlite3
from pathlib import Path
from typing import Any

import pytest
from paretune.studies import MeasurementRecord, Outcome, Records, StudyRecord, UserError, utc_now
from sqlalchemy.exc import SQLAlchemyError


def study_record(name: str) -> StudyRecord:
    return StudyRecord(
        name=name,
        import_s=5.0,
        schema_version=1,
        created_at=utc_now(),
        study={"name": name, "prompt": "ein Bär, 熊"},
        workload_key="w",
        fingerprint={"device_name": "cpu"},
        files="/somewhere",
        space={"deepcache": {"interval": [2, 3]}},
        left_out={},
        pipelines={},
    )


def measurement(study: str, trial: int, key: str, **figures: Any) -> MeasurementRecord:
    return MeasurementRecord(
        schema_version=1,
        apply_py="",
        study=study,
        trial=trial,
        workload_key="w",
        configuration_key=key,
        configuration={"schema": 1, "techniques": []},
        fingerprint_key="f",
        fingerprint={},
        outcome=Outcome.COMPLETE,
        reason="",
        log_tail="",
        measurements=figures,
        phases_s={"load": 1.5, "apply": 0.25},
        finished_at=utc_now(),
    )


@pytest.fixture
def records(tmp_path: Path) -> Records:
    return Records(f"sqlite:///{tmp_path}/new/folder/studies.db")


def test_what_is_written_is_read_by_another_connection_at_once(records: Records) -> None:
    records.add_study(study_record("a"), measurement("a", 0, "reference", latency_ms=0.1 + 0.2))
    records.add_measurement(measurement("a", 2, "k2", latency_ms=3.0))
    records.add_measurement(measurement("a", 1, "k1", latency_ms=2.0))
    other = Records(records.url)
    assert other.study("a").study == {"name": "a", "prompt": "ein Bär, 熊"}
    rows = other.measurements("a")
    assert [(row.trial, row.configuration_key) for row in rows] == [(0, "reference"), (1, "k1"), (2, "k2")]
    assert rows[0].measurements == {"latency_ms": 0.1 + 0.2}
    assert list(rows[0].phases_s) == ["load", "apply"]
    found = other.find_measurement("a", "k1")
    assert found is not None
    assert found.trial == 1
    assert other.find_measurement("a", "never") is None


def test_studies_of_one_database_are_apart(records: Records) -> None:
    for name in ("a", "b"):
        records.add_study(study_record(name), measurement(name, 0, "reference"))
    records.add_measurement(measurement("b", 1, "k"))
    assert [study.name for study in records.studies()] == ["a", "b"]
    assert len(records.measurements("a")) == 1
    assert records.find_measurement("a", "k") is None
    assert records.find_study("c") is None
    with pytest.raises(UserError, match=r"there is no study 'c' in sqlite:.* \(studies there: a, b\)"):
        records.study("c")


def test_a_configuration_is_measured_once_in_a_study(records: Records) -> None:
    records.add_study(study_record("a"), measurement("a", 0, "reference"))
    with pytest.raises(UserError, match="UNIQUE"):
        records.add_measurement(measurement("a", 1, "reference"))
    assert len(records.measurements("a")) == 1


def test_a_study_and_its_reference_are_written_together_or_not_at_all(records: Records) -> None:
    records.add_study(study_record("a"), measurement("a", 0, "reference"))
    with pytest.raises(UserError):
        records.add_study(study_record("b"), measurement("a", 0, "reference"))
    assert records.find_study("b") is None


def test_a_figure_that_is_none_never_gets_in(records: Records) -> None:
    records.add_study(study_record("a"), measurement("a", 0, "reference"))
    with pytest.raises((ValueError, SQLAlchemyError, UserError)):
        records.add_measurement(measurement("a", 1, "k", latency_ms=float("nan")))
    assert len(records.measurements("a")) == 1


def test_tables_are_plain_sql_that_other_tools_read(records: Records, tmp_path: Path) -> None:
    records.add_study(study_record("a"), measurement("a", 0, "reference", latency_ms=2.5))
    with sqlite3.connect(tmp_path / "new" / "folder" / "studies.db") as connection:
        query = "select json_extract(measurements, '$.latency_ms'), outcome from paretune_measurement"
        assert connection.execute(query).fetchall() == [(2.5, "complete")]
        assert connection.execute("pragma journal_mode").fetchall() == [("wal",)]


def test_outcomes_are_the_closed_list() -> None:
    assert [outcome.value for outcome in Outcome] == [
        *("complete", "oom", "timeout", "crash", "compile_error", "apply_error", "unsupported", "invalid_output"),
        "infrastructure",
    ]
