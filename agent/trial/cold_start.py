"""Cold start: a fresh process with empty compiler caches, from its start to its first finished picture."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

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
    with tempfile.TemporaryDirectory(prefix="paretune-cold-") as scratch, empty_caches() as nothing_compiled:
        arguments, out = ["--device", device, "--cold"], Path(scratch) / "out"
        try:
            measured = run_script(
                folder / "run.py",
                arguments,
                out=out,
                environment=nothing_compiled,
                timeout_s=timeout_s,
                figures=("first_call_ms", "after_s"),
            )
            require_figures(measured.get("phases_s"), ("import", "load", "apply"))
        except TimeoutError:
            return TrialResult(outcome=Outcome.TIMEOUT, reason=f"the cold start took longer than {timeout_s:g} s")
        except (RuntimeError, ValueError) as error:
            return TrialResult(outcome=Outcome.CRASH, reason=f"the cold start failed: {error}")
    seconds = {name: measured["phases_s"][name] for name in ("import", "load", "apply")}
    seconds["first_image"] = measured["first_call_ms"] / 1000
    # What is not accounted for elsewhere: the interpreter, and what the script itself imports.
    seconds["interpreter"] = max(0.0, measured["process_s"] - measured["after_s"] - sum(seconds.values()))
    cold_start_s = sum(seconds.values()) - seconds["load"]
    phases_s = {phase: round(seconds[phase], 3) for phase in COLD_PHASES}
    figures = {**{f"{phase}_s": phase_s for phase, phase_s in phases_s.items()}, "cold_start_s": cold_start_s}
    return TrialResult(outcome=Outcome.COMPLETE, measurements=figures, phases_s=phases_s)
