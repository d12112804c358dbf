"""What `paretune best` and `paretune list` print: trials as lines and how far they can be trusted, and studies."""

from collections.abc import Sequence
from dataclasses import dataclass

from ...studies import Records, UserError
from ..results import Results, Trial, floor_note, pictures_note, study_doubts, ties_note, unconfirmed
from .rows import Row


def trial_lines(rows: Sequence[Row]) -> list[str]:
    """Two lines per trial under a line of headings: the figures, and what was done, which is too long for a column.

    Cost and energy stand there where one of the trials has any.
    """
    priced = any(row.cost for row in rows)
    headings = ["trial", "latency", "speed", "peak memory", "cold start"]
    headings += [*(["cost and energy"] if priced else []), "pictures"]
    lines, done = [headings], []
    for row in rows:
        if not row.complete:
            lines.append([str(row.number), row.outcome])
            done.append(f"{row.configuration_text}: {row.reason}")
            continue
        early = ", ended early" if row.ended_early_by is not None else ""
        pictures = row.verdict_text if not row.evidence else f"{row.verdict_text} on {row.picture_count}"
        figures = [
            row.figures["latency_ms"].text,
            f"{row.speed_text}{early}{row.busy_text}",
            row.figures["peak_vram_gib"].text,
            row.cold_start_text,
            *([", ".join(row.cost)] if priced else []),
            pictures + ("" if row.acceptable else " (breaks a limit)"),
        ]
        lines.append([str(row.number), *figures])
        done.append(row.configuration_text)
    lined_up, indent = _in_columns(lines), " " * (len("trial") + 2)
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


@dataclass(frozen=True)
class ListedStudy:
    """One study of a database. What was measured is None where the study cannot be read, and `problem` says why."""

    name: str
    launched_at: str | None = None
    """ISO 8601, UTC."""
    device: str | None = None
    """The GPU's name, or the CPU's."""
    trials: int | None = None
    """Failures included."""
    failures: int | None = None
    problem: str | None = None


def listed_studies(records: Records) -> list[ListedStudy]:
    """Every study of the database, the oldest first. One that cannot be read does not hide the others."""
    return [_listed(records, name) for name in records.study_names()]


def study_lines(studies: list[ListedStudy]) -> list[str]:
    """A line per study, in columns under a line of headings; a sentence when there is none."""
    if not studies:
        return ["There is no study in this database yet: paretune launch adds one."]
    rows = [["study", "launched (UTC)", "trials", "failures", "device"]]
    for study in studies:
        figures = ["?", "?", f"cannot be read: {study.problem}"]
        if study.problem is None:
            figures = [str(study.trials), str(study.failures), str(study.device)]
        rows.append([study.name, (study.launched_at or "?")[:16].replace("T", " "), *figures])
    return _in_columns(rows)


def _listed(records: Records, name: str) -> ListedStudy:
    launched_at = None
    try:
        launched_at = records.study(name).created_at
        results = Results(records, name)
        counts = len(results.trials), len(results.failures)
        return ListedStudy(name, launched_at, results.fingerprint.device_name, *counts)
    except UserError as error:  # of another version, or its own files are gone
        return ListedStudy(name, launched_at, problem=" ".join(str(error).split()))


def _in_columns(rows: Sequence[Sequence[str]]) -> list[str]:
    """A line per row, whole, whatever the terminal's width; a row may have fewer cells than the first."""
    widths = [max(len(row[i]) for row in rows if i < len(row)) for i in range(len(rows[0]))]
    return ["  ".join(cell.ljust(widths[i]) for i, cell in enumerate(row)).rstrip() for row in rows]
