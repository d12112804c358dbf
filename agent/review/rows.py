"""One trial as every page, table and JSON shows it."""

from dataclasses import dataclass, field, replace
from typing import Any

from ...objectives.figures import FIGURE, FIGURES
from ...objectives.verdict import Verdict
from ...search_space import technique
from ..results import (
    Results,
    Speed,
    Trial,
    age_words,
    call_words,
    cold_start_words,
    compiling_text,
    cost_words,
    ended_early_words,
    evidence_words,
)


@dataclass(frozen=True)
class Shown:
    """A figure, and how it is written."""

    value: float
    text: str


@dataclass(frozen=True)
class StepShown:
    """One technique of a configuration, with all of its parameters."""

    technique: str
    parameters: dict[str, Any]
    loss: str
    """What it may lose: "bit-identical", "reordered", "approximate"."""

    @property
    def parameters_text(self) -> str:
        """ "interval=3, branch=0"."""
        return ", ".join(f"{name}={value}" for name, value in self.parameters.items())


@dataclass(frozen=True, kw_only=True)
class Row:
    """One trial. What only a complete one has is empty or None for a failure."""

    number: int
    label: str
    """What it is known as: one of the names of named_trials, several of them, or nothing."""
    configuration_text: str
    steps: list[StepShown]
    configuration: dict[str, Any]
    outcome: str
    reason: str
    """Why it failed, in one sentence."""
    log_tail: str
    phases_s: dict[str, float]
    measured_in: dict[str, Any] | None
    """The study, trial and time of a measurement that another study made."""

    figures: dict[str, Shown] = field(default_factory=dict)
    """By name, as far as they are known; see objectives/figures.py."""
    speed: Speed | None = None
    """Against the reference."""
    speed_text: str = ""
    cold_start_measured: dict[str, float] | None = None
    """Medians of `n` real cold processes, in s; the figure `cold_start_s` is the estimate that every trial has."""
    cold_start_text: str = ""
    cold_start_compiling: str = ""
    """What it takes when it compiles, where it can load compiled code instead."""
    calls: list[str] = field(default_factory=list)
    """How far the timed calls of its own process lie apart and why no more were made, a line per shape of request."""
    call_range: tuple[float, float] | None = None
    """The fastest and the slowest of them relative to their median, where all requests have one shape."""
    setup_memory: Shown | None = None
    """Peak while it is applied and compiled, in GiB."""
    gpu_busy_percent: float | None = None
    """In how much of a call the GPU was busy; None on a CPU."""
    cost_per_1000_images: float | None = None
    cost: list[str] = field(default_factory=list)
    """Cost and energy in words, as far as they are known."""

    verdict: str = Verdict.NOT_ASSESSED
    verdict_text: str = ""
    picture_count: int = 0
    """How many pictures the verdict is on."""
    evidence: str = ""
    """What the verdict rests on, in words."""
    drift_pictures: int = 0
    """How many pictures the figure `drift` is of: those that every trial has."""
    within_reordering_floor: bool | None = None
    """Whether its pictures drift no further than those of the same arithmetic in another order; None if unknown."""

    confirmed: bool = False
    confirmation: dict[str, dict[str, Any]] | None = None
    """Against "reference", "torch_compile" and "torch_compile_best", as far as blocks compared them: a Comparison, with
    its `times` as fast and their `interval`.
    """
    confirmation_text: str = ""
    on_front: bool = False
    acceptable: bool = False
    broken_limits: list[str] = field(default_factory=list)
    ties_with: list[int] = field(default_factory=list)
    ended_early_by: int | None = None
    remarks: list[str] = field(default_factory=list)
    """What else has to be known of it: ties with the best one, ended early, measured elsewhere."""
    doubts: list[str] = field(default_factory=list)

    @property
    def busy_text(self) -> str:
        """What stands behind a speed: ", GPU busy 97 %"; empty where that was not measured."""
        return "" if self.gpu_busy_percent is None else f", GPU busy {self.gpu_busy_percent:.0f} %"

    @property
    def complete(self) -> bool:
        """Whether it was measured to its end."""
        return bool(self.figures)


