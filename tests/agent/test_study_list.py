"""paretune list: a line for every study of the database, readable or not; and the names that the shell completes."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from paretune.studies import Records
from sqlalchemy import create_engine, text
from support.launched import Cli
from support.replayed import NAME, replay, url_of


@pytest.fixture
def storage(tmp_path: Path) -> str:
    """A database with one replayed study of eight trials, of which one failed."""
    replay(tmp_path, trusted=False)
    return url_of(tmp_path)


def add_unreadable(storage: str, name: str) -> None:
    """The replayed study once more, as something that later code does not understand."""
    engine = create_engine(storage)
    columns = (
        "schema_version",
        "created_at",
        "workload_key",
        "fingerprint",
        "import_s",
        "files",
        "space",
        "left_out",
        "pipelines",
    )
    with engine.begin() as connection:
        connection.execute(
            text(
                f"INSERT INTO paretune_study (name, study, {', '.join(columns)}) "
                f"SELECT '{name}', '{{\"schema\": 99}}', {', '.join(columns)} FROM paretune_study"
            )
        )


def test_a_line_per_study(storage: str, cli: Cli) -> None:
    said = cli("list", "--storage", storage)
    assert said.code == 0
    headings, line = said.out.splitlines()
    assert headings.split("  ")[0] == "study"
    assert line.split() == [NAME, "2026-05-04", "13:07", "8", "1", "Example", "<CPU>", "9000"]


def test_as_json(storage: str, cli: Cli) -> None:
    assert json.loads(cli("list", "--json", "--storage", storage).out) == [
        {
            "name": NAME,
            "launched_at": "2026-05-04T13:07:00+00:00",
            "device": "Example <CPU> 9000",
            "trials": 8,
            "failures": 1,
            "problem": None,
        }
    ]


def test_a_study_that_cannot_be_read_does_not_hide_the_others(storage: str, cli: Cli) -> None:
    add_unreadable(storage, "of-another-version")
    said = cli("list", "--storage", storage)
    assert said.code == 0
    lines = {line.split()[0]: line for line in said.out.splitlines()[1:]}
    assert lines.keys() == {NAME, "of-another-version"}
    assert "cannot be read: " in lines["of-another-version"]
    assert lines[NAME].endswith("Example <CPU> 9000")
    listed = {study["name"]: study for study in json.loads(cli("list", "--json", "--storage", storage).out)}
    assert listed[NAME]["trials"] == 8
    assert listed["of-another-version"]["trials"] is None
    assert "schema" in listed["of-another-version"]["problem"]


def test_a_database_without_a_study_is_said_to_be_empty(tmp_path: Path, cli: Cli) -> None:
    Records(url_of(tmp_path))
    said = cli("list", "--storage", url_of(tmp_path))
    assert (said.code, said.out.strip()) == (
        0,
        "There is no study in this database yet: paretune launch adds one.",
    )
    assert json.loads(cli("list", "--json", "--storage", url_of(tmp_path)).out) == []


def test_no_database_is_said_and_none_is_made(tmp_path: Path, cli: Cli) -> None:
    assert cli("list", "--storage", url_of(tmp_path)).sentence().startswith("there is no database ")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("typed", "completed"),
    [
        ("paretune report rep", [NAME]),
        ("paretune best x", []),
        ("paretune li", ["list"]),
    ],
)
def test_the_shell_completes_commands_and_studies(
    storage: str, tmp_path: Path, typed: str, completed: list[str]
) -> None:
    words = {"_TYPER_COMPLETE_ARGS": typed, "COMP_WORDS": typed, "COMP_CWORD": str(len(typed.split()) - 1)}
    ran = subprocess.run(
        [sys.executable, "-c", "from paretune.agent.cli import app; app(prog_name='paretune')"],
        cwd=tmp_path,  # where paretune.db lies
        env={**os.environ, "_PARETUNE_COMPLETE": "complete_bash", **words},
        capture_output=True,
        text=True,
    )
    assert ran.stdout.split() == completed, ran.stderr
