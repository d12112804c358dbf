"""A process and everything it starts, started and ended as one. No other file starts processes."""

import json
import os
import select
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import psutil

from .log import LimitedLog

KEEPER = Path(__file__).with_name("keeper.py")
MARK = "PARETUNE_TREE"
"""Environment variable that every process of a tree inherits; each tree has its own value."""
PIPE, DEVNULL = subprocess.PIPE, subprocess.DEVNULL
POLL_S = 0.1
END_S = 30.0
"""How long to wait until killed processes are gone: one that is stuck in a driver may need longer, or for ever."""


@dataclass(frozen=True)
class Ended:
    """How a tree's process ended."""

    exit_code: int
    """Negative for the signal that killed it."""
    seconds: float
    """How long it ran."""


class ProcessTree:
    """A command with a keeper above it (see keeper.py), which kills all that the command has started when it ends, when
    `end` is called, or when this process is gone.
    """

    def __init__(
        self,
        command: Sequence[str],
        *,
        environment: Mapping[str, str] | None = None,
        stdin: int = DEVNULL,
        stdout: int = DEVNULL,
        stderr: int | IO[bytes] = DEVNULL,
    ) -> None:
        """Start it. environment: beside what this process has; the streams are as for Popen."""
        self._mark = f"{os.getpid()}-{uuid.uuid4().hex}"
        self._ended: Ended | None = None
        self._report, report = os.pipe()
        keeper = [sys.executable, "-I", "-S", str(KEEPER), str(os.getpid()), str(report)]
        try:
            self._keeper = subprocess.Popen(
                [*keeper, *command],
                env={**os.environ, **(environment or {}), MARK: self._mark},
                pass_fds=(report,),
                start_new_session=True,
                stdin=stdin,
                stdout=stdout,
                stderr=stderr,
            )
        except BaseException:
            os.close(self._report)
            raise
        finally:
            os.close(report)

    def __enter__(self) -> "ProcessTree":
        return self

    def __exit__(self, *_: object) -> None:
        self.end()

    @property
    def stdin(self) -> IO[bytes]:
        """The pipe to its standard input, where one was asked for."""
        assert self._keeper.stdin is not None
        return self._keeper.stdin

    @property
    def stdout(self) -> IO[bytes]:
        """The pipe from its standard output, where one was asked for."""
        assert self._keeper.stdout is not None
        return self._keeper.stdout

    def wait(self, timeout_s: float) -> Ended | None:
        """How the command itself ended, as soon as it has; None when it has not within `timeout_s`.

        What it started may still be there, and may hold any pipe open: nothing here waits for that.
        """
        if self._ended is None and select.select([self._report], [], [], timeout_s)[0]:
            told = os.read(self._report, 4096)
            # Nothing was told: the keeper was killed itself, and the command died with it.
            self._ended = Ended(**json.loads(told)) if told else Ended(-signal.SIGKILL, 0.0)
        return self._ended

    def members(self) -> list[psutil.Process]:
        """All processes of the tree but the keeper, the command's first."""
        return descendants(self._keeper.pid)

    def end(self) -> None:
        """Kill whatever is left, and wait until it is gone. Calling it twice is harmless."""
        if self._report < 0:
            return
        self._keeper.terminate()
        with suppress(subprocess.TimeoutExpired):  # what is stuck in the kernel: the keeper stays until it has ended
            self._keeper.wait(END_S)
        if self._keeper.returncode not in (None, 0):
            kill_all(self._marked)  # the keeper was killed itself
        for pipe in (self._keeper.stdin, self._keeper.stdout):
            if pipe is not None:
                with suppress(BrokenPipeError):  # what could not be written before
                    pipe.close()
        os.close(self._report)
        self._report = -1

    def _marked(self) -> list[psutil.Process]:
        return [process for process in psutil.process_iter() if _mark_of(process) == self._mark]


def run_process(
    command: Sequence[str], *, log: Path, timeout_s: float, environment: Mapping[str, str] | None = None
) -> Ended:
    """Run a command to its end; its standard error goes to `log` (see LimitedLog). No process of it is left.

    environment: beside what this process has. Raises TimeoutError.
    """
    deadline, limited = time.monotonic() + timeout_s, LimitedLog(log)
    with log.open("ab") as stderr, ProcessTree(command, environment=environment, stderr=stderr) as tree:
        while (ended := tree.wait(POLL_S)) is None:
            limited.limit()
            if time.monotonic() > deadline:
                raise TimeoutError
    limited.finish()
    return ended


def kill_all(listed: Callable[[], Sequence[psutil.Process]]) -> bool:
    """Kill what is listed until nothing is: processes may start others meanwhile. False if that takes too long."""
    deadline = time.monotonic() + END_S
    while alive := [process for process in listed() if _is_alive(process)]:
        if time.monotonic() > deadline:
            return False
        for process in alive:
            try:
                process.kill()
            except psutil.NoSuchProcess:
                continue
        psutil.wait_procs(alive, timeout=POLL_S)
    return True


def descendants(pid: int) -> list[psutil.Process]:
    """What a process has started, at any remove, those nearest to it first; zombies too."""
    try:
        return psutil.Process(pid).children(recursive=True)
    except psutil.NoSuchProcess:
        return []


def signal_name(number: int) -> str:
    """ "SIGKILL"; "signal 34" for a real-time signal, which has no name."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def _is_alive(process: psutil.Process) -> bool:
    try:
        return bool(process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def _mark_of(process: psutil.Process) -> str | None:
    try:
        return process.environ().get(MARK)
    except (psutil.Error, OSError):
        return None
