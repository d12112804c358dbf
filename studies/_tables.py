"""Our own tables, beside Optuna's in the same database: studies, runs, which study uses which run, and ratings."""

from datetime import UTC, datetime
from enum import StrEnum
from typing import Any

from sqlalchemy import JSON, ForeignKey, Text, UniqueConstraint
from sqlalchemy.orm import DeclarativeBase, Mapped, MappedAsDataclass, mapped_column

SCHEMA_VERSION = 3


class Outcome(StrEnum):
    """How a run ended. All but `infrastructure` teach the sampler; `infrastructure` is tried again."""

    COMPLETE = "complete"
    OOM = "oom"
    TIMEOUT = "timeout"
    CRASH = "crash"
    COMPILE_ERROR = "compile_error"
    APPLY_ERROR = "apply_error"
    UNSUPPORTED = "unsupported"
    INVALID_OUTPUT = "invalid_output"
    INFRASTRUCTURE = "infrastructure"


class RunKind(StrEnum):
    """What a run was made for."""

    TRIAL = "trial"
    """A configuration, measured and judged."""
    FLOOR = "floor"
    """The unchanged reference in one more process, for the noise floor."""
    CANARY = "canary"
    """The unchanged reference again, to see whether the machine has changed."""
    PICTURES = "pictures"
    """More pictures of a configuration; judged together with those it had."""
    BLOCK = "block"
    """One configuration's turn in one block of the confirmation."""
    COLD_START = "cold_start"
    """A fresh process with empty compiler caches, up to its first picture."""
    ABLATION = "ablation"
    """One variant of a trial in one block of its ablation: with a technique left out, or with one alone."""
    REORDERING = "reordering"
    """The reference with its arithmetic in another order: how far that alone moves pictures."""
    REJUDGE = "rejudge"
    """Stored pictures judged again; nothing was generated."""


def utc_now() -> str:
    """ISO 8601 with seconds."""
    return datetime.now(UTC).isoformat(timespec="seconds")


class Base(MappedAsDataclass, DeclarativeBase, eq=False):
    """The tables of one database; their rows are made like dataclasses, by keywords."""

    # None is SQL's NULL, which a query can ask for, not JSON's.
    type_annotation_map = {dict[str, Any]: JSON(none_as_null=True)}  # noqa: RUF012 (SQLAlchemy's own name)


class StudyRecord(Base, kw_only=True):
    """A launched study, with everything that has to stay the same when it is continued."""

    __tablename__ = "paretune_study"

    name: Mapped[str] = mapped_column(primary_key=True)
    schema_version: Mapped[int] = mapped_column(default=SCHEMA_VERSION)
    created_at: Mapped[str] = mapped_column(default_factory=utc_now)
    study: Mapped[dict[str, Any]]
    """The study file, resolved."""
    workload_key: Mapped[str]
    """What is measured and what judges it (see `workload_key`)."""
    fingerprint: Mapped[dict[str, Any]]
    import_s: Mapped[float]
    """Seconds that a fresh process needs to import torch and diffusers here; a part of every trial's cold start."""
    files: Mapped[str]
    """Folder with one subfolder per trial: apply.py, log, pictures."""
    space: Mapped[dict[str, Any]]
    """{technique: {parameter: choices}} that can work on this device."""
    left_out: Mapped[dict[str, Any]]
    """Techniques and values of the study's space that cannot work there, with reasons."""
    pipelines: Mapped[dict[str, Any]]
    """{name: PipelineFacts} as the reference found them."""


