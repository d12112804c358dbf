"""How long a worker that has a bundle takes until its first picture, by phase: with its artefacts and without them."""

import math
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from ...studies import UserError
from ..trial import COLD_START_FIGURES, cold_start_figures, run_cold

TIMEOUT_S = 3600
WORDS = {"interpreter": "interpreter", "import": "imports", "apply": "apply", "first_image": "first picture"}
"""The phases that count."""


@dataclass(frozen=True)
class ColdStarts:
    """Fresh processes with empty compiler caches."""

    n: int
    medians: Mapping[str, float]
    """COLD_START_FIGURES, in s, each the median by itself."""
    least_s: float
    most_s: float
    """Of cold_start_s."""
    peak_gib: float | None
    """The most memory of any of them until its first picture: of the GPU, or on a CPU of the process."""

    def words(self) -> str:
        """ "5.1 s (median of 5, 5.0 to 5.3; interpreter 0.1, imports 3.1, ... ; weights 2.0 not counted; 7.9 GiB)"."""
        phases = [f"{WORDS[phase]} {self.medians[f'{phase}_s']:.1f}" for phase in WORDS]
        spread = f"median of {self.n}, {self.least_s:.1f} to {self.most_s:.1f}"
        memory = "" if self.peak_gib is None else f"; at most {self.peak_gib:.2f} GiB"
        weights = f"weights {self.medians['load_s']:.1f}, not counted"
        return f"{self.medians['cold_start_s']:.1f} s ({spread}; {', '.join(phases)}; {weights}{memory})"


def measure_cold_starts(
    bundle: Path,
    device: str,
    n: int,
    *,
    artefacts: bool = True,
    most_s: float = math.inf,
    on_step: Callable[[str], None] = lambda text: None,
) -> ColdStarts:
    """Start a bundle's check/run.py `n` times. Without `artefacts`, those that it has are left out.

    most_s: no further one begins that would end later than that, as the others took.
    Raises UserError when a process cannot be run.
    """
    options = [] if artefacts or not (bundle / "artefacts").is_dir() else ["--no-artefacts"]
    found, peaks = [], []
    began = time.monotonic()
    for number in range(n):
        if number and (time.monotonic() - began) * (number + 1) / number > most_s:
            break
        on_step(f"cold start {number + 1} of {n} {'with' if artefacts else 'without'} artefacts")
        try:
            measured = run_cold(bundle / "check" / "run.py", device, TIMEOUT_S, *options)
        except TimeoutError:
            raise UserError(f"a cold start took longer than {TIMEOUT_S} s") from None
        except (RuntimeError, ValueError) as error:
            raise UserError(f"a cold start failed: {error}") from None
        found.append(cold_start_figures(measured))
        if isinstance(peak := measured.get("setup_peak_vram_gib"), int | float):
            peaks.append(float(peak))
    totals = [figures["cold_start_s"] for figures in found]
    return ColdStarts(
        n=len(found),
        medians={name: statistics.median(figures[name] for figures in found) for name in COLD_START_FIGURES},
        least_s=min(totals),
        most_s=max(totals),
        peak_gib=max(peaks, default=None),
    )
