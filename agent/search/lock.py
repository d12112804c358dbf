"""The lock that keeps a second launcher out of a study: a row in the database, which both see wherever they run.

Whoever holds it renews it every few seconds. The row of a launcher that was killed is taken over: at once where its
process can be seen to be gone, else when it has been silent for a minute.
"""

import os
import platform
import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil

from ...studies import LaunchRecord, Records, UserError

BEAT_S = 5.0
DEAD_AFTER_S = 60.0

_held: set[str] = set()
"""The tokens of this process's own locks: a row with its number and another token is what was left of an earlier one,
in a database that was taken away and brought back.
"""


class Lock:
    """One launcher's hold on a study."""

    def __init__(self, records: Records, mine: LaunchRecord) -> None:
        self._records = records
        self._mine = mine
        self._lost = False
        self._ended = threading.Event()
        self._beating = threading.Thread(target=self._beat, name="launch lock", daemon=True)
        self._beating.start()

    def check(self) -> None:
        """Raise UserError when another launcher has taken the study over: this one was silent for too long."""
        if self._lost:
            raise UserError(
                f"another launcher has taken over study {self._mine.study}, because nothing was heard of this one for "
                f"{DEAD_AFTER_S:.0f} s: what was measured is stored, and that launch goes on with it"
            )

    def release(self) -> None:
        """Let others launch it."""
        self._ended.set()
        self._beating.join()
        with suppress(UserError):  # the database may be gone; then a minute's silence says the same
            self._records.end_launch(self._mine)

    def _beat(self) -> None:
        while not self._ended.wait(BEAT_S):
            with suppress(UserError):  # the launch itself will say what is wrong with the database
                self._lost = not self._records.renew_launch(self._mine)


@contextmanager
def only_launcher(records: Records, name: str, doing: str = "launched") -> Iterator[Lock]:
    """Hold the study's lock. Raises UserError when it is held.

    doing: what is being done with the study, for whoever comes second.
    """
    mine = LaunchRecord(
        study=name,
        token=uuid.uuid4().hex,
        doing=doing,
        host=platform.node(),
        process_table=_process_table(),
        pid=os.getpid(),
        process_began_s=psutil.Process().create_time(),
    )
    holder = records.begin_launch(mine, lambda other, silent_s: _is_dead(mine, other, silent_s))
    if holder is not None:
        here = holder.process_table == mine.process_table
        where = "" if here else f" on {holder.host} (if it was killed there, try again in {DEAD_AFTER_S:.0f} s)"
        raise UserError(f"study {name} is being {holder.doing} by process {holder.pid}{where} already")
    lock = Lock(records, mine)
    _held.add(mine.token)
    try:
        yield lock
    finally:
        _held.discard(mine.token)
        lock.release()


def _process_table() -> str:
    """What is the same for processes that can see each other: containers of one host may have one name, and cannot."""
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return f"{boot} {os.readlink('/proc/self/ns/pid')}"


def _is_dead(mine: LaunchRecord, other: LaunchRecord, silent_s: float) -> bool:
    if other.process_table != mine.process_table:
        return silent_s > DEAD_AFTER_S
    if other.pid == mine.pid:
        return other.token not in _held
    try:
        process = psutil.Process(other.pid)
        # A zombie is dead too: where nobody waits for what was killed, as in many containers, it stays in the table.
        gone = process.status() == psutil.STATUS_ZOMBIE
        return gone or abs(process.create_time() - other.process_began_s) > 1
    except psutil.Error:
        return True
