"""The fork server: a process that has imported torch and diffusers but not touched the GPU.

It reads one job a line from standard input, forks a child for it, and answers with the child's process id and then
with how it ended. A cold import costs seconds a trial on a laptop and far more on some GPU hosts; a fork costs nothing.
"""

import difflib
import gc
import importlib
import json
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import Any
from unittest.mock import patch

from .keeper import PR_SET_PDEATHSIG, prctl


def main() -> None:
    """Serve jobs until standard input closes."""
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # what libraries print while they are imported must not look like an answer
    settings = json.loads(sys.stdin.readline())
    # torch.cuda.is_available() would otherwise start the driver here, and a forked child could not use the GPU.
    os.environ["PYTORCH_NVML_BASED_CUDA_CHECK"] = "1"
    gc.disable()  # what is imported is no garbage: neither here nor in the trials is it ever looked through
    try:
        ready = _preload(settings["device"], settings["classes"])
    except Exception as error:
        print(json.dumps({"error": f"{type(error).__name__}: {error}"}), file=answers)
        return
    gc.freeze()
    print(json.dumps(ready), file=answers)
    # Not `for line in stdin`: it reads ahead, and the next job would be lost in a child's buffer.
    while line := sys.stdin.readline():
        server = os.getpid()
        pid = os.fork()
        if pid == 0:
            gc.enable()
            _child(line, answers, server)
        print(json.dumps({"pid": pid}), file=answers)
        _, status = os.waitpid(pid, 0)
        print(json.dumps({"exit": os.waitstatus_to_exitcode(status)}), file=answers)


def _preload(device: str, classes: list[str]) -> dict[str, Any]:
    """Import what every trial needs, and say what this machine is."""
    import torch

    from ...objectives.fingerprint import Fingerprint
    from ...studies import pipeline_interface

    fingerprint = Fingerprint.current(device)
    with _gpu_described_by_nvml(fingerprint.compute_capability):
        import diffusers

        interfaces = {}
        for name in classes:
            if not hasattr(diffusers, name):  # diffusers imports lazily: this is what loads the pipeline's modules
                close = difflib.get_close_matches(name, dir(diffusers), n=1)
                raise AttributeError(f"diffusers has no {name!r}" + (f"; did you mean {close[0]!r}?" if close else ""))
            try:
                interfaces[name] = pipeline_interface(getattr(diffusers, name))
            except ValueError as error:
                raise AttributeError(f"diffusers has {name!r}, but {error}") from None
        for module in ("paretune.agent.trial.process", "paretune.objectives.pictures"):
            importlib.import_module(module)
    if torch.cuda.is_initialized():
        raise RuntimeError("an import has started CUDA, so trials cannot be forked")
    return {"fingerprint": asdict(fingerprint), "pid": os.getpid(), "interfaces": interfaces}


@contextmanager
def _gpu_described_by_nvml(compute_capability: str | None) -> Iterator[None]:
    """Answer what libraries ask of the GPU while they are imported, without starting CUDA.

    torchao 0.18, which diffusers and transformers import where it is installed, asks for the compute capability and
    whether Triton can use the GPU (from 7.0 on), and torch starts CUDA to answer. NVML gives the same answers.
    """
    import torch
    from torch.utils import _triton

    if compute_capability is None:
        yield
        return
    major, minor = (int(part) for part in compute_capability.split("."))
    able = _triton.has_triton_package() and major >= 7
    with (
        patch.object(_triton, "has_triton", cache(lambda: able)),
        patch.object(torch.cuda, "get_device_capability", lambda device=None: (major, minor)),
    ):
        yield


def _child(line: str, answers: Any, server: int) -> None:
    """Run one job in a session of its own and leave without running the server's clean-up."""
    status = 1
    try:
        os.setsid()
        prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != server:
            return  # the server died before this process asked to die with it
        answers.close()
        from ...studies import is_no_room
        from .folder import COMPILED, LOG
        from .process import Job, run_trial
        from .result import NO_ROOM

        job = Job(**json.loads(line))
        folder = Path(job.folder)
        # Appended to: the launching process may cut it short (see LimitedLog).
        log = os.open(folder / LOG, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND, 0o644)
        nothing = os.open(os.devnull, os.O_RDONLY)
        for target, source in ((0, nothing), (1, log), (2, log)):
            os.dup2(source, target)
        # A trial must not find what another one compiled: its first call would look fast. Only processes that repeat a
        # configuration to time it use what it compiled before.
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = job.compiled or str(folder / COMPILED)
        run_trial(job)
        status = 0
    except OSError as error:
        status = NO_ROOM if is_no_room(error) else 1  # it could not even say so
    finally:
        for stream in (sys.stdout, sys.stderr):
            with suppress(OSError):
                stream.flush()
        os._exit(status)


if __name__ == "__main__":
    main()
