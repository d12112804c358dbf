"""Our own tables, beside Optuna's in the same database: studies and every measurement, written as they happen."""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Any

from sqlalchemy import JSON, Engine, Text, UniqueConstraint, create_engine, event, inspect, select
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, NoSuchModuleError, SQLAlchemyError
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from ._errors import UserError

SCHEMA_VERSION = 2
UNCHECKED, STEADY, MOVED = "unchecked", "steady", "moved"
"""What canaries say of the time in which a trial was measured; STEADY needs a good one before and after."""
DEFAULT_STORAGE = "sqlite:///paretune.db"


class Outcome(StrEnum):
    """How a trial ended. All but `infrastructure` teach the sampler; `infrastructure` is tried again."""

    COMPLETE = "complete"
    OOM = "oom"
    TIMEOUT = "timeout"
    CRASH = "crash"
    COMPILE_ERROR = "compile_error"
    APPLY_ERROR = "apply_error"
    UNSUPPORTED = "unsupported"
    INVALID_OUTPUT = "invalid_output"
    INFRASTRUCTURE = "infrastructure"


class _Base(DeclarativeBase):
    # None is SQL's NULL, which a query can ask for, not JSON's.
    type_annotation_map = {dict[str, Any]: JSON(none_as_null=True)}  # noqa: RUF012 (SQLAlchemy's own name)


class StudyRecord(_Base):
    """A launched study, with everything that has to stay the same when it is continued."""

    __tablename__ = "paretune_study"

    name: Mapped[str] = mapped_column(primary_key=True)
    schema_version: Mapped[int]
    created_at: Mapped[str]
    study: Mapped[dict[str, Any]]
    """The study file, resolved."""
    workload_key: Mapped[str]
    fingerprint: Mapped[dict[str, Any]]
    import_s: Mapped[float]
    """Seconds that a fresh process needs to import torch and diffusers here; a part of every trial's cold start."""
    files: Mapped[str]
    """Folder with one subfolder per trial: apply.py, log, pictures."""
    space: Mapped[dict[str, Any] | None]
    """{technique: {parameter: choices}} that can work on this device; None until the reference was measured."""
    left_out: Mapped[dict[str, Any] | None]
    """Techniques and values of the study's space that cannot work there, with reasons."""
    pipelines: Mapped[dict[str, Any] | None]
    """{name: PipelineFacts} as the reference found them."""
    noise_floor: Mapped[dict[str, Any] | None]
    """objectives.noise_floor.NoiseFloor; None until the reference was measured in enough processes."""
    benign_floor: Mapped[dict[str, Any] | None]
    """How far pictures drift when only the order of arithmetic changes (agent/_benign.py); None until measured."""


class MeasurementRecord(_Base):
    """One configuration, tried: its outcome and everything that was measured."""

    __tablename__ = "paretune_measurement"
    __table_args__ = (UniqueConstraint("study", "configuration_key", name="one_measurement_per_configuration"),)

    id: Mapped[int] = mapped_column(primary_key=True)
    schema_version: Mapped[int]
    study: Mapped[str] = mapped_column(index=True)
    trial: Mapped[int]
    workload_key: Mapped[str]
    configuration_key: Mapped[str]
    configuration: Mapped[dict[str, Any]]
    fingerprint_key: Mapped[str]
    fingerprint: Mapped[dict[str, Any]]
    apply_py: Mapped[str] = mapped_column(Text)
    """The apply.py that the trial ran, to be exported as it was."""
    outcome: Mapped[str]
    reason: Mapped[str] = mapped_column(Text)
    """One sentence; empty when complete."""
    log_tail: Mapped[str] = mapped_column(Text)
    measurements: Mapped[dict[str, Any]]
    """latency_ms, peak_vram_gib, drift, ... with their spread; empty unless complete."""
    phases_s: Mapped[dict[str, Any]]
    """Seconds per phase, in order."""
    finished_at: Mapped[str]
    reused_from: Mapped[dict[str, Any] | None]
    """{study, trial, finished_at} of the study that measured it, when it was not this one."""
    machine: Mapped[str] = mapped_column(default=UNCHECKED)
    """Whether the machine was then as for the reference: STEADY, MOVED, or UNCHECKED until the next canary."""

    def changed(self, **columns: Any) -> "MeasurementRecord":
        """A new record, of these columns and this one's others."""
        known = {c.name: getattr(self, c.name) for c in self.__table__.columns if c.name != "id"}
        return MeasurementRecord(**{**known, **columns})


