"""Runs are only ever added: the database itself refuses anything else, from the launch to the export."""

import sqlite3
from pathlib import Path

import pytest
from paretune.agent.bundle import export
from paretune.agent.results import Results
from paretune.agent.search import rejudge
from paretune.agent.trial import Job
from paretune.studies import Records
from support.append_only import TABLES, forbid_changes
from support.replaying import World, drawing, world_in

PRESETS = ["channels_last", "fused_qkv"]
KEYS = {
    "measurement": {"floor_processes": 3, "canary_every": 1},
    "quality": {"pictures": {"screen": 3, "front": 4, "finalists": 5}, "reordering_floor": True},
    "finalists": {"count": 2, "blocks": 3, "calls": 1, "cold_starts": 0},
}


def stored(world: World) -> dict[str, list[tuple[object, ...]]]:
    """Every row of the tables, in order."""
    with sqlite3.connect(world.folder / "paretune.db") as connection:
        return {table: connection.execute(f"SELECT * FROM {table} ORDER BY id").fetchall() for table in TABLES}


def test_the_database_would_notice(tmp_path: Path) -> None:
    forbid_changes(tmp_path / "paretune.db")
    with sqlite3.connect(tmp_path / "paretune.db") as connection:
        connection.execute("INSERT INTO paretune_rating VALUES (1, 3, 's', 0, 'p', 'same', 'Ann', 'now')")
        with pytest.raises(sqlite3.IntegrityError, match="UPDATE of paretune_rating"):
            connection.execute("UPDATE paretune_rating SET rating = 'worse'")


def test_no_run_is_changed_or_deleted_from_launch_to_export(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    world = world_in(tmp_path, monkeypatch)
    forbid_changes(tmp_path / "paretune.db")
    world.latency_ms = {"channels_last": 800.0, "fused_qkv": 700.0}
    world.memory_gib = {"channels_last": 1.0}
    study = world.study("a", PRESETS, **KEYS)

    def interrupt(job: Job, kind: str) -> None:
        if kind == "block" and len(world.ran) > 20:
            world.before = lambda job, kind: None
            raise KeyboardInterrupt

    world.before = interrupt
    with pytest.raises(KeyboardInterrupt):
        world.launch(study)
    before = stored(world)
    world.launch(study)
    world.launch(world.study("b", PRESETS, **KEYS))
    for picture in (tmp_path / "paretune.files").glob("*/trial-*/pictures/*.png"):
        drawing().save(picture)
    records = Records(world.storage)
    rejudge(records, "a", [])
    records.rate("a", 1, "cat-0.png", "worse", "Ann")
    records.rate("a", 1, "cat-0.png", "same", "Ann")
    results = Results(records, "a")
    export(results, results.best(), tmp_path / "bundle")
    after = stored(world)
    assert all(after[table][: len(rows)] == rows for table, rows in before.items())
    assert all(len(after[table]) > len(rows) for table, rows in before.items())