def row_of(trial: Trial, by: str = "latency_ms") -> Row:
    """A trial in its study. by: the figure that `ties_with` is about."""
    results = trial.results
    elsewhere = trial.elsewhere
    row = Row(
        number=trial.number,
        label=", ".join(name for name, named in named_trials(results).items() if named is trial),
        configuration_text=str(trial.configuration),
        steps=[
            StepShown(step.technique, dict(step.values()), str(technique(step.technique).loss_with(step.parameters)))
            for step in trial.configuration.steps
        ],
        configuration=trial.configuration.to_dict(),
        outcome=str(trial.outcome),
        reason=trial.reason,
        log_tail=trial.log_tail,
        phases_s=dict(trial.timing.phases_s),
        measured_in=None
        if elsewhere is None
        else {"study": elsewhere.study, "trial": elsewhere.trial, "finished_at": elsewhere.finished_at},
    )
    if not trial.complete:
        return row
    known = {figure: trial.known_figure(figure.name) for figure in FIGURES}
    figures = {figure.name: Shown(value, figure.text(value)) for figure, value in known.items() if value is not None}
    confirmation, measured = trial.confirmation, trial.cold_start_measured
    setup_gib = float(trial.measurements["setup_peak_vram_gib"])
    return replace(
        row,
        figures=figures,
        speed=trial.speed,
        speed_text=str(trial.speed),
        cold_start_measured=None if measured is None else dict(measured),
        cold_start_text=cold_start_words(trial),
        cold_start_compiling=compiling_text(trial),
        calls=call_words(trial),
        call_range=_call_range(trial),
        setup_memory=Shown(setup_gib, FIGURE["peak_vram_gib"].text(setup_gib)),
        gpu_busy_percent=None if (share := trial.gpu_busy_share) is None else 100 * share,
        cost_per_1000_images=trial.cost_per_1000_images(),
        cost=cost_words(trial),
        verdict=str(trial.verdict if results.quality_assessed else Verdict.NOT_ASSESSED),
        verdict_text=trial.verdict_words(),
        picture_count=trial.picture_count,
        evidence=evidence_words(trial),
        drift_pictures=len(trial.compared_pictures),
        within_reordering_floor=trial.within_reordering_floor() if results.quality_assessed else None,
        confirmed=trial.confirmed,
        confirmation=None if confirmation is None else confirmation.to_dict(),
        confirmation_text="" if confirmation is None else confirmation.words(),
        on_front=trial in results.front,
        acceptable=trial.acceptable,
        broken_limits=trial.broken_limits(),
        ties_with=[other.number for other in trial.ties(by)],
        ended_early_by=trial.ended_early_by,
        remarks=_remarks(trial),
        doubts=[str(doubt) for doubt in trial.doubts()],
    )


def named_trials(results: Results) -> dict[str, Trial | None]:
    """Those that every page names. The best one is none where nothing better than the reference was found, and what
    torch.compile reaches at its best where that is what people write.
    """
    best, compiled = results.best_or_none, results.torch_compile_best
    compiled = None if compiled is results.torch_compile else compiled
    best = None if best is results.reference else best
    return {
        "reference": results.reference,
        "torch.compile": results.torch_compile,
        "torch.compile at its best": compiled,
        "best": best,
    }


def _call_range(trial: Trial) -> tuple[float, float] | None:
    shapes = trial.measurements["latency"]
    if len(shapes) != 1:
        return None
    (shape,) = shapes
    return shape["min_ms"] / shape["median_ms"], shape["max_ms"] / shape["median_ms"]


def _remarks(trial: Trial) -> list[str]:
    results = trial.results
    best = results.best_or_none
    # On an unsteady machine everything that was measured once ties with everything.
    tied = best is not None and not results.unsteady and trial.number in results.tied_with_best
    words = ["ties with the best one"] if tied else []
    if trial.in_doubt and trial.confirmation is None:
        words.append("in doubt: measured next to a check that found the machine changed")
    if (early := ended_early_words(trial)) is not None:
        words.append(early)
    if (elsewhere := trial.elsewhere) is not None:
        age = age_words(elsewhere.finished_at)
        words.append(f"measured in study {elsewhere.study}, trial {elsewhere.trial}: {age}")
    return words
