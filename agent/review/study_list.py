"""What `paretune list` prints: the studies of a database, a line each."""

from dataclasses import asdict, dataclass
from typing import Any

from ...studies import Records, UserError
from ..results import Results


@dataclass(frozen=True)
class ListedStudy:
    """One study of a database. What was measured is None where the study cannot be read, and `problem` says why."""

    name: str
    launched_at: str
    """ISO 8601, UTC."""
    device: str | None = None
    """The GPU's name, or the CPU's."""
    trials: int | None = None
    """Failures included."""
    failures: int | None = None
    problem: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """JSON-able form."""
        return asdict(self)


def listed_studies(records: Records) -> list[ListedStudy]:
    """Every study of the database, the oldest first. One that cannot be read does not hide the others."""
    return [_listed(records, record.name, record.created_at) for record in records.studies()]


def study_lines(studies: list[ListedStudy]) -> list[str]:
    """A line per study, in columns under a line of headings; a sentence when there is none."""
    if not studies:
        return ["There is no study in this database yet: paretune launch adds one."]
    rows = [["study", "launched (UTC)", "trials", "failures", "device"]]
    for study in studies:
        figures = ["?", "?", f"cannot be read: {study.problem}"]
        if study.problem is None:
            figures = [str(study.trials), str(study.failures), str(study.device)]
        rows.append([study.name, study.launched_at[:16].replace("T", " "), *figures])
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]


def _listed(records: Records, name: str, launched_at: str) -> ListedStudy:
    try:
        results = Results(records, name)
        return ListedStudy(
            name,
            launched_at,
            device=results.fingerprint.device_name,
            trials=len(results.trials),
            failures=len(results.failures),
        )
    except (UserError, ValueError, KeyError, TypeError) as error:  # of another version, or its own files are gone
        return ListedStudy(name, launched_at, problem=" ".join(str(error).split()))
