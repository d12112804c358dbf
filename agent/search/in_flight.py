"""A configuration that is being measured, and how one that was is told to the surrogate."""

from collections.abc import Iterator
from dataclasses import dataclass

import optuna

from ...objectives.figures import FIGURE
from ...search_space import Configuration
from ..measuring import Begun
from ..results import Trial
from .surrogate import Known


@dataclass
class InFlight:
    """One that was asked for, until it is told."""

    asked: optuna.Trial
    configuration: Configuration
    how: str = ""
    """Where its figures come from, unless it was measured here."""
    more: Iterator[Begun] | None = None
    """Its further processes; None while its own trial runs."""


def known_of(trial: Trial) -> Known:
    """A trial as the surrogate sees it."""
    seconds = sum(trial.timing.phases_s.values())
    if not trial.complete:
        return Known(configuration=trial.configuration, works=False, seconds=seconds)
    limits = dict(trial.constraint_values)
    return Known(
        configuration=trial.configuration,
        works=True,
        objectives=tuple(trial.figure(name) for name in dict.fromkeys(["latency_ms", *trial.results.study.optimised])),
        picture_violation=limits.pop("verdict", 0.0),
        violation=max(limits.values(), default=0.0),
        seconds=seconds,
    )


def outcome_words(trial: Trial) -> str:
    """What a launch says of a trial that has ended."""
    if not trial.complete:
        return f"{trial.outcome} ({trial.reason})"
    early = trial.ended_early_by
    ended = "" if early is None else f", ended early (trial {early} was clearly better)"
    # As it was measured: the estimate that all reports show is worked out at the end.
    latency = FIGURE["latency_ms"].text(float(trial.measurements["latency_ms"]))
    where = f", at {trial.timing.worker}" if len(trial.results.floors) > 1 else ""
    return f"{latency}, {trial.text('peak_vram_gib')}, {trial.verdict}{where}{ended}"
