"""A study in one object that can be written as JSON: what report, dashboard, notebook and `--json` show."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from ...objectives.noise_floor import NoiseFloor
from ...search_space import known_techniques
from ..results import (
    TIE_RULE,
    Ablation,
    Canary,
    Doubt,
    Results,
    Trial,
    ablation_of,
    floor_note,
    headline,
    limit_words,
    pictures_note,
    study_doubts,
    ties_note,
)
from . import sections
from .explain import remembered
from .rows import Row, row_of

SCHEMA_VERSION = 1


@dataclass(frozen=True)
class ColdStart:
    """Real processes of a trial with empty compiler caches."""

    number: int
    way: str | None
    """In which the compiled code was kept that they loaded; None: they compiled what they had to."""
    seconds: dict[str, float]
    """COLD_START_FIGURES, each the median of `n`."""


@dataclass(frozen=True, kw_only=True)
class StudyView:
    """Every number and sentence that is shown of a study. Trials are named by their numbers."""

    schema: int = SCHEMA_VERSION
    name: str
    created_at: str
    files: str
    """Folder with the trials' logs and pictures."""
    study: dict[str, Any]
    """The study file, resolved."""
    fingerprint: dict[str, Any]
    quality_assessed: bool
    """Whether pictures mean anything: not with random weights."""

    headline: str
    doubts: list[Doubt]
    floor_note: str | None
    ties_note: str | None
    pictures_note: str | None
    tie_rule: str
    limits: list[str]
    """In words."""

    reference: int
    torch_compile: int | None
    """As people write it."""
    torch_compile_best: int | None
    """The best that torch.compile alone reaches; may be the same."""
    best: int | None
    """The reference's number where nothing better was found; None where no configuration keeps the study's limits."""
    exportable: bool
    """Whether there is a better one that `export` writes without being told to by `--unconfirmed`."""
    optimised: list[str]
    """The names of the objectives."""
    front: list[int]
    """The fastest first."""
    finalists: list[int]
    """What confirming blocks compared with the reference or torch.compile, the fastest first."""
    cold_starts: list[ColdStart]
    """The reference, torch.compile and the finalists, as far as real cold processes were timed."""
    rows: list[Row]
    """Every trial, failures included."""

    techniques: dict[str, str]
    """What each technique that was used does, in a sentence."""
    floor: NoiseFloor | None
    canaries: list[Canary]
    reordering_floor: dict[str, Any] | None
    """How far pictures drift when only the order of arithmetic changes."""
    stages: dict[str, list[sections.StageBar]]
    """By the requests that cost the same: the named configurations."""
    ablations: list[Ablation]
    """What each technique of a trial earns, for the trials that were ablated."""
    failed_before: list[str]
    """Techniques and pairs that failed on this machine in some study of the database: not tried again."""
    failed_processes: list[sections.FailedProcesses]
    machine_notes: dict[str, list[str]]
    """{what the machine did: [where]}."""
    left_out: dict[str, str]
    """Techniques and values that cannot work on this machine, with reasons."""
    memory_sources: list[str]
    """How memory was read; see objectives/memory.py."""
    trial_seconds: float
    """What the study's own trials took in all."""
    other_seconds: dict[str, float]
    """The same of processes beside the trials, by kind and count."""

    @property
    def failures(self) -> list[Row]:
        """The trials that were not measured to their end."""
        return [row for row in self.rows if not row.complete]

    @property
    def complete(self) -> list[Row]:
        """The others."""
        return [row for row in self.rows if row.complete]

    @property
    def gained(self) -> bool:
        """Whether there is a best configuration other than the reference."""
        return self.best is not None and self.best != self.reference

    def row(self, number: int) -> Row:
        """The trial of that number. Raises StopIteration without it."""
        return next(row for row in self.rows if row.number == number)

    def to_dict(self) -> dict[str, Any]:
        """Plain, JSON-able."""
        return asdict(self)


def _cold_starts(trials: Sequence[Trial | None]) -> list[ColdStart]:
    each = {trial.number: trial for trial in trials if trial is not None}.values()
    return [ColdStart(one.number, way, dict(medians)) for one in each for way, medians in one.cold_starts.items()]


def study_view(results: Results) -> StudyView:
    """Built once. Raises UserError when the study has no measured reference yet."""
    record, study = results.record, results.study
    reference, best, compiled = results.reference, results.best_or_none, results.torch_compile
    rows = [row_of(trial) for trial in results.trials]
    confirmed = [trial for trial in results.complete if trial.confirmation is not None]
    finalists = sorted(confirmed, key=lambda trial: trial.figure("latency_ms"))
    used = {step.technique for row in rows for step in row.steps}
    sources = {str(trial.measurements["memory"]["source"]) for trial in results.complete}
    return StudyView(
        name=results.name,
        created_at=record.created_at,
        files=record.files,
        study=dict(record.study),
        fingerprint=dict(record.fingerprint),
        quality_assessed=results.quality_assessed,
        headline=headline(results),
        doubts=study_doubts(results),
        floor_note=floor_note(results),
        ties_note=None if best is None else ties_note(best),
        pictures_note=pictures_note(results),
        tie_rule=TIE_RULE,
        limits=limit_words(study),
        reference=reference.number,
        torch_compile=None if compiled is None else compiled.number,
        torch_compile_best=None if (top := results.torch_compile_best) is None else top.number,
        best=None if best is None else best.number,
        exportable=best is not None and not best.is_reference and best.exportable,
        optimised=list(study.optimised),
        front=[trial.number for trial in results.front],
        finalists=[trial.number for trial in finalists],
        cold_starts=_cold_starts([reference, compiled, results.torch_compile_best, *finalists]),
        rows=rows,
        techniques={known.name: known.summary for known in known_techniques() if known.name in used},
        floor=results.floor,
        canaries=results.canaries,
        reordering_floor=results.reordering_floor if results.quality_assessed else None,
        stages=sections.stages(results),
        ablations=[found for trial in results.complete if (found := ablation_of(results, trial)) is not None],
        failed_before=[failed.words() for failed in remembered(results).all],
        failed_processes=sections.failed_processes(results),
        machine_notes=sections.machine_notes(results),
        left_out=dict(record.left_out),
        memory_sources=sorted(sources),
        trial_seconds=sections.trial_seconds(results),
        other_seconds=sections.other_seconds(results),
    )
