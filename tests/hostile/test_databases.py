"""Databases that other programs have written to: reading them is one sentence, and changes nothing."""

import copy
import json
import random
import shutil
import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.launched import Cli, Said
from support.replayed import NAME, replay

MOST_S = 10.0
GONE = object()
DEEP = "[" * 100_000
COMMANDS = (("best", NAME), ("report", NAME, "--json"), ("best", NAME, "--all"))

STUDY, RUN, RATING, LINK = "paretune_study", "paretune_run", "paretune_rating", "paretune_study_run"
KEYS = {STUDY: "name", RUN: "id", RATING: "id", LINK: "id"}
REFERENCE, FLOOR, COLD_START = 1, 2, 36
"""Rows of runs."""

WRITTEN: list[tuple[str, Any, str, Any, str]] = [
    # table, row, column, what stands there, what the sentence names
    (STUDY, NAME, "study", "{", "study is not JSON"),
    (STUDY, NAME, "study", "[]", "study: input should be an object"),
    (STUDY, NAME, "study", "null", "study"),
    (STUDY, NAME, "study", "5", "study"),
    (STUDY, NAME, "study", "{}", "'study.schema' is missing"),
    (STUDY, NAME, "study", DEEP, "study is nested too deeply"),
    (STUDY, NAME, "study", '{"schema": 1, "schema": 2}', "study has a key twice"),
    (STUDY, NAME, "study", b"\xff\xfe", "study is not JSON"),
    (STUDY, NAME, "fingerprint", "null", "fingerprint"),
    (STUDY, NAME, "fingerprint", '{"schema_version": 1}', "fingerprint"),
    (STUDY, NAME, "space", "[1, 2]", "space"),
    (STUDY, NAME, "space", '{"deepcache": 3}', "space.deepcache"),
    (STUDY, NAME, "left_out", '"x"', "left_out"),
    (STUDY, NAME, "pipelines", '{"main": 1}', "pipelines.main"),
    (STUDY, NAME, "import_s", "x", "import_s"),
    (STUDY, NAME, "import_s", -1.0, "import_s"),
    (STUDY, NAME, "files", "", "files"),
    (STUDY, NAME, "files", "x" * 5000, "files"),
    (STUDY, NAME, "created_at", "yesterday", "created_at"),
    (STUDY, NAME, "created_at", "2026-05-04T13:07:00", "created_at"),
    (STUDY, NAME, "schema_version", 4, "is of a newer version of paretune (schema 4, this one reads 3)"),
    (STUDY, NAME, "schema_version", 2, "is of an earlier version of paretune (schema 2, this one reads 3)"),
    (RUN, REFERENCE, "schema_version", 99, "is of a newer version of paretune (schema 99, this one reads 3)"),
    (RUN, REFERENCE, "schema_version", "x", "schema_version"),
    (RUN, REFERENCE, "measurements", "", "measurements is not JSON"),
    (RUN, REFERENCE, "measurements", "{", "measurements is not JSON"),
    (RUN, REFERENCE, "measurements", "[]", "measurements"),
    (RUN, REFERENCE, "measurements", "{}", "is missing"),
    (RUN, REFERENCE, "measurements", '{"latency_ms": NaN}', "NaN is no number"),
    (RUN, REFERENCE, "measurements", '{"latency_ms": 1e999}', "measurements"),
    (RUN, REFERENCE, "measurements", DEEP, "measurements is nested too deeply"),
    (RUN, REFERENCE, "measurements", '{"a": ' + "9" * 5000 + "}", "measurements is not JSON"),
    (RUN, REFERENCE, "measurements", '{"a": "\\ud800"}', "measurements is not JSON"),
    (RUN, REFERENCE, "kind", "wish", "kind"),
    (RUN, REFERENCE, "outcome", "fine", "outcome"),
    (RUN, REFERENCE, "trial", "x", "trial"),
    (RUN, REFERENCE, "phases_s", '{"load": "x"}', "phases_s.load"),
    (RUN, REFERENCE, "phases_s", "7", "phases_s"),
    (RUN, REFERENCE, "finished_at", "", "finished_at"),
    (RUN, REFERENCE, "configuration", "3", "configuration"),
    (RUN, REFERENCE, "configuration", '{"schema": 2, "techniques": []}', "another version of paretune measured it"),
    (RUN, REFERENCE, "configuration", '{"schema": 1, "techniques": [[]]}', "another version of paretune measured it"),
    (RUN, FLOOR, "measurements", '{"latency_ms": 0}', "measurements"),
    (RUN, COLD_START, "measurements", '{"cold_start_s": 5}', "is missing"),
    (LINK, 1, "trial", "x", "trial"),
    (LINK, 1, "schema_version", 4, "is of a newer version"),
]
CHANGED: list[tuple[int, str, Any, str]] = [
    # row of runs, key of its measurements, what stands there, what the sentence names
    (REFERENCE, "latency_ms", "x", "measurements.latency_ms"),
    (REFERENCE, "latency_ms", 0, "measurements.latency_ms"),
    (REFERENCE, "latency_ms", True, "measurements.latency_ms"),
    (REFERENCE, "latency_ms", GONE, "measurements.latency_ms"),
    (REFERENCE, "peak_vram_gib", None, "measurements.peak_vram_gib"),
    (REFERENCE, "cold_start_s", [], "measurements.cold_start_s"),
    (REFERENCE, "latency", {}, "measurements.latency"),
    (REFERENCE, "latency.0", 1, "measurements.latency.0"),
    (REFERENCE, "latency.0.stop", "bored", "measurements.latency.0.stop"),
    (REFERENCE, "latency.0.min_ms", 0, "measurements.latency.0.min_ms"),
    (REFERENCE, "latency.0.requests", [], "measurements.latency.0.requests"),
    (REFERENCE, "quality", None, "measurements.quality"),
    (REFERENCE, "quality", GONE, "measurements.quality"),
    (REFERENCE, "quality.verdict", "lovely", "measurements.quality.verdict"),
    (REFERENCE, "quality.pictures", {"a": 1}, "measurements.quality.pictures"),
    (REFERENCE, "quality.pictures.0", None, "measurements.quality.pictures.0"),
    (REFERENCE, "quality.pictures.0.file", "../../etc/passwd", "measurements.quality.pictures.0.file"),
    (REFERENCE, "quality.pictures.0.drift", "x", "measurements.quality.pictures.0.drift"),
    (REFERENCE, "quality.pictures.0.metrics.psnr_db", "x", "measurements.quality.pictures.0.metrics.psnr_db"),
    (REFERENCE, "machine", None, "measurements.machine"),
    (REFERENCE, "machine.cpu.foreign_share", "x", "measurements.machine.cpu.foreign_share"),
    (REFERENCE, "machine.foreign_gpu_processes", [1], "measurements.machine.foreign_gpu_processes.0"),
    (REFERENCE, "memory", "x", "measurements.memory"),
    (REFERENCE, "stages.0.total_ms", 0, "measurements.stages.0.total_ms"),
    (REFERENCE, "stages.0.stages.denoising.median_step_ms", "x", "measurements.stages.0.stages.denoising"),
    (REFERENCE, "repeat_max_difference", None, "measurements.repeat_max_difference"),
    (FLOOR, "latency_ms", -5, "measurements.latency_ms"),
    (FLOOR, "machine", 3, "measurements.machine"),
    (COLD_START, "load_s", "x", "measurements.load_s"),
]


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database with a study, in one file."""
    folder = tmp_path_factory.mktemp("measured")
    replay(folder, device="cuda")
    with sqlite3.connect(folder / "paretune.db") as connection:
        connection.execute("pragma wal_checkpoint(truncate)")
    connection.close()
    return folder / "paretune.db"


@pytest.fixture
def database(measured: Path, tmp_path: Path) -> Path:
    """A copy of it, to be spoilt."""
    return Path(shutil.copy(measured, tmp_path / "paretune.db"))


def write(database: Path, table: str, row: Any, column: str, value: Any) -> None:
    with sqlite3.connect(database) as connection:
        connection.execute(f"update {table} set {column} = ? where {KEYS[table]} = ?", (value, row))
        assert connection.total_changes == 1
    connection.close()


def read(database: Path, table: str, row: Any, column: str) -> Any:
    with sqlite3.connect(database) as connection:
        (found,) = connection.execute(f"select {column} from {table} where {KEYS[table]} = ?", (row,)).fetchone()
    connection.close()
    return found


def everything(database: Path) -> list[Any]:
    """Every row of every table, whatever it is."""
    connection = sqlite3.connect(database)
    connection.text_factory = bytes
    tables = [name.decode() for (name,) in connection.execute("select name from sqlite_master where type = 'table'")]
    found = [(name, connection.execute(f"select * from {name}").fetchall()) for name in sorted(tables)]
    connection.close()
    return found


def put(value: Any, path: list[str], new: Any) -> Any:
    if not path:
        return new
    changed = copy.copy(value)
    key: Any = int(path[0]) if isinstance(value, list) else path[0]
    if new is GONE and len(path) == 1:
        del changed[key]
    else:
        changed[key] = put(changed[key], path[1:], new)
    return changed


def asked(cli: Cli, database: Path, *command: str) -> Said:
    """What a command says; it changes nothing, and is quick."""
    before, began = everything(database), time.monotonic()
    said = cli(*command, "--storage", f"sqlite:///{database}")
    assert time.monotonic() - began < MOST_S
    assert everything(database) == before
    return said


def ids(cases: list[Any]) -> list[str]:
    return ["-".join(str(part)[:20] for part in case[:-1]) for case in cases]


def test_unspoilt_it_can_be_read(database: Path, cli: Cli) -> None:
    for command in (*COMMANDS, ("list",)):
        assert asked(cli, database, *command).code == 0
    kinds = [read(database, RUN, row, "kind") for row in (REFERENCE, FLOOR, COLD_START)]
    assert kinds == ["trial", "floor", "cold_start"]


@pytest.mark.parametrize(("table", "row", "column", "value", "names"), WRITTEN, ids=ids(WRITTEN))
def test_a_row_that_paretune_would_not_have_written_is_named(
    table: str, row: Any, column: str, value: Any, names: str, database: Path, cli: Cli
) -> None:
    write(database, table, row, column, value)
    sentence = asked(cli, database, *COMMANDS[0]).sentence()
    assert names in sentence
    assert "trial 0" in sentence or f"row {row!r} of {table}" in sentence
    listed = asked(cli, database, "list")
    assert listed.code == 0
    assert "cannot be read: " in listed.out


@pytest.mark.parametrize(("row", "path", "value", "names"), CHANGED, ids=ids(CHANGED))
def test_a_measurement_that_is_none_is_named(
    row: int, path: str, value: Any, names: str, database: Path, cli: Cli
) -> None:
    known = json.loads(read(database, RUN, row, "measurements"))
    write(database, RUN, row, "measurements", json.dumps(put(known, path.split("."), value)))
    sentence = asked(cli, database, *COMMANDS[1]).sentence()
    assert f"row {row} of {RUN}" in sentence
    assert names in sentence


def test_a_rating_that_is_none_is_named(database: Path, cli: Cli) -> None:
    write(database, RATING, 1, "rating", "lovely")
    assert f"row 1 of {RATING}" in asked(cli, database, "report", NAME, "-o", "nowhere").sentence()
    assert not Path("nowhere").exists()


def test_a_study_without_measurements_is_one_sentence(database: Path, cli: Cli) -> None:
    with sqlite3.connect(database) as connection:
        connection.execute(f"delete from {LINK}")
        connection.execute(f"delete from {RUN}")
    connection.close()
    for command in (("best", NAME), ("report", NAME, "--json"), ("export", NAME, "-o", "nowhere"), ("judge", NAME)):
        asked(cli, database, *command).sentence()
    assert asked(cli, database, "list").code == 0


@pytest.mark.parametrize("content", [b"", b"SQLite format 3\0", b"schema: 1\n", b"\0" * 5000])
def test_what_is_no_database_is_one_sentence(content: bytes, tmp_path: Path, cli: Cli) -> None:
    (tmp_path / "other.db").write_bytes(content)
    for command in (*COMMANDS, ("list",), ("rate", NAME, "1", "a.png", "same", "--by", "Ann")):
        cli(*command, "--storage", f"sqlite:///{tmp_path}/other.db").sentence()
    assert (tmp_path / "other.db").read_bytes() == content


@pytest.mark.parametrize(
    "storage", ["", "sqlite://", "sqlite:///" + "x" * 5000, "sqlite:///a\0b", "paretune.db", "postgresql://[", "file:x"]
)
def test_what_is_no_url_of_a_database_is_one_sentence(storage: str, cli: Cli) -> None:
    for command in (*COMMANDS, ("list",)):
        cli(*command, "--storage", storage).sentence()


@pytest.mark.parametrize("name", ["", "x" * 5000, "a\0b", "\udcff", "'; drop table paretune_run; --"])
def test_what_is_no_name_of_a_study_is_one_sentence(name: str, database: Path, cli: Cli) -> None:
    assert "there is no study" in asked(cli, database, "best", name).sentence()


def test_what_is_no_text_is_not_written(database: Path, cli: Cli) -> None:
    rated = ("rate", NAME, "1", "cat-0.png", "same", "--by", "Ann \udcff")
    assert asked(cli, database, *rated).sentence() == (
        "'Ann \\udcff' is no text that a database can hold: it is not UTF-8"
    )


# Generated: whatever stands in whatever place, a command answers or says one sentence.

ANYTHING = (None, True, "x", [], {}, -1, 0, 1e308, "", GONE, [1], {"a": 1}, 10**30)
INSTEAD_OF_JSON = ("{broken", "", "[]", "5", "null", '{"a": NaN}', DEEP, b"\xff\xfe", 7)


def places(value: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    yield path
    inside = value.items() if isinstance(value, dict) else enumerate(value[:2]) if isinstance(value, list) else ()
    for key, inner in inside:
        yield from places(inner, (*path, str(key)))


@pytest.mark.parametrize("seed", range(60))
def test_anything_in_any_place_is_an_answer_or_one_sentence(seed: int, database: Path, cli: Cli) -> None:
    chance = random.Random(seed)
    table = chance.choice([STUDY, RUN, RUN, RUN, LINK])
    with sqlite3.connect(database) as connection:
        columns = [name for _, name, *_ in connection.execute(f"pragma table_info({table})") if name != KEYS[table]]
        row = chance.choice([row for (row,) in connection.execute(f"select {KEYS[table]} from {table}")])
    connection.close()
    column, value = chance.choice(columns), chance.choice(ANYTHING)
    known = read(database, table, row, column)
    if isinstance(known, str) and known.startswith("{") and chance.random() < 0.8:
        path = chance.choice(list(places(json.loads(known))))
        value = json.dumps(put(json.loads(known), list(path), None if value is GONE and not path else value))
    elif isinstance(known, str) and known.startswith("{"):
        value = chance.choice(INSTEAD_OF_JSON)
    elif value is None or not isinstance(value, str | float):
        value = chance.choice(["x", "", -1, 10**15])
    write(database, table, row, column, value)
    said = asked(cli, database, *chance.choice(COMMANDS))
    if said.code != 0:
        said.sentence()
