"""What a process compiles is counted, whichever way it compiles, and nothing else is."""

import contextlib
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from paretune.objectives.measuring.compilations import (
    CAPTURED,
    CPP,
    GRAPHS,
    KERNELS,
    LOWERED,
    TUNED,
    counting,
    difference,
    kind_of,
)


def test_graphs_kernels_tuning_and_captures_are_counted_while_it_lasts(tmp_path: Path) -> None:
    """In this process; Inductor's own work is in the test of a whole bundle."""
    from torch._inductor.graph import GraphLowering
    from torch._inductor.runtime.triton_heuristics import CachingAutotuner

    (tmp_path / "x.cpp").write_text("int x() { return 1; }")
    compiler = shutil.which("g++")
    with counting() as so_far:
        before = so_far()
        assert set(before.values()) == {0}
        compiled = torch.compile(lambda x: x.sin() + 1, backend="eager")
        compiled(torch.ones(3))
        compiled(torch.ones(3))
        assert difference(before, so_far()) == {GRAPHS: 1}
        compiled(torch.ones(3, dtype=torch.float64))
        if compiler is not None:
            subprocess.run([compiler, "--version"], check=True, capture_output=True)
            subprocess.run([compiler, "-c", str(tmp_path / "x.cpp"), "-o", str(tmp_path / "x.o")], check=True)
        subprocess.run([sys.executable, "-c", ""], check=True)
        for owner, name in (
            (GraphLowering, "run"),
            (CachingAutotuner, "bench"),
            (torch.cuda.CUDAGraph, "capture_begin"),
        ):
            with contextlib.suppress(Exception):  # what it does to nothing is not the point
                getattr(owner, name)(None)
        found = difference(before, so_far())
    assert found == {GRAPHS: 2, LOWERED: 1, TUNED: 1, CAPTURED: 1} | ({} if compiler is None else {CPP: 1})
    torch.compile(lambda x: x.cos(), backend="eager")(torch.ones(3))
    subprocess.run([sys.executable, "-c", ""], check=True)
    assert GraphLowering.run.__name__ == "run", "everything is as it was"


@pytest.mark.parametrize(
    ("command", "kind"),
    [
        (["/usr/local/cuda/bin/ptxas", "-lineinfo", "--gpu-name=sm_90a", "/tmp/x.ptx", "-o", "x"], KERNELS),
        (["/venv/triton/backends/nvidia/bin/ptxas", "--version"], None),
        (["g++", "/tmp/inductor/kernel.cpp", "-shared", "-o", "kernel.so"], CPP),
        (["/usr/bin/x86_64-linux-gnu-g++-12", "main.cpp", "-c"], CPP),
        (["clang++-17", "main.cpp", "-o", "x"], CPP),
        (["gcc", "/tmp/tmpabc/__triton_launcher.c", "-O3", "-shared", "-o", "launcher.so"], CPP),
        (["gcc", "/tmp/tmpabc/cuda_utils.c", "-O3", "-shared", "-o", "cuda_utils.so"], None),
        (["g++", "-dumpversion"], None),
        (["nvidia-smi", "-L"], None),
        (["python", "gcc.py"], None),
        (["lscpu"], None),
        ([], None),
    ],
)
def test_a_started_program_counts_when_it_compiles(command: list[str], kind: str | None) -> None:
    assert kind_of(command) == kind
