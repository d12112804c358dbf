"""A process's log: kept short on disk while it is written, and read from its end."""

import ctypes
import os
from contextlib import suppress
from pathlib import Path

from ...studies import without_secrets

MOST_BYTES = 16 * 2**20
"""What a log may grow to before its middle is left out."""
KEPT_BYTES = 2**20
"""What then stays of its beginning, and of its end."""
KEEP_SIZE_AND_PUNCH_HOLE = 0x01 | 0x02
"""FALLOC_FL_KEEP_SIZE | FALLOC_FL_PUNCH_HOLE of fallocate(2)."""


class LimitedLog:
    """A file that a process appends to (O_APPEND), however much it has to say."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._given_back = KEPT_BYTES
        self._left_out = 0
        self._note = b""

    def limit(self) -> None:
        """Give the disk back what stands between the beginning and the end of a log that has grown too long.

        Called several times a second while a process writes: nothing that it writes meanwhile is lost, since the file
        is not cut but gets a hole. Where the file system has none (NFS before 4.2), it is cut as by `finish`, and what
        is written at the very moment of cutting is lost.
        """
        with suppress(FileNotFoundError), self._file.open("r+b") as log:
            size = os.fstat(log.fileno()).st_size
            if size - self._given_back <= MOST_BYTES - KEPT_BYTES:
                return
            if _punch_hole(log.fileno(), KEPT_BYTES, size - 2 * KEPT_BYTES):
                self._given_back = size - KEPT_BYTES
            else:
                self.finish()

    def finish(self) -> None:
        """Once nothing writes to it any more: leave out the middle of a log that is too long, and say how much."""
        with suppress(FileNotFoundError), self._file.open("r+b") as log:
            size = os.fstat(log.fileno()).st_size
            if size <= MOST_BYTES:
                return
            end = os.pread(log.fileno(), KEPT_BYTES, size - KEPT_BYTES)
            self._left_out += size - 2 * KEPT_BYTES - len(self._note)
            self._note = f"\n[... {self._left_out / 2**20:.1f} MiB of output are left out here ...]\n".encode()
            log.truncate(KEPT_BYTES)
            log.seek(KEPT_BYTES)
            log.write(self._note + end)
            self._given_back = KEPT_BYTES


def _punch_hole(file: int, start: int, count: int) -> bool:
    """Whether the file system could forget these bytes of a file without changing where the others stand."""
    fallocate = getattr(ctypes.CDLL(None), "fallocate64", None)
    if fallocate is None:
        return False
    fallocate.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64)
    return bool(fallocate(file, KEEP_SIZE_AND_PUNCH_HOLE, start, count) == 0)


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
