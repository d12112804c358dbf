"""A database that may only be read: it can be, and reading one that may be written to changes nothing."""

import hashlib
import json
import os
import shutil
import sqlite3
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from paretune.agent.review.optuna_storage import ReportedStorage
from paretune.studies import Records, UserError, optuna_storage
from support.launched import Cli
from support.replayed import NAME, ask_optuna, replay, url_of

READING = (("best", NAME), ("best", NAME, "--all", "--json"), ("list",), ("report", NAME, "--json"))
NOBODY = 65534


@pytest.fixture(scope="module")
def replayed() -> Iterator[Path]:
    """In a folder that everybody may enter; pytest's own are nobody else's."""
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o755)
    replay(folder)
    ask_optuna(folder)
    with sqlite3.connect(folder / "paretune.db") as connection:
        connection.execute("pragma wal_checkpoint(truncate)")
    connection.close()
    yield folder / "paretune.db"
    shutil.rmtree(folder)


@pytest.fixture
def folder() -> Iterator[Path]:
    made = Path(tempfile.mkdtemp())
    made.chmod(0o755)
    yield made
    made.chmod(0o755)
    shutil.rmtree(made)


@contextmanager
def no_rights_to_write(folder: Path) -> Iterator[None]:
    """As a user who may read what lies in a folder."""
    for file in folder.iterdir():
        file.chmod(0o444)
    folder.chmod(0o555)
    with as_nobody():
        yield


