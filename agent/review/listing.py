"""What `paretune best` prints: trials as lines, and how far they can be trusted."""

from collections.abc import Sequence

from ..results import Results, Trial, floor_note, pictures_note, study_doubts, ties_note, unconfirmed
from .rows import Row


def trial_lines(rows: Sequence[Row]) -> list[str]:
    """Two lines per trial under a line of headings: the figures, and what was done, which is too long for a column.

    Cost and energy stand there where one of the trials has any.
    """
    priced = any(row.cost for row in rows)
    headings = ["trial", "latency", "speed", "peak memory", "cold start"]
    headings += [*(["cost and energy"] if priced else []), "pictures"]
    lines, done = [], []
    for row in rows:
        if not row.complete:
            lines.append([str(row.number), row.outcome])
            done.append(f"{row.configuration_text}: {row.reason}")
            continue
        early = ", ended early" if row.ended_early_by is not None else ""
        pictures = row.verdict_text if not row.evidence else f"{row.verdict_text} on {row.picture_count}"
        figures = [
            row.figures["latency_ms"].text,
            f"{row.speed_text}{early}",
            row.figures["peak_vram_gib"].text,
            row.cold_start_text,
            *([", ".join(row.cost)] if priced else []),
            pictures + ("" if row.acceptable else " (breaks a limit)"),
        ]
        lines.append([str(row.number), *figures])
        done.append(row.configuration_text)
    widths = [max(len(line[i]) for line in [headings, *lines] if i < len(line)) for i in range(len(headings))]
    lined_up = ["  ".join(cell.ljust(widths[i]) for i, cell in enumerate(line)).rstrip() for line in [headings, *lines]]
    indent = " " * (widths[0] + 2)
    pairs = [(figures, indent + what) for figures, what in zip(lined_up[1:], done, strict=True)]
    return [lined_up[0], *(line for pair in pairs for line in pair)]


def trust_lines(results: Results, trial: Trial | None, by: str) -> list[str]:
    """What has to be known of a chosen trial, a sentence or two per line: confirmation, ties, noise floor, doubts."""
    if trial is None:
        return [*map(str, study_doubts(results)), *filter(None, [floor_note(results)])]
    unsure = unconfirmed(trial)
    lines = []
    if trial.confirmed and trial.confirmation is not None:
        lines.append(f"Trial {trial.number} is confirmed: {trial.confirmation.words()}")
    notes = [ties_note(trial, by), floor_note(results), pictures_note(results)]
    lines += [note for note in [unsure and str(unsure), *notes] if note]
    return lines + [str(doubt) for doubt in trial.doubts() if doubt != unsure]
