"""Keeps one process tree: starts a command for a launching process, and leaves nothing of it behind.

It runs as a script between the two, with nothing but the standard library, so it starts in milliseconds. Whatever the
command starts, in sessions of its own too, stays below this process (it is a subreaper), and is killed when the command
has ended, when SIGTERM asks for it, or when the launching process is gone, however it went.
"""

import ctypes
import json
import os
import signal
import sys
import time
from collections.abc import Set
from contextlib import suppress
from pathlib import Path
from typing import NoReturn

PR_SET_PDEATHSIG = 1
"""Linux prctl(2): the signal a process gets when its parent dies."""
PR_SET_CHILD_SUBREAPER = 36
"""Linux prctl(2): orphans below a process become its children."""
POLL_S = 0.2
"""How soon it is noticed that the launching process is gone."""
KILL_AGAIN_S = 0.02


def prctl(option: int, value: int) -> None:
    """Linux prctl(2) of this process."""
    ctypes.CDLL(None, use_errno=True).prctl(option, value)


def main(launcher: int, report: int, command: list[str]) -> None:
    """Run `command` to its end, write {"exit_code", "seconds"} to the descriptor `report`, and end what is left of it.

    launcher: the process id of the parent. The exit code is negative for a signal, as in subprocess.
    """
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    # Blocked, they wait for sigtimedwait: no handler, and nothing that comes at the wrong moment.
    awaited = {signal.SIGCHLD, signal.SIGTERM}
    before = signal.pthread_sigmask(signal.SIG_BLOCK, awaited)
    prctl(PR_SET_CHILD_SUBREAPER, 1)
    os.set_inheritable(report, False)
    keeper, started = os.getpid(), time.monotonic()
    pid = os.fork()
    if pid == 0:
        _become(command, keeper, before)
    ended = False
    while not ended and os.getppid() == launcher:
        received = signal.sigtimedwait(awaited, POLL_S)
        if received is not None and received.si_signo == signal.SIGTERM:
            break
        for child, exit_code in _bury():
            if child == pid:
                ended = True
                _write(report, {"exit_code": exit_code, "seconds": time.monotonic() - started})
    # What it leaves becomes a child of this process as its parents die.
    while children := _children(keeper):
        for child in children:
            os.kill(child, signal.SIGKILL)
        signal.sigtimedwait({signal.SIGCHLD}, KILL_AGAIN_S)
        _bury()


def _become(command: list[str], keeper: int, signals: Set[int]) -> NoReturn:
    """Turn this forked process into the command."""
    try:
        os.setsid()  # a group of its own: one that kills its group must not hit the keeper
        prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() == keeper:  # else it died before this process asked to die with it
            signal.pthread_sigmask(signal.SIG_SETMASK, signals)
            os.execvp(command[0], command)
    finally:
        os._exit(127)


def _bury() -> list[tuple[int, int]]:
    """Take note of the children that have ended, adopted ones too: [(process id, exit code)]."""
    buried = []
    try:
        while (ended := os.waitpid(-1, os.WNOHANG))[0]:
            buried.append((ended[0], os.waitstatus_to_exitcode(ended[1])))
    except ChildProcessError:
        pass  # there are no more
    return buried


def _children(keeper: int) -> list[int]:
    """The process ids of all children, ended ones included until they are buried."""
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdecimal():
            continue
        try:
            # "pid (name) state ppid ...", and a name may hold anything.
            parent = int((entry / "stat").read_text(errors="replace").rpartition(")")[2].split()[1])
        except OSError:
            continue  # it has ended
        if parent == keeper:
            found.append(int(entry.name))
    return found


def _write(report: int, told: dict[str, float]) -> None:
    with suppress(BrokenPipeError):  # the launching process is gone
        os.write(report, json.dumps(told).encode())


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3:])
