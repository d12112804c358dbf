"""Reads and writes our tables. Runs are appended and never changed; everything is written as it happens."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from sqlalchemy import select
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session

from ._database import connect, shown
from ._database_file import DatabaseFile
from ._errors import UserError
from ._faults import database_fault
from ._tables import RatingRecord, RunRecord, StudyRecord, StudyRunRecord

DEFAULT_STORAGE = "sqlite:///paretune.db"
RATINGS = ("better", "same", "worse")


@dataclass(frozen=True)
class LinkedRun:
    """A run as one study sees it."""

    link: int
    """Grows with every run that the study takes up."""
    trial: int
    """The trial's number in this study."""
    run: RunRecord


class Records:
    """The tables behind one storage URL."""

    def __init__(self, url: str, *, must_exist: bool = False) -> None:
        """Connect, and create the tables where they are missing.

        must_exist: a missing SQLite file is an error, and is not created: for commands that only read.
        Raises UserError when the database cannot be used.
        """
        self.url = url
        self.engine = connect(url, must_exist=must_exist)
        self._file = DatabaseFile(self.engine) if self.engine.dialect.name == "sqlite" else None

    @contextmanager
    def _session(self) -> Iterator[Session]:
        try:
            with Session(self.engine, expire_on_commit=False) as session, session.begin():
                yield session
        except DBAPIError as error:
            self.require_file()
            raise UserError(database_fault(error, shown(self.url))) from None

    @contextmanager
    def _writing(self) -> Iterator[Session]:
        with self._session() as session:
            yield session
        self.require_file()  # after, so that what was written is kept too

    def require_file(self) -> None:
        """Raise UserError when the database's file was taken away, after which nothing written to it would last."""
        if self._file is not None:
            self._file.require()

    def studies(self) -> list[StudyRecord]:
        """Every study, oldest first."""
        with self._session() as session:
            return list(session.scalars(select(StudyRecord).order_by(StudyRecord.created_at)))

    def study(self, name: str) -> StudyRecord:
        """One study. Raises UserError when there is none of that name."""
        record = self.find_study(name)
        if record is None:
            names = ", ".join(study.name for study in self.studies()) or "none yet"
            raise UserError(f"there is no study {name!r} in {shown(self.url)} (studies there: {names})")
        return record

    def find_study(self, name: str) -> StudyRecord | None:
        """One study, or None."""
        with self._session() as session:
            return session.get(StudyRecord, name)

    def runs(self, study: str, *, after: int = 0) -> list[LinkedRun]:
        """The runs that a study uses, in the order in which it took them up; only those after link `after`."""
        query = (
            select(StudyRunRecord.id, StudyRunRecord.trial, RunRecord)
            .join(RunRecord, RunRecord.id == StudyRunRecord.run)
            .where(StudyRunRecord.study == study, StudyRunRecord.id > after)
            .order_by(StudyRunRecord.id)
        )
        with self._session() as session:
            return [LinkedRun(link, trial, run) for link, trial, run in session.execute(query)]

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

    def ratings(self, study: str) -> list[RatingRecord]:
        """The newest rating of each picture by each person, oldest first."""
        query = select(RatingRecord).where(RatingRecord.study == study).order_by(RatingRecord.id)
        with self._session() as session:
            newest = {(r.trial, r.picture, r.rater): r for r in session.scalars(query)}
        return sorted(newest.values(), key=lambda rating: rating.id)

    def rate(self, study: str, trial: int, picture: str, rating: str, rater: str) -> None:
        """Store a person's rating of a picture; the newest one of each person counts.

        Raises UserError for an unknown study or rating, or without a name.
        """
        self.study(study)
        if rating not in RATINGS:
            raise UserError(f"a picture is rated {', '.join(RATINGS)} than the reference's, not {rating!r}")
        if not rater.strip():
            raise UserError("a rating needs the name of who gives it")
        with self._writing() as session:
            session.add(RatingRecord(study=study, trial=trial, picture=picture, rating=rating, rater=rater))


def _link(study: str, trial: int, run: RunRecord) -> StudyRunRecord:
    return StudyRunRecord(study=study, run=run.id, trial=trial)
