"""A process's log: kept short on disk while it is written, and read from its end."""

import os
from pathlib import Path

from ...studies import without_secrets

MOST_BYTES = 16 * 2**20
"""What a log may grow to before its middle is left out."""
KEPT_BYTES = 2**20
"""What then stays of its beginning, and of its end."""


TRIES = 5
"""How often the end is read anew because more was written meanwhile: a process's last words should be in it."""


class LimitedLog:
    """A file that a process appends to (O_APPEND), however much it has to say."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._left_out = 0
        self._note = b""

    def limit(self) -> None:
        """Leave out the middle of a log that has grown too long, and say there how much that was.

        Called several times a second. What a process writes at the very moment of cutting may be lost.
        """
        try:
            log = os.open(self._file, os.O_RDWR | os.O_APPEND)
        except FileNotFoundError:
            return
        try:
            size = os.fstat(log).st_size
            if size <= MOST_BYTES:
                return
            for _ in range(TRIES):
                end = os.pread(log, KEPT_BYTES, size - KEPT_BYTES)
                before, size = size, os.fstat(log).st_size
                if before == size:
                    break
            self._left_out += size - 2 * KEPT_BYTES - len(self._note)
            self._note = f"\n[... {self._left_out / 2**20:.1f} MiB of output are left out here ...]\n".encode()
            os.ftruncate(log, KEPT_BYTES)
            os.write(log, self._note + end)
        finally:
            os.close(log)


def hide_secrets(file: Path) -> None:
    """Star out what a process printed that must not be kept."""
    if file.is_file():
        said = file.read_text(errors="replace")
        if (hidden := without_secrets(said)) != said:
            file.write_text(hidden)


def tail_of(file: Path, characters: int) -> str:
    """The end of a log, at least so many characters where it has them; "" when there is none."""
    if not file.is_file():
        return ""
    with file.open("rb") as log:
        log.seek(max(0, os.fstat(log.fileno()).st_size - 4 * characters))  # UTF-8 takes 4 bytes a character at most
        return log.read(4 * characters).decode(errors="replace")
