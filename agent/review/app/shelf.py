"""The studies of one database as pages see them: read once, taken up again when something was measured."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field

from ....studies import DEFAULT_STORAGE, Records, UserError, without_secrets
from ...results import Results

FRESH_S = 1.0
"""The database is asked for new runs at most so often."""


@dataclass
class _Open:
    lock: threading.RLock = field(default_factory=threading.RLock)
    results: Results | None = None
    read_at: float = 0.0


class Shelf:
    """Every study of the database, by name. What a study's results are asked for is worked out under its lock."""

    def __init__(self, records: Records) -> None:
        self._records = records
        self._lock = threading.Lock()
        self._studies: dict[str, _Open] = {}

    @property
    def records(self) -> Records:
        """The database as it is now. Raises UserError where its file is gone: what was read of it may be old.

        A file that was put in its place is read instead.
        """
        with self._lock:
            if not self._records.is_current():
                self._records = Records(self._records.url, must_exist=True)
                self._studies.clear()
            return self._records

    def names(self) -> list[str]:
        """Of every study, oldest first."""
        return self.records.study_names()

    def read_all(self) -> None:
        """Read every study in the background, so that the first visitor does not wait for it."""

        def read() -> None:
            with suppress(UserError):
                for name in self.names():
                    with suppress(UserError), self.open(name):
                        pass

        threading.Thread(target=read, name="read studies", daemon=True).start()

    @contextmanager
    def open(self, name: str) -> Iterator[Results]:
        """A study's results, for this thread alone as long as it is open. Raises UserError when it cannot be read."""
        records = self.records
        with self._lock:
            known = self._studies.setdefault(name, _Open())
        with known.lock:
            if known.results is None:
                try:
                    known.results = Results(records, name)
                except UserError:
                    with self._lock:
                        self._studies.pop(name, None)  # names that do not exist are not kept
                    raise
                known.read_at = time.monotonic()
            elif time.monotonic() - known.read_at >= FRESH_S:
                known.results.refresh()
                known.read_at = time.monotonic()
            yield known.results


def storage_words(shelf: Shelf) -> list[str]:
    """What a command needs to find the same database; without its password."""
    url = shelf.records.url
    return [] if url == DEFAULT_STORAGE else ["--storage", without_secrets(url)]
