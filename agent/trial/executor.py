"""Runs trials, one at a time, each in a process of its own. A failed trial is a result, not an exception."""

import json
import os
import select
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import psutil

from ...objectives.fingerprint import Fingerprint
from ...studies import Outcome, UserError
from .folder import LOG
from .fresh_process import last_words
from .log import LimitedLog, hide_secrets
from .process import Job
from .process_tree import END_S, PIPE, POLL_S, ProcessTree, descendants, kill_all, run_process
from .result import NEEDED, TrialResult, announced, log_tail, read_result, with_start

SERVER_START_S = 600.0
"""Importing torch and diffusers took over 20 s on a GPU host with a cold disk; a network disk may need far longer."""
PICTURES_PER_DEADLINE = 16
GPU_EMPTY_S = 30.0
GPU_SLACK_GIB = 1.0
"""How much other programs, such as a desktop, may take meanwhile; a model needs more."""
GIB = 1024**3
SERVER_ENDED = TrialResult(outcome=Outcome.INFRASTRUCTURE, reason="the trial server ended")


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
        self._server: ProcessTree | None = None
        answer = self._start_server()
        self.fingerprint = Fingerprint.from_dict(answer["fingerprint"])
        self.interfaces: dict[str, dict[str, list[str]]] = answer["interfaces"]
        """Of the pipeline classes; see studies.pipeline_interface."""
        self._gpu_used_before_gib = self._gpu_used_gib()

    def close(self) -> None:
        """End the server and whatever runs in it."""
        if self._server is not None:
            self._server.end()
            self._server = None

    def run(self, job: Job) -> TrialResult:
        """Run one trial; returns when its process, and everything it started, is gone.

        Raises UserError when another program has taken memory of the GPU: it would be measured too.
        """
        self._wait_until_gpu_is_empty()
        if self._server is None or self._server.wait(0) is not None:
            self.close()
            self._start_server()
        folder = Path(job.folder)
        started = time.time()
        log = LimitedLog(folder / LOG)
        result = self._watch(job, folder, log)
        log.finish()
        hide_secrets(folder / LOG)
        tail = "" if result.outcome is Outcome.COMPLETE else result.log_tail or log_tail(folder)
        return replace(result, log_tail=tail, phases_s=with_start(result.phases_s, folder, started))

    def _start_server(self) -> dict[str, Any]:
        self._unread = b""
        self._server = ProcessTree([sys.executable, "-P", "-m", f"{__package__}.fork_server"], stdin=PIPE, stdout=PIPE)
        self._send(json.dumps(self._settings))
        answer = self._answer(SERVER_START_S)
        if answer is None or "error" in answer:
            said = answer["error"] if answer else "it ended or did not answer"
            self.close()
            raise UserError(f"the trial server could not start: {said}")
        self._server_pid = answer["pid"]
        return answer

    def _send(self, line: str) -> None:
        assert self._server is not None
        self._server.stdin.write(line.encode() + b"\n")
        self._server.stdin.flush()

    def _answer(self, timeout_s: float) -> dict[str, Any] | None:
        """The server's next line; None when it does not come in time or the server has ended."""
        assert self._server is not None
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

    def _watch(self, job: Job, folder: Path, log: LimitedLog) -> TrialResult:
        try:
            self._send(json.dumps(asdict(job)))
            answer = self._answer(timeout_s=60)
        except BrokenPipeError:
            answer = None
        if answer is None:
            self.close()
            return SERVER_ENDED
        child = answer["pid"]
        limit_gib = self._host_memory_gib or 0.9 * psutil.virtual_memory().available / GIB
        phase, since, seen = "start", time.monotonic(), 0
        while True:
            ended = self._answer(POLL_S)
            if ended is not None:
                self._end_trial()
                return read_result(folder, int(ended["exit"]), _figures_of(job))
            if self._server is None or self._server.wait(0) is not None:
                self.close()
                return SERVER_ENDED
            log.limit()
            begun = [one for one in announced(folder) if one.phase in self._deadlines_s]
            if len(begun) > seen:
                phase, since, seen = begun[-1].phase, time.monotonic(), len(begun)
            deadline_s = self._deadlines_s[phase] * _stretch(phase, job)
            if time.monotonic() - since > deadline_s:
                self._kill_trial()
                reason = f"{phase} took longer than its deadline of {deadline_s:g} s"
                return TrialResult(outcome=Outcome.TIMEOUT, reason=reason)
            used_gib = _memory_gib(child, "rss")
            if used_gib > limit_gib and (used_gib := _memory_gib(child, "pss")) > limit_gib:
                self._kill_trial()
                reason = f"{phase} used {used_gib:.1f} GiB of main memory, over its limit of {limit_gib:.1f} GiB"
                return TrialResult(outcome=Outcome.OOM, reason=reason)

    def _kill_trial(self) -> None:
        # SIGKILL at once: a trial has nothing to save, and one that hangs in a driver ignores anything softer.
        self._end_trial()
        if self._server is not None and self._answer(timeout_s=END_S) is None:
            self.close()

    def _end_trial(self) -> None:
        """Kill the trial and what it started, wherever it has put that; the server stays."""
        server = self._server
        if server is None:
            return
        if not kill_all(lambda: [member for member in server.members() if member.pid != self._server_pid]):
            self.close()  # something is stuck in the kernel: the next trial gets a new server, and an empty pipe

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


def _figures_of(job: Job) -> list[str]:
    """What a complete result of this job has measured."""
    wanted = {"latency_ms": job.plan["measure"], "peak_vram_gib": job.plan["memory"]}
    return [name for name in NEEDED if wanted.get(name, True)]


def _memory_gib(pid: int, kind: str) -> float:
    """Main memory of a process and all it started: "rss", or "pss", which counts pages that forks share only once."""
    try:
        family = [psutil.Process(pid), *descendants(pid)]
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
    Raises UserError when they cannot be imported.
    """
    imports = f"import torch, diffusers; [getattr(diffusers, name) for name in {classes!r}]"
    with tempfile.TemporaryDirectory(prefix="paretune-import-") as scratch:
        log = Path(scratch) / LOG
        try:
            ended = run_process([sys.executable, "-P", "-c", imports], log=log, timeout_s=SERVER_START_S)
        except TimeoutError:
            raise UserError(f"importing torch and diffusers took longer than {SERVER_START_S:g} s") from None
        if ended.exit_code != 0:
            raise UserError(f"torch and diffusers cannot be imported in a fresh process: {last_words(log, ended)}")
    return ended.seconds
