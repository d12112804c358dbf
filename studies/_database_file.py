"""Notices when the file of an SQLite database is taken away while it is used, and keeps what was in it.

SQLite goes on with a file that was deleted or cut short, and when the newest changes ("-wal") beside it are deleted:
all that is written from then on would be gone without a word.
"""

import itertools
import os
import sqlite3
import time
from contextlib import closing
from pathlib import Path

from sqlalchemy import Engine, text

from ._errors import UserError

MAGIC = b"SQLite format 3\0"
LOOKS, LOOK_AGAIN_S = 5, 0.2


class DatabaseFile:
    """The file behind an engine, as it was when this was made."""

    def __init__(self, engine: Engine) -> None:
        with engine.connect() as connection:
            main = connection.execute(text("SELECT file FROM pragma_database_list WHERE name = 'main'")).scalar_one()
        self._engine = engine
        self._path = Path(str(main))
        self._identity = _identity(self._path)
        self._changes: tuple[int, int] | None = None
        self._kept: str | None = None

    def require(self) -> None:
        """Raise UserError when the file is not there any more, or is another one; what was in it is then kept."""
        if (what := self._what_happened()) is None:
            return
        if self._kept is None:
            self._kept = self._keep()
        raise UserError(f"the database {self._path} {what} while it was in use{self._kept}")

    def is_there(self) -> bool:
        """Whether it is still the file of that name."""
        return _identity(self._path) == self._identity

    def _what_happened(self) -> str | None:
        if not self.is_there():
            return "was deleted, moved or replaced"
        if _is_damaged(self._path):
            return "was cut short or written over"
        # One file as long as any connection is open, and the engine keeps one.
        changes = _identity(self._path.with_name(f"{self._path.name}-wal"))
        if self._changes not in (None, changes):
            return "lost its newest changes, because the file ending in -wal beside it was deleted or replaced,"
        self._changes = changes
        return None

    def _keep(self) -> str:
        """Copy what the open connection still has to a file beside it; the rest of the sentence."""
        rescued = self._path.with_name(f"{self._path.name}.rescued")
        for number in itertools.count(2):
            if not rescued.exists():
                break
            rescued = rescued.with_name(f"{self._path.name}.rescued-{number}")
        try:
            rescued.parent.mkdir(parents=True, exist_ok=True)
            with (
                closing(self._engine.raw_connection()) as connection,
                closing(sqlite3.connect(rescued)) as kept,
            ):
                # Not so on a new connection, which would make a new and empty database.
                connection.cursor().execute("SELECT count(*) FROM paretune_run").fetchone()
                connection.driver_connection.backup(kept)  # type: ignore[union-attr]
        except (OSError, sqlite3.Error) as error:
            rescued.unlink(missing_ok=True)
            return f", and what was in it could not be kept ({str(error).strip()})"
        return (
            f": all that was measured is kept in {rescued}; give that its name back, and run the same command again "
            "to continue"
        )


def _identity(file: Path) -> tuple[int, int] | None:
    try:
        found = os.stat(file)
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _is_damaged(file: Path) -> bool:
    """Whether it begins with something else, or has fewer pages than its first one says."""
    for _ in range(LOOKS):
        with file.open("rb") as opened:
            first = opened.read(32)
            size = os.fstat(opened.fileno()).st_size
        page_size = int.from_bytes(first[16:18], "big")
        told = (65536 if page_size == 1 else page_size) * int.from_bytes(first[28:32], "big")
        if first.startswith(MAGIC) and size >= told:
            return False
        time.sleep(LOOK_AGAIN_S)  # another connection may be bringing it up to date, beginning with the first page
    return True
