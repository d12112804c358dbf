"""Cold start: a fresh process with empty compiler caches, from its start to its first finished picture."""

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from ...studies import Outcome

COLD_PHASES = ("interpreter", "import", "load", "apply", "first_image")
COLD_START_FIGURES = (*(f"{phase}_s" for phase in COLD_PHASES), "cold_start_s")
"""What a cold start measures, in s: each phase, and all of it but loading the weights."""
CACHES = ("TORCHINDUCTOR_CACHE_DIR", "TRITON_CACHE_DIR", "TORCH_EXTENSIONS_DIR", "CUDA_CACHE_PATH")

# Runs run.py in a process where importing paretune fails, wherever it is installed; it dies with the process that
# started it (prctl 1 is PR_SET_PDEATHSIG).
WITHOUT_PARETUNE = """
import ctypes, runpy, sys
ctypes.CDLL(None).prctl(1, 9)
sys.modules["paretune"] = None
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def script_command(script: Path, *arguments: str) -> list[str]:
    """The command line that runs a run.py without paretune."""
    return [sys.executable, "-P", "-c", WITHOUT_PARETUNE, str(script), *arguments]


def empty_caches(folder: Path) -> dict[str, str]:
    """The environment of a process that finds nothing compiled."""
    return {**os.environ, **{variable: str(folder / variable.lower()) for variable in CACHES}}


def measure_cold_start(folder: Path, device: str, timeout_s: float) -> tuple[Outcome, str, dict[str, Any]]:
    """Start the run.py of a trial's folder once, cold: (outcome, reason, seconds per phase and in all).

    `cold_start_s` is the process's life until its first picture, less loading weights. The page cache is warm, as on a
    worker that restarts.
    """
    with tempfile.TemporaryDirectory(prefix="paretune-cold-") as scratch:
        out = Path(scratch) / "out"
        started = time.perf_counter()
        try:
            done = subprocess.run(
                script_command(folder / "run.py", "--device", device, "--cold", "--out", str(out)),
                env=empty_caches(Path(scratch)),
                capture_output=True,
                text=True,
                timeout=timeout_s,
                start_new_session=True,
            )
        except subprocess.TimeoutExpired:
            return Outcome.TIMEOUT, f"the cold start took longer than {timeout_s:g} s", {}
        wall_s = time.perf_counter() - started
        if done.returncode != 0:
            last = (done.stderr.strip().splitlines() or ["no message"])[-1]
            return Outcome.CRASH, f"the cold start failed: {last[:300]}", {}
        measured = json.loads((out / "result.json").read_text())
    phases = measured["phases_s"]
    first_image_s = measured["first_call_ms"] / 1000
    after_s = measured["after_s"]
    seconds = {
        # What is not accounted for elsewhere: the interpreter, and what the script itself imports.
        "interpreter": max(0.0, wall_s - after_s - phases["import"] - phases["load"] - phases["apply"] - first_image_s),
        "import": phases["import"],
        "load": phases["load"],
        "apply": phases["apply"],
        "first_image": first_image_s,
    }
    cold_start_s = sum(seconds.values()) - seconds["load"]
    return Outcome.COMPLETE, "", {**{f"{k}_s": round(v, 3) for k, v in seconds.items()}, "cold_start_s": cold_start_s}
