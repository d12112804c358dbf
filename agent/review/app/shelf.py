"""The studies of one database as pages see them: read once, taken up again when something was measured."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field

from ....studies import Records, UserError
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
        self.records = records
        self._lock = threading.Lock()
        self._studies: dict[str, _Open] = {}

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
        with self._lock:
            known = self._studies.setdefault(name, _Open())
        with known.lock:
            if known.results is None:
                try:
                    known.results = Results(self.records, name)
                except UserError:
                    with self._lock:
                        self._studies.pop(name, None)  # names that do not exist are not kept
                    raise
                known.read_at = time.monotonic()
            elif time.monotonic() - known.read_at >= FRESH_S:
                known.results.refresh()
                known.read_at = time.monotonic()
            yield known.results