class RunRecord(_Base):
    """One process beside the trials: of the noise floor, a canary, a finalist's block, a cold start, and the like."""

    __tablename__ = "paretune_run"

    id: Mapped[int] = mapped_column(primary_key=True)
    schema_version: Mapped[int]
    study: Mapped[str] = mapped_column(index=True)
    kind: Mapped[str]
    """ "floor", "canary", "block", "cold-start", "pictures", "benign", or "superseded" (a trial measured again)."""
    session: Mapped[int]
    """What belongs together: the blocks of one confirmation, the canaries after so many trials."""
    position: Mapped[int]
    """Its place in the session's order."""
    trial: Mapped[int]
    configuration_key: Mapped[str]
    fingerprint_key: Mapped[str]
    outcome: Mapped[str]
    reason: Mapped[str] = mapped_column(Text)
    measurements: Mapped[dict[str, Any]]
    phases_s: Mapped[dict[str, Any]]
    finished_at: Mapped[str]


class RatingRecord(_Base):
    """What a person says of one picture beside the reference's."""

    __tablename__ = "paretune_rating"
    __table_args__ = (UniqueConstraint("study", "trial", "picture", "rater", name="one_rating_per_person_and_picture"),)

    id: Mapped[int] = mapped_column(primary_key=True)
    schema_version: Mapped[int]
    study: Mapped[str] = mapped_column(index=True)
    trial: Mapped[int]
    picture: Mapped[str]
    """File name, as in the trial's pictures folder."""
    rating: Mapped[str]
    """ "better", "same" or "worse" than the reference's."""
    rater: Mapped[str]
    rated_at: Mapped[str]


RATINGS = ("better", "same", "worse")


def utc_now() -> str:
    """ISO 8601 with seconds."""
    return datetime.now(UTC).isoformat(timespec="seconds")


