"""A launch whose database, disk or files fail: one true sentence, nothing measured is lost."""

import errno
import os
import shutil
import sqlite3
from collections.abc import Callable
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import ClassVar

import optuna
import pytest
from optuna.trial import TrialState
from paretune.agent.measuring import machine_drift, runner
from paretune.agent.search import launch
from paretune.agent.trial import Job, TrialResult, write_json
from paretune.search_space import Configuration
from paretune.studies import Outcome, Records, RunKind, RunRecord, UserError, _database, fault_sentence
from sqlalchemy.exc import OperationalError
from support.launched import Cli
from support.replaying import World, world_in

PRESETS = ["channels_last", "fused_qkv"]


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    return world_in(tmp_path, monkeypatch)


def once(kind: str, what: Callable[[], object]) -> Callable[[Job, str], None]:
    """Do it when the second process of a kind runs."""
    seen = 0

    def before(job: Job, found: str) -> None:
        nonlocal seen
        seen += found == kind
        if found == kind and seen == 2:
            what()

    return before


def failing(world: World) -> str:
    with pytest.raises(UserError) as error:
        world.launch(world.study("a", PRESETS))
    assert "\n" not in str(error.value)
    return str(error.value)


def continue_it(world: World) -> None:
    """The same command again: all is measured, and of the trials none twice."""
    world.before = lambda job, kind: None
    results = world.launch(world.study("a", PRESETS))
    assert len(results.complete) == 3


def trials(world: World) -> list[str]:
    return [configuration for kind, configuration in world.ran if kind == "trial"]


@pytest.mark.parametrize("how", ["deleted", "moved", "replaced"])
def test_a_database_that_is_taken_away_is_noticed_and_what_it_held_is_kept(world: World, how: str) -> None:
    file = world.folder / "paretune.db"

    def take_away() -> None:
        if how == "moved":
            file.rename(world.folder / "elsewhere.db")
        else:
            file.unlink()
        if how == "replaced":
            sqlite3.connect(file).close()
            file.touch()

    world.before = once("trial", take_away)
    said = failing(world)
    rescued = world.folder / "paretune.db.rescued"
    assert said.startswith(f"the database {file} was deleted, moved or replaced while it was in use: all that was ")
    assert str(rescued) in said
    for left in world.folder.glob("paretune.db*"):
        if left != rescued:
            left.unlink()
    # The run that was just measured is in it too.
    rescued.rename(file)
    assert world.measured("a") == 2
    continue_it(world)
    assert len(trials(world)) == 3


def cut_short(file: Path) -> None:
    os.truncate(file, 0)


def written_over(file: Path) -> None:
    file.write_bytes(b"x" * file.stat().st_size)


def without_its_newest_changes(file: Path) -> None:
    file.with_name(f"{file.name}-wal").unlink()


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (cut_short, "was cut short or written over while it was in use"),
        (written_over, "was cut short or written over while it was in use"),
        (without_its_newest_changes, "lost its newest changes"),
    ],
)
def test_a_database_that_is_damaged_under_a_launch_is_noticed_at_once(
    world: World, damage: Callable[[Path], None], words: str
) -> None:
    """SQLite would go on with what it still has in memory and in other files, and the launch would end well."""
    file = world.folder / "paretune.db"
    world.before = once("trial", lambda: damage(file))
    assert failing(world).startswith(f"the database {file} {words}")


def delete_optunas_study(world: World) -> None:
    optuna.delete_study(study_name="a", storage=world.storage)


def end_optunas_trials(world: World) -> None:
    storage = optuna.storages.RDBStorage(world.storage)
    for trial in storage.get_all_trials(storage.get_study_id_from_name("a"), states=(TrialState.RUNNING,)):
        storage.set_trial_state_values(trial._trial_id, TrialState.FAIL)


def delete_our_runs(world: World) -> None:
    with sqlite3.connect(world.folder / "paretune.db") as connection:
        connection.execute("delete from paretune_study_run")
    connection.close()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (delete_optunas_study, "it was deleted from Optuna's tables"),
        (end_optunas_trials, "a trial that was being measured was ended in Optuna's tables"),
        (delete_our_runs, "measurements were deleted from it"),
    ],
)
def test_rows_that_another_program_takes_from_a_launch_are_one_sentence(
    world: World, change: Callable[[World], None], words: str
) -> None:
    world.before = once("trial", lambda: change(world))
    assert failing(world).startswith(f"study a was changed by another program while it was launched ({words})")
    if change is not delete_our_runs:
        continue_it(world)


