"""Writing files whole or not at all."""

import contextlib
import fcntl
import glob
import json
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


def write_text(path: Path, text: str) -> None:
    """Write a file so that a reader, or a crash, never sees half of it."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with temporary.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)  # on a full disk, half a file takes the room that is left
        raise


def write_json(path: Path, data: Any) -> None:
    """Write JSON whole or not at all. Raises ValueError for NaN and infinity, which JSON does not have."""
    write_text(path, json.dumps(data, indent=1, ensure_ascii=False, allow_nan=False) + "\n")


@contextmanager
def whole_folder(path: Path) -> Iterator[Path]:
    """A temporary folder beside `path` that takes its place when the block ends well. Those of processes that were
    killed are removed.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    prefix = f".{path.name}.draft-"
    for left in path.parent.glob(f"{glob.escape(prefix)}{'?' * 8}"):
        if not left.with_name(f"{left.name}.former").exists():
            _remove_unused(left)
    temporary = Path(tempfile.mkdtemp(prefix=prefix, dir=path.parent))
    lock = os.open(temporary, os.O_RDONLY | os.O_CLOEXEC)
    with contextlib.suppress(OSError):  # a file system without locks: its drafts stay
        fcntl.flock(lock, fcntl.LOCK_EX)
    try:
        yield temporary
        temporary.chmod(0o755)
        former = temporary.with_name(f"{temporary.name}.former")
        if path.exists():
            path.replace(former)  # moved aside, not deleted: a crash between the two steps loses neither
        temporary.replace(path)
        shutil.rmtree(former, ignore_errors=True)
    finally:
        os.close(lock)
        shutil.rmtree(temporary, ignore_errors=True)


def _remove_unused(draft: Path) -> None:
    """Remove a draft that no process holds. One that was made just now may not be held yet."""
    try:
        if time.time() - draft.stat().st_mtime < 60:
            return
        lock = os.open(draft, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        shutil.rmtree(draft, ignore_errors=True)
    except OSError:  # in use
        pass
    finally:
        os.close(lock)
