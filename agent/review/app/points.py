"""The trials of a study as the points of a plot and the rows of a table: what can be filtered and sorted."""

from dataclasses import dataclass, field
from typing import Any

from ....objectives.figures import FIGURE, FIGURES
from ....objectives.verdict import Verdict
from ...results import Results, Trial
from ..rows import named_trials

LOSSLESS = Verdict.IMPERCEPTIBLE
"""The worst verdict that still promises that nobody sees a difference."""
MEMORIES_GIB = (16, 24, 48, 80)
"""What GPUs have."""


@dataclass(frozen=True, kw_only=True)
class Point:
    """One complete trial."""

    number: int
    label: str
    """ "reference", "torch.compile", "best", several of them, or nothing."""
    text: str
    """The configuration."""
    figures: dict[str, float]
    texts: dict[str, str]
    """The same as they are written."""
    speed: str
    verdict: str
    rank: int
    """Of the verdict; 0 for the best."""
    pictures: int
    is_best: bool
    on_front: bool
    confirmed: bool
    cold_start_measured: str
    """The median of real cold processes; empty without them. `figures` has the estimate, which limits are about."""
    broken_limits: list[str] = field(default_factory=list)


def points(results: Results) -> list[Point]:
    """Of every complete trial, by its number."""
    names = named_trials(results)
    return [_point(trial, [name for name, named in names.items() if named is trial]) for trial in results.complete]


def _point(trial: Trial, names: list[str]) -> Point:
    results = trial.results
    verdict = trial.verdict if results.quality_assessed else Verdict.NOT_ASSESSED
    known = {figure.name: trial.known_figure(figure.name) for figure in FIGURES}
    figures = {name: value for name, value in known.items() if value is not None}
    measured = trial.cold_start_measured
    return Point(
        number=trial.number,
        label=", ".join(names),
        text=str(trial.configuration) if trial.configuration.steps else "nothing changed",
        figures=figures,
        texts={name: FIGURE[name].text(value) for name, value in figures.items()},
        speed=str(trial.speed),
        verdict=str(verdict),
        rank=verdict.rank,
        pictures=trial.picture_count,
        is_best="best" in names,
        on_front=trial in results.front,
        confirmed=trial.confirmed,
        cold_start_measured="" if measured is None else FIGURE["cold_start_s"].text(measured["cold_start_s"]),
        broken_limits=trial.broken_limits(),
    )


def axes(found: list[Point]) -> list[dict[str, str]]:
    """The figures that any trial has, as choices of an axis."""
    return [
        {"name": figure.name, "label": f"{figure.label}, {figure.unit}" if figure.unit != "1" else figure.label}
        for figure in FIGURES
        if any(figure.name in point.figures for point in found)
    ]


def floors(results: Results) -> dict[str, Any]:
    """Where differences mean nothing: {figure: [low, high]} around the reference, and the reordering floor of drift."""
    found: dict[str, Any] = {}
    if (floor := results.floor) is not None and not floor.unsteady:
        for figure in FIGURES:
            value = results.reference.known_figure(figure.name)
            if figure.has_floor and value is not None:
                noise = max(floor.of_figure(figure.name), figure.least_difference)
                found[figure.name] = [value / (1 + noise), value * (1 + noise)]
    reordering = results.reordering_floor if results.quality_assessed else None
    if reordering is not None and reordering["drift"]:
        found["drift"] = [0.0, reordering["drift"]]
    return found