class Records:
    """The tables behind one storage URL."""

    def __init__(self, url: str, *, must_exist: bool = False) -> None:
        """Connect, and make the tables where they are missing.

        must_exist: an SQLite file that is not there is an error, not made: for commands that only read.
        Raises UserError when the database cannot be used.
        """
        self.url = url
        self.engine = _connect(url, must_exist)

    @contextmanager
    def _session(self) -> Iterator[Session]:
        try:
            with Session(self.engine, expire_on_commit=False) as session, session.begin():
                yield session
        except DBAPIError as error:
            raise UserError(f"the database {_shown(self.url)} failed: {_first_line(error)}") from None

    def studies(self) -> list[StudyRecord]:
        """Every study, oldest first."""
        with self._session() as session:
            return list(session.scalars(select(StudyRecord).order_by(StudyRecord.created_at)))

    def study(self, name: str) -> StudyRecord:
        """One study. Raises UserError when there is none of that name."""
        with self._session() as session:
            record = session.get(StudyRecord, name)
        if record is None:
            names = ", ".join(study.name for study in self.studies()) or "none yet"
            raise UserError(f"there is no study {name!r} in {_shown(self.url)} (studies there: {names})")
        return record

    def find_study(self, name: str) -> StudyRecord | None:
        """One study, or None."""
        with self._session() as session:
            return session.get(StudyRecord, name)

    def add_study(self, record: StudyRecord, reference: MeasurementRecord) -> None:
        """Write a new study together with the measurement of its reference: both or neither."""
        with self._session() as session:
            session.add_all([record, reference])

    def measurements(self, study: str) -> list[MeasurementRecord]:
        """Every measurement of a study, by trial."""
        query = select(MeasurementRecord).where(MeasurementRecord.study == study).order_by(MeasurementRecord.trial)
        with self._session() as session:
            return list(session.scalars(query))

    def elsewhere(self, workload_key: str, configuration_key: str, fingerprint_key: str) -> list[MeasurementRecord]:
        """Every measurement of a configuration on one workload and machine, in whatever study, newest first."""
        query = (
            select(MeasurementRecord)
            .where(
                MeasurementRecord.workload_key == workload_key,
                MeasurementRecord.configuration_key == configuration_key,
                MeasurementRecord.fingerprint_key == fingerprint_key,
                MeasurementRecord.reused_from.is_(None),
            )
            .order_by(MeasurementRecord.finished_at.desc())
        )
        with self._session() as session:
            return list(session.scalars(query))

    def find_measurement(self, study: str, configuration_key: str) -> MeasurementRecord | None:
        """What is known of a configuration in a study, or None."""
        query = select(MeasurementRecord).where(
            MeasurementRecord.study == study, MeasurementRecord.configuration_key == configuration_key
        )
        with self._session() as session:
            return session.scalars(query).one_or_none()

    def add_measurement(self, record: MeasurementRecord) -> None:
        """Write one measurement, at once."""
        with self._session() as session:
            session.add(record)

    def replace_measurement(self, record: MeasurementRecord, former: RunRecord) -> None:
        """Put a new measurement in the place of the one of the same trial, which is kept as a run: both or neither."""
        query = select(MeasurementRecord).where(
            MeasurementRecord.study == record.study, MeasurementRecord.trial == record.trial
        )
        with self._session() as session:
            session.delete(session.scalars(query).one())
            session.flush()
            session.add_all([record, former])

    def update_measurement(self, study: str, trial: int, **columns: Any) -> None:
        """Write what more is known of a trial (judged pictures, a cold start) over what was known."""
        query = select(MeasurementRecord).where(MeasurementRecord.study == study, MeasurementRecord.trial == trial)
        with self._session() as session:
            record = session.scalars(query).one()
            for column, value in columns.items():
                setattr(record, column, value)

    def settle_machine(self, study: str, state: str) -> None:
        """What a canary says of every trial that was measured since the one before it."""
        query = select(MeasurementRecord).where(
            MeasurementRecord.study == study, MeasurementRecord.machine == UNCHECKED
        )
        with self._session() as session:
            for record in session.scalars(query):
                record.machine = state

    def update_all(self, name: str, trials: Mapping[int, Mapping[str, Any]], **columns: Any) -> None:
        """Write columns of several trials, {number: {column: value}}, and of their study: all of it or nothing."""
        query = select(MeasurementRecord).where(MeasurementRecord.study == name)
        with self._session() as session:
            record = session.get_one(StudyRecord, name)
            for column, value in columns.items():
                setattr(record, column, value)
            for measurement in session.scalars(query):
                for column, value in trials.get(measurement.trial, {}).items():
                    setattr(measurement, column, value)

    def update_study(self, name: str, **columns: Any) -> None:
        """Write columns of a study that are found out after it was made."""
        with self._session() as session:
            record = session.get_one(StudyRecord, name)
            for column, value in columns.items():
                setattr(record, column, value)

    def runs(self, study: str, kind: str | None = None) -> list[RunRecord]:
        """The processes beside a study's trials, in the order they ended."""
        query = select(RunRecord).where(RunRecord.study == study).order_by(RunRecord.id)
        if kind is not None:
            query = query.where(RunRecord.kind == kind)
        with self._session() as session:
            return list(session.scalars(query))

    def add_run(self, record: RunRecord) -> None:
        """Write one run, at once."""
        with self._session() as session:
            session.add(record)

    def ratings(self, study: str) -> list[RatingRecord]:
        """Every rating of a study's pictures, oldest first."""
        query = select(RatingRecord).where(RatingRecord.study == study).order_by(RatingRecord.id)
        with self._session() as session:
            return list(session.scalars(query))

    def rate(self, study: str, trial: int, picture: str, rating: str, rater: str) -> None:
        """Keep what a person says of a picture; a later word of the same person takes the place of an earlier one.

        Raises UserError for an unknown study or rating, or without a name.
        """
        self.study(study)
        if rating not in RATINGS:
            raise UserError(f"a picture is rated {', '.join(RATINGS)} than the reference's, not {rating!r}")
        if not rater.strip():
            raise UserError("a rating needs the name of who gives it")
        query = select(RatingRecord).where(
            RatingRecord.study == study,
            RatingRecord.trial == trial,
            RatingRecord.picture == picture,
            RatingRecord.rater == rater,
        )
        with self._session() as session:
            if (before := session.scalars(query).one_or_none()) is not None:
                before.rating, before.rated_at = rating, utc_now()
                return
            session.add(
                RatingRecord(
                    schema_version=SCHEMA_VERSION,
                    study=study,
                    trial=trial,
                    picture=picture,
                    rating=rating,
                    rater=rater,
                    rated_at=utc_now(),
                )
            )