def test_rows_that_go_before_the_search_are_noticed_at_its_end(world: World) -> None:
    world.before = once("floor", lambda: delete_our_runs(world))
    assert "measurements were deleted from it" in failing(world)


def test_a_database_that_is_taken_away_twice_is_kept_twice(world: World) -> None:
    for name in ("paretune.db.rescued", "paretune.db.rescued-2"):
        world.before = once("trial", (world.folder / "paretune.db").unlink)
        assert f"{world.folder / name};" in failing(world)
        (world.folder / "paretune.db").unlink(missing_ok=True)


def test_a_database_that_stays_locked_is_named_as_the_cause(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_database, "BUSY_S", 0.2)
    holding = []

    def lock() -> None:
        connection = sqlite3.connect(world.folder / "paretune.db", isolation_level=None)
        connection.execute("BEGIN EXCLUSIVE")
        holding.append(connection)

    world.before = once("trial", lock)
    said = failing(world)
    assert "was locked by another program for too long" in said
    assert "nothing that was measured is lost" in said
    holding[0].close()
    continue_it(world)


@pytest.mark.parametrize("pages", [4, 30, 36, 40])
def test_a_full_disk_under_the_database_is_named_as_the_cause(
    world: World, monkeypatch: pytest.MonkeyPatch, pages: int
) -> None:
    """SQLite says the same when a database has as many pages as it may have."""
    patient = _database._patient

    def full(connection: sqlite3.Connection, record: object) -> None:
        patient(connection, record)
        connection.execute(f"PRAGMA max_page_count = {pages}")

    with monkeypatch.context() as disk:
        disk.setattr(_database, "_patient", full)
        said = failing(world)
    assert said.startswith("the disk is full, so the database")
    assert said.endswith(
        "cannot be written: make room, and run the same command again: nothing that was measured is lost"
    )
    known = Records(world.storage).find_study("a") and world.measured("a")
    continue_it(world)
    assert world.measured("a") >= (known or 0)


def test_a_full_disk_under_the_files_is_named_as_the_cause(world: World) -> None:
    def full() -> None:
        raise OSError(errno.ENOSPC, "No space left on device", str(world.folder / "apply.py"))

    world.before = once("trial", full)
    said = failing(world)
    assert said == (
        f"the disk is full ({world.folder / 'apply.py'} could not be written): make room, and run the same command "
        "again: nothing that was measured is lost"
    )
    continue_it(world)


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (
            OSError(errno.ENOSPC, "No space left on device", "from", None, "to"),
            "the disk is full (to could not be written): make room, and run the same command again: nothing that was "
            "measured is lost",
        ),
        (
            OperationalError(
                "INSERT", {"reason": "No space left on device"}, sqlite3.OperationalError("no such table")
            ),
            "the database failed: no such table",
        ),
        (
            OSError(errno.EFBIG, "File too large"),
            "a file may not become as large as it has to: raise the limit (ulimit -f), and run the same command again: "
            "nothing that was measured is lost",
        ),
        (
            OSError(errno.EIO, "Input/output error"),
            "the disk reports an error of its own: look at the system's log, and run the same command again: nothing "
            "that was measured is lost",
        ),
        (
            OSError(errno.EMFILE, "Too many open files"),
            "too many files are open: raise the limit (ulimit -n), and run the same command again: nothing that was "
            "measured is lost",
        ),
        (OSError(errno.EROFS, "Read-only file system", "x"), "x lies on a file system that is read-only"),
        (FileNotFoundError(errno.ENOENT, "No such file", "x"), "x is not there, or no longer"),
        (PermissionError(errno.EACCES, "denied", "x"), "x may not be read or written (permission denied)"),
        (OSError(errno.ENAMETOOLONG, "File name too long", "x"), "x cannot be used (file name too long)"),
        (shutil.Error([("a", "b", "[Errno 13] denied")]), "a could not be copied to b ([Errno 13] denied)"),
        (KeyError("latency_ms"), None),
        (OSError("a mistake of ours"), None),
    ],
)
def test_what_the_machine_does_is_a_sentence_and_mistakes_of_ours_are_none(
    error: Exception, sentence: str | None
) -> None:
    assert fault_sentence(error) == sentence


