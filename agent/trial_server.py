"""The fork server: a process that has imported torch and diffusers but not touched the GPU.

It reads one job a line from standard input, forks a child for it, and answers with the child's process id and then
with how it ended. A cold import costs seconds a trial on a laptop and far more on some GPU hosts; a fork costs nothing.
"""

import ctypes
import importlib
import json
import os
import signal
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

PR_SET_PDEATHSIG = 1
"""Linux prctl(2): the signal this process gets when its parent dies."""


def main() -> None:
    """Serve jobs until standard input closes."""
    _die_with_parent()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the launching process, which then ends this one
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # whatever a library prints while it is imported is not an answer
    settings = json.loads(sys.stdin.readline())
    # torch.cuda.is_available() would otherwise start the driver here, and a forked child could not use the GPU.
    os.environ["PYTORCH_NVML_BASED_CUDA_CHECK"] = "1"
    started = time.perf_counter()
    try:
        ready = _preload(settings["device"], settings["classes"])
    except Exception as error:
        print(json.dumps({"error": f"{type(error).__name__}: {error}"}), file=answers)
        return
    ready["import_s"] = time.perf_counter() - started
    print(json.dumps(ready), file=answers)
    # Not `for line in stdin`: it reads ahead, and the next job would be lost in a child's buffer.
    while line := sys.stdin.readline():
        server = os.getpid()
        pid = os.fork()
        if pid == 0:
            _child(line, answers, server)
        print(json.dumps({"pid": pid}), file=answers)
        _, status = os.waitpid(pid, 0)
        print(json.dumps({"exit": os.waitstatus_to_exitcode(status)}), file=answers)


def _preload(device: str, classes: list[str]) -> dict[str, Any]:
    """Import what every trial needs, and say what this machine is."""
    import diffusers
    import torch

    from ..objectives.fingerprint import Fingerprint

    for name in classes:
        getattr(diffusers, name)  # diffusers imports lazily: this is what loads the pipeline's modules
    for module in ("paretune.agent.trial_process", "paretune.objectives.pictures"):
        importlib.import_module(module)
    if torch.cuda.is_initialized():
        raise RuntimeError("an import has started CUDA, so trials cannot be forked")
    return {"fingerprint": asdict(Fingerprint.current(device)), "pid": os.getpid()}


def _child(line: str, answers: Any, server: int) -> None:
    """Run one job in a session of its own and leave without running the server's clean-up."""
    status = 1
    try:
        os.setsid()
        _die_with_parent()
        if os.getppid() != server:
            return  # the server died before this process asked to die with it
        answers.close()
        from .trial_process import Job, run_trial

        job = Job.from_json(line)
        folder = Path(job.folder)
        log = os.open(folder / "log.txt", os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
        nothing = os.open(os.devnull, os.O_RDONLY)
        for target, source in ((0, nothing), (1, log), (2, log)):
            os.dup2(source, target)
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        # A trial must not find what another one compiled: its first call would look fast.
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(folder / "compiled")
        run_trial(job)
        status = 0
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def _die_with_parent() -> None:
    """So that nothing is left over when the launching process is killed, however hard."""
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


if __name__ == "__main__":
    main()
