"""Counts what a process compiles and records: the only file here that knows torch's own interfaces for that.

Checked with torch 2.11 to 2.13; where one of them is gone, counting fails rather than finding nothing.
"""

import os
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

GRAPHS, LOWERED, KERNELS, CPP = "graphs traced", "graphs compiled", "GPU kernels compiled", "C++ files compiled"
TUNED, CAPTURED = "autotuning runs", "CUDA graphs captured"
COMPILING = (GRAPHS, LOWERED, KERNELS, CPP, TUNED)
"""What a process that loads all it needs does none of."""
COUNTED = (*COMPILING, CAPTURED)

GPU_COMPILERS = ("ptxas", "nvcc", "hipcc")
CPP_COMPILERS = ("cc", "c++", "gcc", "g++", "clang", "clang++", "cl")
HELPERS = ("cuda_utils",)
"""Triton's own access to the driver: built once in each process with an empty cache, whatever it then loads."""
ASKING = ("--version", "-v", "-V", "-dumpversion", "-print-file-name")
"""Arguments of a compiler that is only asked about itself."""


@contextmanager
def counting() -> Iterator[Callable[[], dict[str, int]]]:
    """While it lasts, count; what it yields gives the counts so far, under the names in COUNTED.

    Compiling goes on in this process: torch must not have started its compile workers, which are told not to start.
    Raises RuntimeError where torch has none of the places that are looked at.
    """
    os.environ["TORCHINDUCTOR_COMPILE_THREADS"] = "1"
    import torch

    counts: Counter[str] = Counter()
    active = [True]

    def on_event(event: str, arguments: tuple[Any, ...]) -> None:
        if active[0] and event in ("subprocess.Popen", "os.posix_spawn"):
            command = arguments[1] if isinstance(arguments[1], list | tuple) else [arguments[0]]
            if (kind := kind_of([os.fsdecode(word) for word in command])) is not None:
                counts[kind] += 1

    sys.addaudithook(on_event)  # there is no way to take it away again: it is told to be quiet
    try:
        import torch._inductor.config as config
        from torch._dynamo.utils import counters
        from torch._inductor.graph import GraphLowering
        from torch._inductor.runtime.triton_heuristics import CachingAutotuner

        config.compile_threads = 1
        watched = [
            (GraphLowering, "run", LOWERED),
            (CachingAutotuner, "bench", TUNED),
            (torch.cuda.CUDAGraph, "capture_begin", CAPTURED),
        ]
        before = [(owner, name, getattr(owner, name)) for owner, name, _ in watched]
        counters["stats"]["unique_graphs"] += 0
    except (ImportError, AttributeError) as error:
        active[0] = False
        raise RuntimeError(
            f"torch {torch.__version__} does not say what it compiles where it was looked for ({error})"
        ) from None
    for owner, name, kind in watched:
        setattr(owner, name, _counted(getattr(owner, name), counts, kind))
    traced_before = counters["stats"]["unique_graphs"]

    def so_far() -> dict[str, int]:
        counts[GRAPHS] = counters["stats"]["unique_graphs"] - traced_before
        return {kind: counts[kind] for kind in COUNTED}

    try:
        yield so_far
    finally:
        active[0] = False
        for owner, name, function in before:
            setattr(owner, name, function)


def kind_of(command: list[str]) -> str | None:
    """What a command compiles: KERNELS, CPP, or None."""
    program = os.path.basename(command[0]).removesuffix(".exe") if command else ""
    if len(command) < 2 or any(word in ASKING for word in command[1:]):
        return None
    if program in GPU_COMPILERS:
        return KERNELS
    # "x86_64-linux-gnu-g++-12" is one too.
    name = program.rstrip("0123456789.-").rpartition("-")[2]
    if name not in CPP_COMPILERS:
        return None
    # With -c alone, or with neither, an object is made; -E and -M only read.
    if any(word in ("-E", "-M", "-MM") for word in command):
        return None
    return None if any(helper in os.path.basename(word) for word in command for helper in HELPERS) else CPP


def difference(before: dict[str, int], after: dict[str, int]) -> dict[str, int]:
    """What was counted in between; nothing that was not."""
    return {kind: after[kind] - before[kind] for kind in after if after[kind] != before[kind]}


def _counted(function: Any, counts: Counter[str], kind: str) -> Any:
    def call(*args: Any, **kwargs: Any) -> Any:
        counts[kind] += 1
        return function(*args, **kwargs)

    return call
