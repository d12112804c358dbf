"""Reads and writes our tables. Runs are appended and never changed; everything is written as it happens."""

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

from sqlalchemy import delete, extract, func, insert, inspect, select, update
from sqlalchemy.exc import DBAPIError, IntegrityError
from sqlalchemy.orm import Session

from ._database import connect, make_tables, shown
from ._database_file import DatabaseFile
from ._errors import UserError
from ._faults import database_fault
from ._places import short
from ._secrets import without_secrets
from ._sections import NAME_PATTERN
from ._stored import RATINGS, checked
from ._tables import (
    SCHEMA_VERSION,
    Base,
    BlindRecord,
    ChoiceRecord,
    LaunchRecord,
    Outcome,
    RatingRecord,
    RunKind,
    RunRecord,
    StudyRecord,
    StudyRunRecord,
)

DEFAULT_STORAGE = "sqlite:///paretune.db"


_NOW_S = extract("epoch", func.current_timestamp())
"""By the database's clock: those of two hosts may differ."""
R = TypeVar("R", bound=Base)


@dataclass(frozen=True)
class LinkedRun:
    """A run as one study sees it."""

    link: int
    """Grows with every run that the study takes up."""
    trial: int
    """The trial's number in this study."""
    run: RunRecord


@dataclass(frozen=True)
class EndedTrial:
    """How a trial ended, in whatever study."""

    study: str
    trial: int
    configuration: dict[str, Any]
    """As it is stored."""
    outcome: Outcome
    reason: str
    apply_py: str