class RunRecord(Base, kw_only=True):
    """One process and what came of it. Runs are only ever added: what they mean is worked out when they are read."""

    __tablename__ = "paretune_run"

    id: Mapped[int] = mapped_column(primary_key=True, init=False)
    schema_version: Mapped[int] = mapped_column(default=SCHEMA_VERSION)
    kind: Mapped[str]
    """A RunKind."""
    workload_key: Mapped[str] = mapped_column(index=True)
    configuration_key: Mapped[str]
    configuration: Mapped[dict[str, Any]]
    fingerprint_key: Mapped[str]
    worker: Mapped[str] = mapped_column(default="local")
    """The place that ran it: "local" for a process on the launching machine."""
    study: Mapped[str]
    """The study that asked for it, and the number of the trial there; other studies may use it too."""
    trial: Mapped[int]
    session: Mapped[int] = mapped_column(default=0)
    """What belongs together: the blocks of one confirmation, the attempts of one canary."""
    position: Mapped[int] = mapped_column(default=0)
    """Its place in the session's order."""
    outcome: Mapped[str]
    reason: Mapped[str] = mapped_column(Text, default="")
    """One sentence; empty when complete."""
    log_tail: Mapped[str] = mapped_column(Text, default="")
    measurements: Mapped[dict[str, Any]]
    """latency_ms, peak_vram_gib, drift, ... with their spread; empty unless complete."""
    phases_s: Mapped[dict[str, Any]] = mapped_column(default_factory=dict)
    """Seconds per phase, in order."""
    apply_py: Mapped[str] = mapped_column(Text, default="")
    """The apply.py that a trial ran, to be exported as it was; empty for other kinds."""
    folder: Mapped[str] = mapped_column(default="")
    """Where a trial left its log, pictures and latents; empty for other kinds."""
    finished_at: Mapped[str] = mapped_column(default_factory=utc_now)

    @property
    def complete(self) -> bool:
        """Whether it came to its end."""
        return self.outcome == Outcome.COMPLETE


class StudyRunRecord(Base, kw_only=True):
    """A study uses a run, as part of one of its trials: its own, or one that another study has made."""

    __tablename__ = "paretune_study_run"
    __table_args__ = (UniqueConstraint("study", "run", name="each_run_once_in_a_study"),)

    id: Mapped[int] = mapped_column(primary_key=True, init=False)
    schema_version: Mapped[int] = mapped_column(default=SCHEMA_VERSION)
    study: Mapped[str] = mapped_column(ForeignKey("paretune_study.name"), index=True)
    run: Mapped[int] = mapped_column(ForeignKey("paretune_run.id"))
    trial: Mapped[int]
    """The trial's number in this study."""


class LaunchRecord(Base, kw_only=True):
    """Who is launching a study now. The only rows that are changed and deleted: nothing in them was measured."""

    __tablename__ = "paretune_launch"

    study: Mapped[str] = mapped_column(primary_key=True)
    schema_version: Mapped[int] = mapped_column(default=SCHEMA_VERSION)
    token: Mapped[str]
    """Tells this launch from every other one."""
    doing: Mapped[str]
    """ "launched" or "judged again"."""
    host: Mapped[str]
    process_table: Mapped[str]
    """The same for processes that can see each other."""
    pid: Mapped[int]
    process_began_s: Mapped[float]
    """Since the epoch, by the host's clock: a process of the same number may be another one."""
    heard_s: Mapped[float] = mapped_column(default=0.0)
    """Since the epoch, by the database's clock: when it was renewed last."""


class RatingRecord(Base, kw_only=True):
    """What a person says of one picture beside the reference's; the newest one of each person counts."""

    __tablename__ = "paretune_rating"

    id: Mapped[int] = mapped_column(primary_key=True, init=False)
    schema_version: Mapped[int] = mapped_column(default=SCHEMA_VERSION)
    study: Mapped[str] = mapped_column(index=True)
    trial: Mapped[int]
    picture: Mapped[str]
    """File name, as in the trial's pictures folder."""
    rating: Mapped[str]
    """ "better", "same" or "worse" than the reference's."""
    rater: Mapped[str]
    rated_at: Mapped[str] = mapped_column(default_factory=utc_now)


class BlindRecord(Base, kw_only=True):
    """That a rating was given blind: by somebody who did not know which of the two pictures was the reference's."""

    __tablename__ = "paretune_blind_rating"

    rating: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    """Its id."""


class ChoiceRecord(Base, kw_only=True):
    """A configuration that somebody has chosen, and why; the newest one counts."""

    __tablename__ = "paretune_choice"

    id: Mapped[int] = mapped_column(primary_key=True, init=False)
    schema_version: Mapped[int] = mapped_column(default=SCHEMA_VERSION)
    study: Mapped[str] = mapped_column(index=True)
    trial: Mapped[int]
    note: Mapped[str] = mapped_column(Text)
    chosen_by: Mapped[str]
    chosen_at: Mapped[str] = mapped_column(default_factory=utc_now)