@contextmanager
def as_nobody() -> Iterator[None]:
    """As a user for whom permissions count."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(0)


def content(folder: Path) -> dict[str, str]:
    """Without the files that SQLite keeps beside an open database."""
    return {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in folder.glob("*.db")}


def test_without_the_right_to_write_everything_can_be_read(replayed: Path, folder: Path, cli: Cli) -> None:
    shutil.copy(replayed, folder)
    before = content(folder)
    with no_rights_to_write(folder):
        for command in READING:
            said = cli(*command, "--storage", url_of(folder))
            assert said.code == 0, said.err
        assert {row["study"] for row in json.loads(cli(*READING[1], "--storage", url_of(folder)).out)} == {NAME}
    assert content(folder) == before


def test_beside_a_running_launch_too(replayed: Path, folder: Path, cli: Cli) -> None:
    """Its newest changes are in the files beside the database, which it has made."""
    shutil.copy(replayed, folder)
    writing = sqlite3.connect(folder / "paretune.db")
    writing.execute("pragma journal_mode=wal")
    writing.execute("update paretune_study set created_at = '2026-06-01T00:00:00+00:00'")
    writing.commit()
    assert (folder / "paretune.db-wal").stat().st_size > 0
    with no_rights_to_write(folder):
        said = cli("list", "--storage", url_of(folder))
        assert said.code == 0, said.err
        assert "2026-06-01" in said.out
    # What it leaves behind when it is killed and its third file is lost cannot be read there.
    folder.chmod(0o755)
    kept = {name: (folder / name).read_bytes() for name in ("paretune.db", "paretune.db-wal")}
    writing.close()
    for name, content_ in kept.items():
        (folder / name).unlink(missing_ok=True)
        (folder / name).write_bytes(content_)
    (folder / "paretune.db-shm").unlink(missing_ok=True)
    with no_rights_to_write(folder):
        sentence = cli("list", "--storage", url_of(folder)).sentence()
    assert "its newest changes are in paretune.db-wal; copy both to a folder of your own" in sentence


def test_what_writes_says_that_it_cannot(replayed: Path, folder: Path, cli: Cli) -> None:
    shutil.copy(replayed, folder)
    before = content(folder)
    with no_rights_to_write(folder):
        for command in (("rate", NAME, "2", "cat-0.png", "same", "--by", "Ann"), ("launch", "quickstart")):
            sentence = cli(*command, "--storage", url_of(folder)).sentence()
            assert "read-only" in sentence or "readonly" in sentence or "unable to open" in sentence
    assert content(folder) == before


@pytest.mark.parametrize("journal", ["delete", "wal"])
def test_reading_writes_nothing(journal: str, replayed: Path, tmp_path: Path, cli: Cli) -> None:
    shutil.copy(replayed, tmp_path)
    with sqlite3.connect(tmp_path / "paretune.db") as connection:
        connection.execute("drop table paretune_launch")
        connection.execute(f"pragma journal_mode={journal}")
    connection.close()
    before = content(tmp_path)
    for command in READING:
        assert cli(*command, "--storage", url_of(tmp_path)).code == 0
    assert content(tmp_path) == before


def test_a_uri_that_asks_for_reading_only(replayed: Path, tmp_path: Path, cli: Cli) -> None:
    shutil.copy(replayed, tmp_path)
    for command in READING:
        said = cli(*command, "--storage", f"sqlite:///file:{tmp_path}/paretune.db?mode=ro&uri=true")
        assert said.code == 0, said.err
    sentence = cli("launch", "quickstart", "--storage", f"sqlite:///file:{tmp_path}/new.db?mode=ro&uri=true").sentence()
    assert "unable to open" in sentence


def test_a_database_of_other_programs_gets_no_tables(tmp_path: Path, cli: Cli) -> None:
    with sqlite3.connect(tmp_path / "theirs.db") as connection:
        connection.execute("create table theirs (a text)")
    connection.close()
    before = content(tmp_path)
    for command in READING:
        sentence = cli(*command, "--storage", f"sqlite:///{tmp_path}/theirs.db").sentence()
        assert "has no study of paretune: paretune launch adds one" in sentence
    assert content(tmp_path) == before


def test_the_dashboard_shows_it_and_refuses_notes(replayed: Path, folder: Path) -> None:
    bottle = pytest.importorskip("bottle")
    shutil.copy(replayed, folder)
    before = content(folder)
    with no_rights_to_write(folder):
        records = Records(url_of(folder), must_exist=True)
        reported = ReportedStorage(records, optuna_storage(records.reading_url, read_only=True))
        study_id = reported.id_of(NAME)
        assert len(reported.get_all_trials(study_id)) == 8
        with pytest.raises(bottle.HTTPError) as refused:
            reported.set_study_system_attr(study_id, "dashboard:note_str:0", "mine")
        assert refused.value.status_code == 403
    assert content(folder) == before


@pytest.mark.parametrize("closed", ["files", f"files/{NAME}", f"files/{NAME}/trial-0002/pictures"])
def test_a_files_folder_that_may_not_be_entered(closed: str, folder: Path, cli: Cli) -> None:
    """Report and dashboard leave the pictures out, and whatever needs them says in a sentence what may not be read."""
    bottle = pytest.importorskip("bottle")
    replay(folder)
    ask_optuna(folder)
    url = url_of(folder)
    if os.geteuid() == 0:
        for each in folder.rglob("*"):
            shutil.chown(each, NOBODY)
        shutil.chown(folder, NOBODY)
    (folder / closed).chmod(0)
    with as_nobody():
        assert cli("report", NAME, "-o", str(folder / "report"), "--storage", url).code == 0
        records = Records(url, must_exist=True)
        reported = ReportedStorage(records, optuna_storage(records.reading_url, read_only=True))
        study_id = reported.id_of(NAME)
        assert len(reported.get_all_trials(study_id)) == 8
        with pytest.raises(bottle.HTTPError) as refused:
            reported.open_reader(f"{study_id:x}-2")
        assert refused.value.status_code == 404
        for command in (("export", NAME, "--trial", "2", "-o", str(folder / "bundle")), ("judge", NAME)):
            assert "permission denied" in (said := cli(*command, "--storage", url).sentence()) or "not be read" in said
    (folder / closed).chmod(0o755)


def test_it_can_be_reviewed_and_neither_rated_nor_chosen_from(replayed: Path, folder: Path) -> None:
    shutil.copy(replayed, folder)
    before = content(folder)
    with no_rights_to_write(folder):
        records = Records(url_of(folder), must_exist=True)
        assert records.choices(NAME) == []
        assert records.silent_s(NAME) is None
        with pytest.raises(UserError, match="readonly"):
            records.rate(NAME, 2, "cat-0.png", "same", "Bo")
        with pytest.raises(UserError, match="readonly"):
            records.choose(NAME, 2, "", "Bo")
    assert content(folder) == before


def test_without_optunas_tables_the_dashboard_says_so(tmp_path: Path) -> None:
    replay(tmp_path)
    records = Records(url_of(tmp_path), must_exist=True)
    with pytest.raises(UserError, match="Optuna"):
        optuna_storage(records.reading_url, read_only=True)
