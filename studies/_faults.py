"""Failures of the machine, not of the program: a full disk, a locked database, files that are gone, in one sentence."""

import errno
import shutil

from sqlalchemy.exc import DBAPIError

from ..objectives.memory_shortage import causes
from ._secrets import without_secrets

AGAIN = "and run the same command again: nothing that was measured is lost"
NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
NO_ROOM_WORDS = ("no space left on device", "disk quota exceeded", "database or disk is full", "file too large")
_WORDS = {
    errno.EROFS: "lies on a file system that is read-only",
    errno.EACCES: "may not be read or written (permission denied)",
    errno.EPERM: "may not be changed (operation not permitted)",
    errno.ENOENT: "is not there, or no longer",
    errno.ENOTDIR: "is not there: a part of its path is no folder",
}
_OF_NO_FILE = {
    errno.EIO: f"the disk reports an error of its own: look at the system's log, {AGAIN}",
    errno.ESTALE: f"a file is gone from its network file system: see that it is mounted, {AGAIN}",
    errno.EMFILE: f"too many files are open: raise the limit (ulimit -n), {AGAIN}",
    errno.ENFILE: f"too many files are open on this machine: end other programs, {AGAIN}",
}
"""Where the system does not say which file it is: an error while one is written to."""


def fault_sentence(error: BaseException) -> str | None:
    """What a user can do about a failure that the machine has caused; None for any other."""
    for cause in causes(error):
        if isinstance(cause, DBAPIError):
            return database_fault(cause)
        if is_no_room(cause):
            # The second name of two is what was copied to.
            where = (cause.filename2 or cause.filename) if isinstance(cause, OSError) else None
            if isinstance(cause, OSError) and cause.errno == errno.EFBIG:
                return f"{where or 'a file'} may not become as large as it has to: raise the limit (ulimit -f), {AGAIN}"
            return f"the disk is full{'' if where is None else f' ({where} could not be written)'}: make room, {AGAIN}"
        if isinstance(cause, shutil.Error):
            source, target, why = cause.args[0][0]
            return f"{source} could not be copied to {target} ({why})"
        if isinstance(cause, OSError) and cause.errno in _OF_NO_FILE:
            return _OF_NO_FILE[cause.errno]
        if isinstance(cause, OSError) and cause.filename is not None:
            words = _WORDS.get(cause.errno or 0, f"cannot be used ({(cause.strerror or str(cause)).lower()})")
            return f"{cause.filename} {words}"
    return None


def database_fault(error: BaseException, url: str | None = None, failed: str = "failed") -> str:
    """The same for an error of the database; `url` as it may be shown, `failed` for what has no words of its own."""
    database = "the database" if url is None else f"the database {url}"
    said = first_line(error)
    if is_no_room(error):
        return f"the disk is full, so {database} cannot be written: make room, {AGAIN}"
    if "locked" in said:
        return f"{database} was locked by another program for too long ({said}): end that program, {AGAIN}"
    return f"{database} {failed}: {said}"


def is_no_room(error: BaseException) -> bool:
    """Whether this exception, not one that it came from, says that a disk is full."""
    if isinstance(error, OSError) and error.errno in NO_ROOM:
        return True
    said = str(getattr(error, "orig", None) or error).lower()  # without the values of an error of the database
    return any(words in said for words in NO_ROOM_WORDS)


def first_line(error: BaseException) -> str:
    """The first line of what a database driver says."""
    original = getattr(error, "orig", None) or error
    lines = without_secrets(str(original)).strip().splitlines()
    return lines[0].rstrip(".") if lines else type(original).__name__
