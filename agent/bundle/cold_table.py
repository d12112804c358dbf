"""Cold starts side by side: of the unchanged pipelines, of compiling, and of each way to keep compiled code."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from ..results import Results, Trial
from .ways import Way

PHASES = ("interpreter", "import", "apply", "first_image")
"""Of a cold start, those that count."""
WIDEST = 24
"""Of a bar, in characters."""


@dataclass(frozen=True)
class ColdRow:
    """One way to start."""

    name: str
    n: int
    phases_s: tuple[float, ...]
    """PHASES, each the median by itself."""
    cold_start_s: float
    bar: str
    """Its length against the others."""


def cold_rows(results: Results, trial: Trial, ways: Sequence[Way]) -> list[ColdRow]:
    """What was measured of it, in fresh processes with empty caches; nothing is estimated."""
    known = [(name, figures) for name, figures in _measured(results, trial, ways) if figures]
    longest_s = max((figures["cold_start_s"] for _, figures in known), default=1.0)
    return [
        ColdRow(
            name,
            int(figures["n"]),
            tuple(figures[f"{phase}_s"] for phase in PHASES),
            figures["cold_start_s"],
            "█" * max(1, round(WIDEST * figures["cold_start_s"] / longest_s)),
        )
        for name, figures in known
    ]


def _measured(results: Results, trial: Trial, ways: Sequence[Way]) -> Iterator[tuple[str, Mapping[str, float] | None]]:
    yield "eager: the pipelines unchanged", results.reference.cold_start_measured
    compiled = results.torch_compile
    if compiled is not None:
        yield "torch.compile, default mode", compiled.cold_starts.get(None)
    for other in results.trials:
        if other.complete and "max-autotune" in str(_mode(other)) and other.number != trial.number:
            yield f"torch.compile, {_mode(other)} (trial {other.number})", other.cold_starts.get(None)
    if compiled is None or compiled.number != trial.number:
        yield "this configuration without artefacts", trial.cold_starts.get(None)
    for way in ways:
        yield f"this bundle, {way.name}", way.cold_start


def _mode(trial: Trial) -> object:
    steps = {step.technique: step.values() for step in trial.configuration.steps}
    return steps.get("torch_compile", {}).get("mode")
