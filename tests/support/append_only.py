"""A database that refuses to change or delete what was measured."""

import sqlite3
from pathlib import Path

from paretune.studies import Records

TABLES = ("paretune_run", "paretune_study_run", "paretune_rating")


def forbid_changes(file: Path) -> None:
    """Make the tables of a new SQLite file, and let any UPDATE or DELETE of a run fail, in whatever process."""
    Records(f"sqlite:///{file}")
    with sqlite3.connect(file) as connection:
        for table in TABLES:
            for change in ("UPDATE", "DELETE"):
                connection.execute(
                    f"CREATE TRIGGER no_{change}_of_{table} BEFORE {change} ON {table} "
                    f"BEGIN SELECT RAISE(ABORT, '{change} of {table}'); END"
                )
