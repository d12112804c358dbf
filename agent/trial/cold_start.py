"""Cold start: a fresh process with empty compiler caches, from its start to its first finished picture."""

import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ...studies import Outcome
from .fresh_process import run_script
from .result import TrialResult, require_figures

COLD_PHASES = ("interpreter", "import", "load", "apply", "first_image")
COLD_START_FIGURES = (*(f"{phase}_s" for phase in COLD_PHASES), "cold_start_s")
"""What a cold start measures, in s: each phase, and all of it but loading the weights."""
CACHES = ("TORCHINDUCTOR_CACHE_DIR", "TRITON_CACHE_DIR", "TORCH_EXTENSIONS_DIR", "CUDA_CACHE_PATH")


@contextmanager
def empty_caches() -> Iterator[dict[str, str]]:
    """Environment variables that make a process begin with nothing compiled; what it compiles is gone afterwards."""
    with tempfile.TemporaryDirectory(prefix="paretune-empty-") as scratch:
        yield {variable: str(Path(scratch) / variable.lower()) for variable in CACHES}


def measure_cold_start(folder: Path, device: str, timeout_s: float) -> TrialResult:
    """Start the run.py of a trial's folder once, cold: it measures COLD_START_FIGURES.

    `cold_start_s` is the process's life until its first picture, less loading weights. The page cache is warm, as on a
    worker that restarts.
    """
    try:
        figures = cold_start_figures(run_cold(folder / "run.py", device, timeout_s))
    except TimeoutError:
        return TrialResult(outcome=Outcome.TIMEOUT, reason=f"the cold start took longer than {timeout_s:g} s")
    except (RuntimeError, ValueError) as error:
        return TrialResult(outcome=Outcome.CRASH, reason=f"the cold start failed: {error}")
    phases_s = {phase: figures[f"{phase}_s"] for phase in COLD_PHASES}
    return TrialResult(outcome=Outcome.COMPLETE, measurements=figures, phases_s=phases_s)


def run_cold(script: Path, device: str, timeout_s: float, *options: str) -> dict[str, Any]:
    """What a run.py measures in one cold start. Raises TimeoutError, RuntimeError, and ValueError for no figures."""
    with tempfile.TemporaryDirectory(prefix="paretune-cold-") as scratch, empty_caches() as nothing_compiled:
        measured = run_script(
            script,
            ["--device", device, "--cold", *options],
            out=Path(scratch) / "out",
            environment=nothing_compiled,
            timeout_s=timeout_s,
            figures=("first_call_ms", "after_s"),
        )
    require_figures(measured.get("phases_s"), ("import", "load", "apply"))
    return measured


def cold_start_figures(measured: Mapping[str, Any]) -> dict[str, float]:
    """COLD_START_FIGURES, of what `run_cold` returned."""
    seconds = {name: measured["phases_s"][name] for name in ("import", "load", "apply")}
    seconds["first_image"] = measured["first_call_ms"] / 1000
    # What is not accounted for elsewhere: the interpreter, and what the script itself imports.
    seconds["interpreter"] = max(0.0, measured["process_s"] - measured["after_s"] - sum(seconds.values()))
    phases_s = {f"{phase}_s": round(seconds[phase], 3) for phase in COLD_PHASES}
    return {**phases_s, "cold_start_s": sum(seconds.values()) - seconds["load"]}