class Records:
    """The tables behind one storage URL. What is read from them was checked: see _stored.py."""

    def __init__(self, url: str, *, must_exist: bool = False) -> None:
        """Connect, and create the tables where they are missing.

        must_exist: a database without a study of ours is an error, and nothing is created: for commands that read.
        Raises UserError when the database cannot be used.
        """
        self.url = url
        self.engine = connect(url, must_exist=must_exist)
        self._file = DatabaseFile(self.engine) if self.engine.dialect.name == "sqlite" else None
        if not must_exist:
            self.make_tables()

    @property
    def reading_url(self) -> str:
        """The URL by which it is read: another one than `url` where this user may not write."""
        return self.engine.url.render_as_string(hide_password=False)

    def make_tables(self) -> None:
        """Create what is missing, in an earlier version's database too. Raises UserError."""
        make_tables(self.engine, self.url)

    def _checked(self, record: R) -> R:
        return checked(record, lambda: shown(self.url))

    @contextmanager
    def _session(self) -> Iterator[Session]:
        try:
            with Session(self.engine, expire_on_commit=False) as session, session.begin():
                yield session
        except DBAPIError as error:
            self.require_file()
            raise UserError(database_fault(error, shown(self.url))) from None
        except UnicodeEncodeError as error:
            text = short(ascii(error.object))
            raise UserError(f"{text} is no text that a database can hold: it is not UTF-8") from None

    @contextmanager
    def _writing(self) -> Iterator[Session]:
        with self._session() as session:
            yield session
        self.require_file()  # after, so that what was written is kept too

    def is_current(self) -> bool:
        """Whether what is read here is what stands under its name now: False when an SQLite file was taken away, or
        another one put there.
        """
        return self._file is None or self._file.is_there()

    def require_file(self) -> None:
        """Raise UserError when the database's file was taken away, after which nothing written to it would last."""
        if self._file is not None:
            self._file.require()

    def study_names(self) -> list[str]:
        """Of every study, oldest first, whether it can be read or not."""
        with self._session() as session:
            return [str(name) for name in session.scalars(select(StudyRecord.name).order_by(StudyRecord.created_at))]

    def studies(self) -> list[StudyRecord]:
        """Every study, oldest first. Raises UserError when the row of one is not as it was written."""
        return [self.study(name) for name in self.study_names()]

    def study(self, name: str) -> StudyRecord:
        """One study. Raises UserError when there is none of that name."""
        record = self.find_study(name)
        if record is None:
            names = ", ".join(self.study_names()) or "none yet"
            raise UserError(f"there is no study {short(repr(name))} in {shown(self.url)} (studies there: {names})")
        return record

    def find_study(self, name: str) -> StudyRecord | None:
        """One study, or None. Raises UserError when its row is not as it was written."""
        if re.fullmatch(NAME_PATTERN, name) is None:
            return None  # not every database can be asked for every text
        with self._session() as session:
            record = session.get(StudyRecord, name)
        return None if record is None else self._checked(record)

    def runs(self, study: str, *, after: int = 0) -> list[LinkedRun]:
        """The runs that a study uses, in the order in which it took them up; only those after link `after`.

        Raises UserError when a row is not as it was written.
        """
        query = (
            select(StudyRunRecord, RunRecord)
            .join(RunRecord, RunRecord.id == StudyRunRecord.run)
            .where(StudyRunRecord.study == study, StudyRunRecord.id > after)
            .order_by(StudyRunRecord.id)
        )
        with self._session() as session:
            found = list(session.execute(query))
        return [LinkedRun(self._checked(link).id, link.trial, self._checked(run)) for link, run in found]

    def links(self, study: str) -> set[tuple[int, int]]:
        """(link, run) of each run that a study uses."""
        query = select(StudyRunRecord.id, StudyRunRecord.run).where(StudyRunRecord.study == study)
        with self._session() as session:
            return {(link, run) for link, run in session.execute(query)}

    def ended_trials(self, fingerprint_key: str, outcomes: Sequence[Outcome]) -> list[EndedTrial]:
        """The trials of every study on one machine that ended in one of these ways, in order, but for rows that cannot
        be read.
        """
        row = RunRecord
        columns = (row.study, row.trial, row.configuration, row.outcome, row.reason, row.apply_py)
        query = (
            select(*columns)
            .where(row.fingerprint_key == fingerprint_key, row.kind == RunKind.TRIAL, row.outcome.in_(outcomes))
            .where(row.schema_version == SCHEMA_VERSION)
            .order_by(row.id)
        )
        with self._session() as session:
            found = [tuple(one) for one in session.execute(query)]
        types = (str, int, dict, str, str, str)
        return [
            EndedTrial(study, trial, configuration, Outcome(outcome), without_secrets(reason), apply_py)
            for one in found
            if all(isinstance(value, kind) for value, kind in zip(one, types, strict=True))
            for study, trial, configuration, outcome, reason, apply_py in [one]
        ]

    def add_study(self, record: StudyRecord, reference: Sequence[RunRecord], known: Sequence[RunRecord] = ()) -> None:
        """Write a new study together with the runs of its reference: all of it or nothing.

        reference: new runs; known: runs that another study has made, which this one uses too.
        """
        with self._writing() as session:
            session.add(record)
            session.add_all(reference)
            session.flush()
            session.add_all(_link(record.name, 0, run) for run in (*known, *reference))

    def add_run(self, run: RunRecord) -> RunRecord:
        """Write one run of the study that asked for it, at once; returns it."""
        self.add_runs([run])
        return run

    def add_runs(self, runs: Sequence[RunRecord]) -> None:
        """Write runs that belong together: all of them or none."""
        with self._writing() as session:
            session.add_all(runs)
            session.flush()
            session.add_all(_link(run.study, run.trial, run) for run in runs)

    def use_runs(self, study: str, trial: int, runs: Sequence[RunRecord]) -> None:
        """Let a study use runs that another one has made, as its own trial `trial`: all of them or none."""
        with self._writing() as session:
            session.add_all(_link(study, trial, run) for run in runs)

    def judge_again(self, name: str, study: dict[str, Any], workload_key: str, runs: Sequence[RunRecord]) -> None:
        """Store new judgements of a study's pictures together with the settings they were made with: both or neither.

        study: the study file with its new `quality`; workload_key: of the new way to judge.
        """
        with self._writing() as session:
            record = session.get_one(StudyRecord, name)
            record.study, record.workload_key = study, workload_key
            session.add_all(runs)
            session.flush()
            session.add_all(_link(name, run.trial, run) for run in runs)

    def begin_launch(self, mine: LaunchRecord, is_dead: Callable[[LaunchRecord, float], bool]) -> LaunchRecord | None:
        """Enter who launches a study, unless somebody else does who is not dead; returns them then, else None.

        is_dead: asked of whoever is entered and for how many seconds nothing was heard of them.
        """
        self.make_tables()
        values = {column.key: getattr(mine, column.key) for column in LaunchRecord.__table__.columns}
        while True:
            try:
                with self.engine.begin() as connection:
                    connection.execute(insert(LaunchRecord).values({**values, "heard_s": _NOW_S}))
                return None
            except IntegrityError:
                pass
            except DBAPIError as error:
                raise UserError(database_fault(error, shown(self.url))) from None
            with self._session() as session:
                query = select(LaunchRecord, _NOW_S).where(LaunchRecord.study == mine.study)
                found = session.execute(query).one_or_none()
            if found is None:
                continue  # it has ended meanwhile
            holder, now_s = found
            if not is_dead(holder, float(now_s) - holder.heard_s):
                return holder
            self.end_launch(holder)

    def renew_launch(self, mine: LaunchRecord) -> bool:
        """Say that the launch goes on; False when it is not the one that is entered."""
        query = update(LaunchRecord).where(LaunchRecord.token == mine.token).values(heard_s=_NOW_S)
        with self._session() as session:
            return bool(session.execute(query).rowcount > 0)  # type: ignore[attr-defined]

    def end_launch(self, one: LaunchRecord) -> None:
        """Take out who launches a study, unless somebody else does by now."""
        with self._session() as session:
            session.execute(delete(LaunchRecord).where(LaunchRecord.token == one.token))

    def ratings(self, study: str, *, blind: bool = False) -> list[RatingRecord]:
        """The newest rating of each picture by each person, oldest first. blind: only of those given blind."""
        query = select(RatingRecord).where(RatingRecord.study == study).order_by(RatingRecord.id)
        if blind:
            if not self._has(BlindRecord):
                return []  # of an earlier version's database
            query = query.where(RatingRecord.id.in_(select(BlindRecord.rating)))
        with self._session() as session:
            newest = {(r.trial, r.picture, r.rater): self._checked(r) for r in session.scalars(query)}
        return sorted(newest.values(), key=lambda rating: rating.id)

    def rate(self, study: str, trial: int, picture: str, rating: str, rater: str, *, blind: bool = False) -> None:
        """Store a person's rating of a picture; the newest one of each person counts.

        blind: that the person did not know which of the two pictures was the reference's. Raises UserError for an
        unknown study or rating, or without a name.
        """
        self.study(study)
        if rating not in RATINGS:
            raise UserError(f"a picture is rated {', '.join(RATINGS)} than the reference's, not {rating!r}")
        if not rater.strip():
            raise UserError("a rating needs the name of who gives it")
        if blind:
            self.make_tables()
        with self._writing() as session:
            record = RatingRecord(study=study, trial=trial, picture=picture, rating=rating, rater=rater)
            session.add(record)
            if blind:
                session.flush()
                session.add(BlindRecord(rating=record.id))

    def choices(self, study: str) -> list[ChoiceRecord]:
        """Every choice that was made in a study, oldest first."""
        if not self._has(ChoiceRecord):
            return []  # of an earlier version's database
        query = select(ChoiceRecord).where(ChoiceRecord.study == study).order_by(ChoiceRecord.id)
        with self._session() as session:
            return [self._checked(one) for one in session.scalars(query)]

    def choose(self, study: str, trial: int, note: str, by: str) -> None:
        """Store that somebody has chosen a trial, and why. Raises UserError for an unknown study or without a name."""
        self.study(study)
        if not by.strip():
            raise UserError("a choice needs the name of who makes it")
        self.make_tables()
        with self._writing() as session:
            session.add(ChoiceRecord(study=study, trial=trial, note=note, chosen_by=by))

    def silent_s(self, study: str) -> float | None:
        """Seconds since its launch was heard of last; None when nobody launches it."""
        if not self._has(LaunchRecord):
            return None
        query = select(_NOW_S - LaunchRecord.heard_s).where(LaunchRecord.study == study)
        with self._session() as session:
            found = session.scalar(query)
        return None if found is None else float(found)

    def _has(self, table: type[Base]) -> bool:
        return inspect(self.engine).has_table(table.__tablename__)


def _link(study: str, trial: int, run: RunRecord) -> StudyRunRecord:
    return StudyRunRecord(study=study, run=run.id, trial=trial)
