"""A study in a PostgreSQL database: launched, killed, continued, read. Skipped where no server is installed."""

import os
import shutil
import signal
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy
from paretune.studies import Records, RunKind
from support.launching import command, processes, run_cli, tiny_study, wait_until, write_study

PASSWORD = "s3cret"


def _program(name: str) -> str | None:
    versions = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"))
    return shutil.which(name) or (str(versions[-1]) if versions else None)


@pytest.fixture(scope="module")
def database() -> Iterator[str]:
    """The URL of an empty database, on a server that ends with this module."""
    pytest.importorskip("psycopg")
    initdb, postgres = _program("initdb"), _program("postgres")
    if initdb is None or postgres is None:
        pytest.skip("PostgreSQL is not installed")
    # The server refuses to run as root; pytest's own folders are nobody else's to enter.
    user = "nobody" if os.geteuid() == 0 else None
    folder = Path(tempfile.mkdtemp())
    secret = folder / "password"
    secret.write_text(PASSWORD)
    if user is not None:
        shutil.chown(folder, user)
        shutil.chown(secret, user)
    data = folder / "data"
    options = ["-U", "ann", "-A", "scram-sha-256", f"--pwfile={secret}", "--no-sync", "-E", "UTF8"]
    subprocess.run([initdb, "-D", str(data), *options], check=True, capture_output=True, cwd=folder, user=user)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    settings = ["-h", "127.0.0.1", "-p", str(port), "-k", str(folder), "-c", "fsync=off"]
    with subprocess.Popen(
        [postgres, "-D", str(data), *settings], cwd=folder, user=user, stderr=subprocess.DEVNULL
    ) as server:
        url = f"postgresql+psycopg://ann:{PASSWORD}@127.0.0.1:{port}/postgres"
        try:
            wait_until(lambda: _answers(url), 30, "the server does not answer")
            yield url.replace("+psycopg", "")
        finally:
            server.send_signal(signal.SIGINT)  # ends it without waiting for its clients
            server.wait(timeout=30)
            shutil.rmtree(folder)


def _answers(url: str) -> bool:
    engine = sqlalchemy.create_engine(url)
    try:
        engine.connect().close()
    except sqlalchemy.exc.OperationalError:
        return False
    finally:
        engine.dispose()
    return True


@pytest.mark.slow
def test_a_killed_launch_is_continued_and_read(database: str, tiny_model: Path, tmp_path: Path) -> None:
    write_study(tmp_path / "tiny.yaml", tiny_study(tiny_model))
    launch = ("launch", "tiny.yaml", "--storage", database, "--trials")

    records = Records(database)

    def measured() -> list[int]:
        return [one.trial for one in records.runs("tiny") if one.run.kind == RunKind.TRIAL]

    with subprocess.Popen(
        command(*launch, "4"), cwd=tmp_path, env={**os.environ, "PARETUNE_TEST_MARK": "pg"}, stdout=subprocess.DEVNULL
    ) as launcher:
        wait_until(lambda: len(measured()) >= 2, 90, "no trial was measured")
        launcher.kill()
    wait_until(lambda: not processes("pg"), 30, "processes are left over")
    before = measured()
    continued = run_cli(*launch, "4", cwd=tmp_path)
    assert continued.returncode == 0, continued.stderr
    assert len(measured()) == 4
    assert measured()[: len(before)] == before, "what was measured before stays as it was"
    for arguments in (
        ("best", "tiny", "--all"),
        ("report", "tiny", "-o", "report"),
        ("export", "tiny", "-o", "bundle"),
    ):
        said = run_cli(*arguments, "--storage", database, cwd=tmp_path)
        assert said.returncode == 0, said.stderr
        assert PASSWORD not in said.stdout + said.stderr
    written = [
        file for file in tmp_path.rglob("*") if file.is_file() and file.suffix in (".html", ".md", ".yaml", ".json")
    ]
    assert written
    assert not [file for file in written if PASSWORD in file.read_text()]


@pytest.mark.slow
def test_one_new_study_launched_from_two_folders_is_measured_once(
    database: str, tiny_model: Path, tmp_path: Path
) -> None:
    folders = [tmp_path / "one", tmp_path / "two"]
    for folder in folders:
        write_study(folder / "twice.yaml", tiny_study(tiny_model, name="twice"))
    launch = ("launch", "twice.yaml", "--storage", database, "--trials", "1")
    with subprocess.Popen(command(*launch), cwd=folders[0], stdout=subprocess.DEVNULL) as first:
        records = Records(database)
        with records.engine.connect() as connection:
            query = sqlalchemy.text("select pid from paretune_launch where study = 'twice'")

            def holder() -> int | None:
                connection.rollback()
                return connection.execute(query).scalar()

            wait_until(lambda: holder() is not None, 60, "the first one does not begin")
            assert holder() == first.pid
        second = run_cli(*launch, cwd=folders[1])
        assert second.returncode == 2
        assert second.stderr == f"error: study twice is being launched by process {first.pid} already\n"
        assert first.wait(timeout=180) == 0
    measured = [one.trial for one in records.runs("twice") if one.run.kind == RunKind.TRIAL]
    assert measured == [0]
    assert not list(folders[1].glob("paretune.files/*"))
    # Afterwards it is continued from the other folder, with the files where they are.
    continued = run_cli(*launch[:-1], "2", cwd=folders[1])
    assert continued.returncode == 0, continued.stderr
    assert len([one for one in records.runs("twice") if one.run.kind == RunKind.TRIAL]) == 2
    assert records.study("twice").files.startswith(str(folders[0]))


def test_a_wrong_password_is_one_sentence_that_does_not_tell_the_right_one(database: str, tmp_path: Path) -> None:
    said = run_cli("best", "tiny", "--storage", database.replace(PASSWORD, "wr0ng"), cwd=tmp_path)
    assert said.returncode == 2
    assert len(said.stderr.strip().splitlines()) == 1
    assert "authentication failed" in said.stderr
    assert "wr0ng" not in said.stderr