def test_the_command_line_says_it_without_a_traceback(
    cli: Cli, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def full(self: Records) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    Records(f"sqlite:///{tmp_path}/paretune.db")
    monkeypatch.setattr(Records, "study_names", full)
    said = cli("list", "--storage", f"sqlite:///{tmp_path}/paretune.db").sentence()
    assert said.startswith("the disk is full: make room, ")


def test_nothing_is_compared_with_a_reference_whose_files_were_deleted(world: World) -> None:
    folder = world.folder / "paretune.files" / "a" / "trial-0000"
    world.before = once("trial", lambda: shutil.rmtree(folder))
    said = failing(world)
    assert said.startswith(f"{folder / 'pictures'} was deleted, and the pictures of every configuration are compared ")
    assert world.measured("a") == 2


def test_a_database_that_is_deleted_at_the_very_end_is_noticed(world: World) -> None:
    world.launch(world.study("a", PRESETS))

    def at_the_end(event: object) -> None:
        (world.folder / "paretune.db").unlink(missing_ok=True)

    with pytest.raises(UserError, match="was deleted"):
        launch(world.study("a", PRESETS), storage=world.storage, runner=world, on_event=at_the_end)


class Leaving(World):
    """Its processes leave what they found, as real ones do."""

    def run(self, kind: str, job: Job) -> TrialResult:
        result = super().run(kind, job)
        write_json(Path(job.folder) / "result.json", {"schema": 2, **asdict(result)})
        return result


@pytest.mark.parametrize("changed", [False, True], ids=["as it was", "by another apply.py"])
def test_what_was_measured_and_could_not_be_stored_is_stored_by_the_next_launch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changed: bool
) -> None:
    monkeypatch.setattr(machine_drift, "PAUSES_S", (0.0, 0.0, 0.0))
    world = Leaving(tmp_path)
    add_run = Records.add_run

    def fails(self: Records, run: RunRecord) -> RunRecord:
        if run.kind == RunKind.TRIAL:
            raise UserError("the database was locked")
        return add_run(self, run)

    with monkeypatch.context() as database:
        database.setattr(Records, "add_run", fails)
        assert failing(world) == "the database was locked"
    assert (trials(world), world.measured("a")) == (["reference", "channels_last"], 1)
    folder = tmp_path / "paretune.files" / "a" / "trial-0001"
    made_at = datetime.fromtimestamp((folder / "result.json").stat().st_mtime // 1, UTC)
    if changed:
        (folder / "apply.py").write_text("")
    continue_it(world)
    again = ["channels_last"] if changed else []
    assert sorted(trials(world)) == sorted(["reference", "channels_last", "fused_qkv", *again])
    if not changed:
        (run,) = [one.run for one in Records(world.storage).runs("a") if (one.run.kind, one.trial) == ("trial", 1)]
        assert (run.configuration, run.folder) == (Configuration.of({"channels_last": {}}).to_dict(), str(folder))
        assert datetime.fromisoformat(run.finished_at) == made_at


def test_a_folder_that_is_deleted_under_a_process_is_no_failure_of_its_configuration(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Deleting:
        fingerprint = None
        interfaces: ClassVar[dict[str, object]] = {}

        def __init__(self, *_: object) -> None:
            pass

        def run(self, job: Job) -> TrialResult:
            shutil.rmtree(job.folder)
            return TrialResult(outcome=Outcome.CRASH, reason="load: the process ended with exit code 1")

    monkeypatch.setattr(runner, "Executor", Deleting)
    job = Job(
        folder=str(tmp_path / "trial-0001"),
        device="cpu",
        configuration={},
        apply_py="",
        workload={"requests": []},
        plan={},
        reference_pictures=None,
        quality_assessed=False,
        technique_files=[],
        import_s=0.0,
    )
    with pytest.raises(UserError, match="trial-0001 was deleted while a process was running in it"):
        runner.LocalRunner("cpu", {"requests": [], "pipelines": {}}, {}).submit(RunKind.TRIAL, job)
