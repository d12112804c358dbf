"""Notices when the file of an SQLite database is taken away while it is used, and keeps what was in it.

SQLite goes on with a file that was deleted: everything that is written from then on would be gone without a word.
"""

import itertools
import os
import sqlite3
from contextlib import closing
from pathlib import Path

from sqlalchemy import Engine, text

from ._errors import UserError


class DatabaseFile:
    """The file behind an engine, as it was when this was made."""

    def __init__(self, engine: Engine) -> None:
        with engine.connect() as connection:
            main = connection.execute(text("SELECT file FROM pragma_database_list WHERE name = 'main'")).scalar_one()
        self._engine = engine
        self._path = Path(str(main))
        self._identity = self._now()
        self._kept: str | None = None

    def require(self) -> None:
        """Raise UserError when the file is not there any more, or is another one; what was in it is then kept."""
        if self.is_there():
            return
        if self._kept is None:
            self._kept = self._keep()
        raise UserError(f"the database {self._path} was deleted, moved or replaced while it was in use{self._kept}")

    def is_there(self) -> bool:
        """Whether it is still the file of that name."""
        return self._now() == self._identity

    def _now(self) -> tuple[int, int] | None:
        try:
            found = os.stat(self._path)
        except OSError:
            return None
        return found.st_dev, found.st_ino

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
