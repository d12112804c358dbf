"""Runs trials, one at a time, each in a process of its own. A failed trial is a result, not an exception."""

import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import psutil

from ...objectives.fingerprint import Fingerprint
from ...studies import Outcome, UserError, without_secrets
from .folder import LOG, PHASES, RESULT
from .process import Job

POLL_S = 0.1
SERVER_START_S = 600.0
"""Importing torch and diffusers took over 20 s on a GPU host with a cold disk; a network disk may need far longer."""
PICTURES_PER_DEADLINE = 16
GPU_EMPTY_S = 30.0
GPU_SLACK_GIB = 1.0
"""How much other programs, such as a desktop, may take meanwhile; a model needs more."""
GIB = 1024**3
MOST_LOG_BYTES = 16 << 20


@dataclass(frozen=True, kw_only=True)
class TrialResult:
    """How a trial ended and what it measured."""

    outcome: Outcome
    reason: str = ""
    log_tail: str = ""
    measurements: Mapping[str, Any] = field(default_factory=dict)
    pipelines: Mapping[str, Any] = field(default_factory=dict)
    phases_s: Mapping[str, float] = field(default_factory=dict)


class Executor:
    """Starts a fork server, and watches over the trials that it forks."""

    def __init__(
        self, device: str, classes: list[str], deadlines_s: Mapping[str, float], host_memory_gib: float | None = None
    ) -> None:
        """Start the fork server.

        classes: diffusers pipeline classes to import beforehand. deadlines_s: seconds per phase.
        host_memory_gib: a trial that uses more main memory is killed; by default 90 % of what is free at its start.
        Raises UserError when the server cannot start.
        """
        self._deadlines_s = deadlines_s
        self._host_memory_gib = host_memory_gib
        self.device = device
        self._settings = {"device": device, "classes": classes}
        self._server: subprocess.Popen[bytes] | None = None
        self.fingerprint = Fingerprint.from_dict(self._start_server()["fingerprint"])
        self._gpu_used_before_gib = self._gpu_used_gib()

    def close(self) -> None:
        """End the server and whatever runs in it."""
        if self._server is not None:
            kill_tree(self._server.pid)
            self._server.wait()
            self._server = None

    def run(self, job: Job) -> TrialResult:
        """Run one trial; returns when its process, and everything it started, is gone.

        Raises UserError when another program has taken memory of the GPU: it would be measured too.
        """
        self._wait_until_gpu_is_empty()
        if self._server is None or self._server.poll() is not None:
            self._start_server()
        folder = Path(job.folder)
        started = time.time()
        result = self._watch(job, folder)
        _hide_secrets(folder / LOG)
        log_tail = "" if result.outcome is Outcome.COMPLETE else result.log_tail or _log_tail(folder)
        return replace(result, log_tail=log_tail, phases_s=_with_start(result.phases_s, folder, started))

    def _start_server(self) -> dict[str, Any]:
        self._unread = b""
        self._server = subprocess.Popen(
            [sys.executable, "-P", "-m", f"{__package__}.fork_server"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        self._send(json.dumps(self._settings))
        answer = self._answer(SERVER_START_S)
        if answer is None or "error" in answer:
            said = answer["error"] if answer else "it ended or did not answer"
            self.close()
            raise UserError(f"the trial server could not start: {said}")
        return answer

    def _send(self, line: str) -> None:
        assert self._server is not None
        assert self._server.stdin is not None
        self._server.stdin.write(line.encode() + b"\n")
        self._server.stdin.flush()

    def _answer(self, timeout_s: float) -> dict[str, Any] | None:
        """The server's next line; None when it does not come in time or the server has ended."""
        assert self._server is not None
        assert self._server.stdout is not None
        deadline = time.monotonic() + timeout_s
        # Bytes, not Python's buffered lines: select() does not see a line that is already in a buffer.
        while b"\n" not in self._unread:
            ready, _, _ = select.select([self._server.stdout], [], [], max(deadline - time.monotonic(), 0))
            received = os.read(self._server.stdout.fileno(), 65536) if ready else b""
            if not received:
                if ready:
                    time.sleep(POLL_S)  # end of file: do not spin until the process is seen to have ended
                return None
            self._unread += received
        line, _, self._unread = self._unread.partition(b"\n")
        return dict(json.loads(line))

    def _watch(self, job: Job, folder: Path) -> TrialResult:
        try:
            self._send(json.dumps(asdict(job)))
            answer = self._answer(timeout_s=60)
        except BrokenPipeError:
            answer = None
        if answer is None:
            self.close()
            return TrialResult(outcome=Outcome.INFRASTRUCTURE, reason="the trial server ended")
        child = answer["pid"]
        limit_gib = self._host_memory_gib or 0.9 * psutil.virtual_memory().available / GIB
        phase, since, seen = "start", time.monotonic(), 0
        while True:
            ended = self._answer(POLL_S)
            if ended is not None:
                self._kill_leftovers()
                return _result(folder, int(ended["exit"]))
            if self._server is None or self._server.poll() is not None:
                return TrialResult(outcome=Outcome.INFRASTRUCTURE, reason="the trial server ended")
            announced = _announced(folder)
            if len(announced) > seen:
                phase, since, seen = announced[-1]["phase"], time.monotonic(), len(announced)
            deadline_s = self._deadlines_s[phase] * _stretch(phase, job)
            if time.monotonic() - since > deadline_s:
                self._kill(child)
                reason = f"{phase} took longer than its deadline of {deadline_s:g} s"
                return TrialResult(outcome=Outcome.TIMEOUT, reason=reason)
            used_gib = _memory_gib(child, "rss")
            if used_gib > limit_gib and (used_gib := _memory_gib(child, "pss")) > limit_gib:
                self._kill(child)
                reason = f"{phase} used {used_gib:.1f} GiB of main memory, over its limit of {limit_gib:.1f} GiB"
                return TrialResult(outcome=Outcome.OOM, reason=reason)

    def _kill(self, child: int) -> None:
        # SIGKILL at once: a trial has nothing to save, and one that hangs in a driver ignores anything softer.
        kill_tree(child)
        if self._answer(timeout_s=30) is None:
            self.close()  # it is stuck in the kernel: the next trial gets a new server, and an empty pipe
            return
        self._kill_leftovers()

    def _kill_leftovers(self) -> None:
        """Kill what the trial started and left running: the server has adopted it."""
        if self._server is not None:
            _kill_each(_descendants(self._server.pid))

    def _gpu_used_gib(self) -> float:
        if not self.device.startswith("cuda"):
            return 0.0
        from ...objectives.measuring.memory import device_used_gib

        return float(device_used_gib(self.device) or 0.0)

    def _wait_until_gpu_is_empty(self) -> None:
        deadline = time.monotonic() + GPU_EMPTY_S
        while (used_gib := self._gpu_used_gib()) > self._gpu_used_before_gib + GPU_SLACK_GIB:
            if time.monotonic() > deadline:
                raise UserError(
                    f"{used_gib:.1f} GiB of GPU memory are in use, {self._gpu_used_before_gib:.1f} GiB were when the "
                    "launch began: end the program that uses it, and launch again to continue"
                )
            time.sleep(POLL_S)


def _stretch(phase: str, job: Job) -> float:
    """What to multiply a phase's deadline by: it is set per shape of request, or per PICTURES_PER_DEADLINE pictures."""
    if phase in ("warm_up", "measure", "memory", "stages"):
        return max(1, job.shapes)
    if phase in ("pictures", "judge"):
        return max(1.0, len(job.plan["pictures"]) / PICTURES_PER_DEADLINE)
    return 1


def kill_tree(pid: int) -> None:
    """Kill a process's group and everything it started, including what has a session of its own."""
    started = _descendants(pid)  # listed first: without its parent, a process is no longer a descendant
    try:
        if os.getpgid(pid) == pid:
            os.killpg(pid, signal.SIGKILL)
        else:
            os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        pass
    _kill_each(started)


def _descendants(pid: int) -> list[psutil.Process]:
    try:
        return psutil.Process(pid).children(recursive=True)
    except psutil.NoSuchProcess:
        return []


def _kill_each(processes: list[psutil.Process]) -> None:
    for process in processes:
        try:
            process.kill()
        except psutil.NoSuchProcess:
            continue


def _result(folder: Path, exit_code: int) -> TrialResult:
    file = folder / RESULT
    if file.is_file():
        data = json.loads(file.read_text())
        del data["schema"]
        return TrialResult(**{**data, "outcome": Outcome(data["outcome"])})
    announced = _announced(folder)
    phase = announced[-1]["phase"] if announced else "start"
    if exit_code < 0:
        name = _signal_name(-exit_code)
        # We report when we send SIGKILL ourselves, so this one is the kernel's: main memory ran out.
        outcome = Outcome.OOM if name == "SIGKILL" else Outcome.CRASH
        return TrialResult(outcome=outcome, reason=f"{phase}: killed by {name}")
    return TrialResult(outcome=Outcome.CRASH, reason=f"{phase}: the process ended with exit code {exit_code}")


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"  # a real-time signal


def _with_start(phases_s: Mapping[str, float], folder: Path, started: float) -> dict[str, float]:
    """Add the phase "start", from asking for the trial to its first phase.

    A process that was killed did not report its phases: then they are worked out from when it announced them.
    """
    entries = _announced(folder)
    start_s = round(entries[0]["at"] - started, 3) if entries else 0.0
    ends = [entry["at"] for entry in entries[1:]] + [time.time()]
    announced_s = {entry["phase"]: round(end - entry["at"], 3) for entry, end in zip(entries, ends, strict=False)}
    return {"start": max(start_s, 0.0), **(phases_s or announced_s)}


def _announced(folder: Path) -> list[dict[str, Any]]:
    """{"phase", "at"} of every phase that the process has begun."""
    file = folder / PHASES
    if not file.is_file():
        return []
    # A line may be half written when it is read; it is whole the next time.
    return [json.loads(line) for line in file.read_text().splitlines(keepends=True) if line.endswith("\n")]


def _hide_secrets(log: Path) -> None:
    """Star out what a trial printed that must not be kept; a log that is too large to be read stays as it is."""
    if log.is_file() and log.stat().st_size <= MOST_LOG_BYTES:
        said = log.read_text(errors="replace")
        if (hidden := without_secrets(said)) != said:
            log.write_text(hidden)


def _log_tail(folder: Path, characters: int = 4000) -> str:
    file = folder / LOG
    return without_secrets(file.read_text(errors="replace"))[-characters:] if file.is_file() else ""


def _memory_gib(pid: int, kind: str) -> float:
    """Main memory of a process and all it started: "rss", or "pss", which counts pages that forks share only once."""
    try:
        family = [psutil.Process(pid), *_descendants(pid)]
    except psutil.NoSuchProcess:
        return 0.0
    total = 0
    for member in family:
        try:
            total += member.memory_info().rss if kind == "rss" else member.memory_full_info().pss
        except psutil.NoSuchProcess:
            continue
    return total / GIB


def cold_import_s(classes: list[str]) -> float:
    """Seconds from starting a fresh process until torch, diffusers and the pipeline classes are imported.

    The fork server has imported them just before, so the disk is warm, as it is on a worker that restarts.
    """
    started = time.perf_counter()
    imports = f"import torch, diffusers; [getattr(diffusers, name) for name in {classes!r}]"
    subprocess.run([sys.executable, "-P", "-c", imports], check=True, capture_output=True)
    return time.perf_counter() - started
