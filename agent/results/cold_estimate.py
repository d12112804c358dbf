"""What a cold start is estimated to take: of what compiles, in a worker that loads its compiled code from a bundle."""

from typing import TYPE_CHECKING

from ...search_space import Configuration, known_techniques

if TYPE_CHECKING:
    from .trial import Trial

LOADING_S = 2.0
"""Loading compiled code and a first picture with it took 1.1 and 1.8 s longer than the same without compiled code, in
one part and in two (docs/results/cold-start-h200.md)."""


def carries_code(configuration: Configuration) -> bool:
    """Whether a bundle of it holds compiled code."""
    compiling = {known.name for known in known_techniques() if known.artefacts}
    return any(step.technique in compiling for step in configuration.steps)


def estimated_cold_start_s(trial: "Trial") -> float:
    """Imports, apply() and the first request, as the trial had them; where a bundle would carry its compiled code, at
    most what the reference takes, what apply() took, and LOADING_S.
    """
    as_measured = float(trial.measurements["cold_start_s"])
    if not carries_code(trial.configuration):
        return as_measured
    reference_s = float(trial.results.reference.measurements.get("cold_start_s", as_measured))
    return min(as_measured, reference_s + float(trial.timing.phases_s.get("apply", 0.0)) + LOADING_S)
