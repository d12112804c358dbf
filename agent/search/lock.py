"""The lock that keeps a second launcher out of a study."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ...studies import UserError


@contextmanager
def only_launcher(folder: Path, name: str, doing: str = "launched") -> Iterator[None]:
    """Hold the study's lock, which the system releases however this process ends. Raises UserError when it is held.

    doing: what is being done with the study, for whoever comes second.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"the folder {folder} cannot be created ({error.strerror}): choose another --storage") from None
    with (folder / "launch.lock").open("a+") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.seek(0)
            raise UserError(f"study {name} is being {lock.read().strip()} already") from None
        lock.truncate(0)
        lock.write(f"{doing} by process {os.getpid()}")
        lock.flush()
        yield