def _connect(url: str, must_exist: bool) -> Engine:
    try:
        parsed = make_url(url)
        if parsed.get_backend_name() not in ("sqlite", "postgresql"):
            raise ArgumentError(parsed.get_backend_name())
        if parsed.get_backend_name() == "sqlite":
            if parsed.database in (None, "", ":memory:"):
                raise UserError(f"--storage {url} would keep nothing: name a file, as in sqlite:///paretune.db")
            if must_exist and not Path(str(parsed.database)).is_file():
                raise UserError(
                    f"there is no database {parsed.database}: paretune launch makes one, --storage names another"
                )
            Path(str(parsed.database)).parent.mkdir(parents=True, exist_ok=True)
        engine = create_engine(url, pool_pre_ping=True, json_serializer=_to_json)
        if parsed.get_backend_name() == "sqlite":
            event.listen(engine, "connect", _durable)
        _Base.metadata.create_all(engine)
        _refuse_older_tables(engine, url)
    except (ArgumentError, NoSuchModuleError, ValueError):
        raise UserError(
            f"--storage {_shown(url)} is not a database URL; write sqlite:///FILE or postgresql://USER@HOST/DATABASE"
        ) from None
    except ModuleNotFoundError as error:
        raise UserError(f"the database driver {error.name} is missing: pip install 'paretune[postgresql]'") from None
    except (SQLAlchemyError, OSError) as error:
        raise UserError(f"the database {_shown(url)} cannot be used: {_first_line(error)}") from None
    return engine


def _refuse_older_tables(engine: Engine, url: str) -> None:
    """Tables that an earlier version made stay as they are, and lack what this one writes."""
    found = inspect(engine)
    for table in _Base.metadata.sorted_tables:
        missing = {column.name for column in table.columns} - {c["name"] for c in found.get_columns(table.name)}
        if missing:
            raise UserError(
                f"the database {_shown(url)} was made by an earlier version of paretune: name another --storage"
            )


def _durable(connection: Any, _: Any) -> None:
    # Readers (report, dashboard) never block a running launch, and a killed launch loses nothing.
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("PRAGMA busy_timeout=30000")


def _to_json(value: Any) -> str:
    return json.dumps(value, allow_nan=False, ensure_ascii=False)


def _shown(url: str) -> str:
    """The URL without its password."""
    try:
        return make_url(url).render_as_string(hide_password=True)
    except (ArgumentError, ValueError):
        return repr(url) if "@" not in url else "that was given"


def _first_line(error: BaseException) -> str:
    original = getattr(error, "orig", None) or error
    return str(original).strip().splitlines()[0].rstrip(".") if str(original).strip() else type(original).__name__
