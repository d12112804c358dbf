"""What `paretune best` prints: trials as lines or as JSON, and how far they can be trusted."""

from typing import Any

from ..results.doubts import (
    confirmation_dict,
    confirmation_note,
    confirmation_of,
    confirmation_words,
    doubts,
    ended_early_words,
    floor_note,
    is_confirmed,
    ties_note,
)
from ..results.figures import (
    cold_start_estimate_s,
    cold_start_measured,
    cold_start_words,
    cost,
    cost_words,
    energy_j,
    milliseconds,
    quality,
    speed,
)
from ..results.results import Results, Trial


def trial_lines(results: Results, trials: list[Trial]) -> list[str]:
    """Two lines per trial under a line of headings: the figures, and what was done, which is too long for a column.

    Cost and energy stand there where one of the trials has any.
    """
    costs = {trial.number: ", ".join(cost_words(results, trial)) for trial in trials if trial.complete}
    priced = any(costs.values())
    headings = ["trial", "latency", "speed", "peak memory", "cold start"]
    headings += [*(["cost and energy"] if priced else []), "pictures"]
    rows, done = [], []
    for trial in trials:
        if not trial.complete:
            rows.append([str(trial.number), trial.outcome])
            done.append(f"{trial.configuration}: {trial.reason}")
            continue
        early = ", ended early" if ended_early_words(trial) else ""
        figures = [
            milliseconds(trial.figure("latency_ms")),
            f"{speed(results, trial)}{early}",
            f"{trial.figure('peak_vram_gib'):.2f} GiB",
            cold_start_words(trial),
        ]
        pictures = quality(results, trial) + ("" if results.acceptable(trial) else " (breaks a limit)")
        rows.append([str(trial.number), *figures, *([costs[trial.number]] if priced else []), pictures])
        done.append(str(trial.configuration))
    widths = [max(len(row[i]) for row in [headings, *rows] if i < len(row)) for i in range(len(headings))]
    lined_up = ["  ".join(cell.ljust(widths[i]) for i, cell in enumerate(row)).rstrip() for row in [headings, *rows]]
    indent = " " * (widths[0] + 2)
    pairs = [(figures, indent + what) for figures, what in zip(lined_up[1:], done, strict=True)]
    return [lined_up[0], *(line for pair in pairs for line in pair)]


def trust_lines(results: Results, trial: Trial | None, by: str) -> list[str]:
    """What has to be known of a chosen trial, a sentence or two per line: confirmation, ties, noise floor, doubts."""
    if trial is None:
        return [floor_note(results)]
    found, unsure = confirmation_of(results, trial), confirmation_note(results, trial)
    lines = [] if found is None or unsure else [f"Trial {trial.number} is confirmed: {confirmation_words(found)}"]
    lines += filter(None, [unsure, ties_note(results, trial, by), floor_note(results)])
    return lines + [doubt for doubt in doubts(results, trial) if doubt != unsure]


def as_dict(results: Results, trial: Trial, by: str = "latency_ms") -> dict[str, Any]:
    """A trial as JSON; figures of a failed one are None. `by` is the figure that ties are of."""
    figures = {key: trial.measurements.get(key) for key in ("latency_ms", "peak_vram_gib", "drift")}
    known: dict[str, Any] = {"study": results.name, "trial": trial.number, "outcome": trial.outcome}
    known |= {"reason": trial.reason, **figures}
    measured = cold_start_measured(trial)
    floor = results.floor
    fast = speed(results, trial) if trial.complete else None
    return {
        **known,
        "cold_start_s": cold_start_estimate_s(trial) if trial.complete else None,
        "cold_start_measured_s": None if measured is None else measured[0],
        "energy_j_per_image": energy_j(trial),
        "cost_per_1000_images": cost(results, trial),
        "times_as_fast": None if fast is None else fast.times,
        "tie_with_reference": None if fast is None else fast.tie,
        "ties_with": [other.number for other in results.ties_of(trial, by)] if trial.complete else [],
        "confirmed": is_confirmed(results, trial),
        "confirmation": confirmation_dict(results, trial),
        "noise_floor": None if floor is None else {"processes": floor.processes, "relative": dict(floor.floors)},
        "ended_early_by": trial.measurements.get("dominated_by"),
        "doubts": doubts(results, trial) if trial.complete else [],
        "pictures": quality(results, trial) if trial.complete else None,
        "acceptable": results.acceptable(trial),
        "configuration": trial.configuration.to_dict(),
    }
