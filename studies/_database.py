"""Connecting to the database behind a storage URL."""

import json
import os
from pathlib import Path
from typing import Any
from urllib.parse import quote

from sqlalchemy import URL, Engine, create_engine, event, inspect
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError, NoSuchModuleError, SQLAlchemyError

from ._errors import UserError
from ._faults import database_fault
from ._secrets import STARS, keep_secret, without_secrets
from ._stored import from_json
from ._tables import Base, StudyRecord

BUSY_S = 30.0
"""How long to wait for another program that writes to an SQLite database."""


def connect(url: str, *, must_exist: bool) -> Engine:
    """An engine. Nothing is written: see make_tables.

    must_exist: for reading: an error unless there are our tables. Raises UserError when it cannot be used.
    """
    keep_secret(url)
    if _has_bare_at(url):
        raise UserError(f"--storage {shown(url)}: write an @ in the password as %40")
    try:
        parsed = make_url(url)
        if parsed.get_backend_name() not in ("sqlite", "postgresql"):
            raise ArgumentError(parsed.get_backend_name())
        if parsed.get_backend_name() == "sqlite":
            parsed = _sqlite(parsed, must_exist)
        engine = create_engine(parsed, pool_pre_ping=True, json_serializer=_to_json, json_deserializer=from_json)
        if parsed.get_backend_name() == "sqlite":
            event.listen(engine, "connect", _patient)
        present = set(inspect(engine).get_table_names())
        if must_exist and StudyRecord.__tablename__ not in present:
            raise UserError(f"the database {shown(url)} has no study of paretune: paretune launch adds one")
        _refuse_older_tables(engine, url, present)
    except (ArgumentError, NoSuchModuleError, ValueError):
        raise UserError(
            f"--storage {shown(url)} is not a database URL; write sqlite:///FILE or postgresql://USER@HOST/DATABASE"
        ) from None
    except ModuleNotFoundError as error:
        raise UserError(f"the database driver {error.name} is missing: pip install 'paretune[postgresql]'") from None
    except (SQLAlchemyError, OSError) as error:
        raise UserError(database_fault(error, shown(url), "cannot be used")) from None
    return engine


def make_tables(engine: Engine, url: str) -> None:
    """Create our tables where they are missing. Raises UserError."""
    try:
        if engine.dialect.name == "sqlite":
            with engine.connect() as connection:
                # Readers never block a running launch, and a killed launch loses nothing. The file remembers it.
                connection.exec_driver_sql("PRAGMA journal_mode=WAL")
        try:
            Base.metadata.create_all(engine)
        except SQLAlchemyError:
            Base.metadata.create_all(engine)  # another launch may have made them at the same moment
    except SQLAlchemyError as error:
        raise UserError(database_fault(error, shown(url), "cannot be used")) from None


def sqlite_file(url: URL) -> Path | None:
    """The file of an SQLite URL, "file:" URIs included; None for other databases."""
    if url.get_backend_name() != "sqlite" or not url.database:
        return None
    return Path(url.database.removeprefix("file:"))


def _sqlite(url: URL, must_exist: bool) -> URL:
    """The URL to connect with. Raises UserError for what would keep nothing or, when it must exist, is not there."""
    file = sqlite_file(url)
    if file is None or file.name in ("", ":memory:"):
        raise UserError(f"--storage {url} would keep nothing: name a file, as in sqlite:///paretune.db")
    if not must_exist:
        file.parent.mkdir(parents=True, exist_ok=True)
        return url
    if not file.is_file():
        raise UserError(f"there is no database {file}: paretune launch creates one, --storage names another")
    return url if url.query or _writable(file) else _read_only(file)


def _writable(file: Path) -> bool:
    return all(os.access(place, os.W_OK, effective_ids=True) for place in (file, file.absolute().parent))


def _read_only(file: Path) -> URL:
    """For a file that this user cannot write to. SQLite keeps the newest changes in a file beside it ("-wal"), and
    needs a third one ("-shm") to read them, which it cannot make here; a launch that is running has made it.
    """
    beside = {suffix: file.with_name(file.name + suffix) for suffix in ("-wal", "-shm")}
    query = {"uri": "true", "mode": "ro"}
    if not beside["-shm"].exists():
        if beside["-wal"].exists() and beside["-wal"].stat().st_size:
            raise UserError(
                f"the database {file} cannot be read where it may not be written: its newest changes are in "
                f"{beside['-wal'].name}; copy both to a folder of your own"
            )
        query = {"uri": "true", "immutable": "1"}
    return URL.create("sqlite", database=f"file:{quote(str(file.absolute()))}", query=query)


def _refuse_older_tables(engine: Engine, url: str, present: set[str]) -> None:
    """Raise UserError for tables of an earlier version, which lack what this one writes."""
    found = inspect(engine)
    for table in Base.metadata.sorted_tables:
        if table.name not in present:
            continue
        missing = {column.name for column in table.columns} - {c["name"] for c in found.get_columns(table.name)}
        if missing:
            raise UserError(
                f"the database {shown(url)} was made by an earlier version of paretune: name another --storage"
            )


def _patient(connection: Any, _: Any) -> None:
    connection.execute(f"PRAGMA busy_timeout={int(1000 * BUSY_S)}")


def _to_json(value: Any) -> str:
    return json.dumps(value, allow_nan=False, ensure_ascii=False)


def shown(url: str) -> str:
    """The URL without its password; nothing of one that is none, where nobody knows which part that is."""
    try:
        make_url(url)
    except (ArgumentError, ValueError):
        return repr(without_secrets(url)) if "@" not in url else "that was given"
    before, question, query = url.partition("?")
    # What stands behind a password that was not written as a URL has it is a part of it.
    return without_secrets(before) + question + (STARS if "password" in query.lower() else without_secrets(query))


def _has_bare_at(url: str) -> bool:
    """Whether a password has an @ of its own, and would end there, or what stands before the @ would be one."""
    backend, _, rest = url.partition("://")
    before, _, query = rest.partition("?")
    return not backend.startswith("sqlite") and (before.count("@") > 1 or "@" in query)


def optuna_engine(url: str) -> dict[str, Any]:
    """The arguments of Optuna's own engine on the same database: it waits for others as long as ours."""
    lasting: dict[str, Any] = {"pool_pre_ping": True}
    if make_url(url).get_backend_name() == "sqlite":
        lasting["connect_args"] = {"timeout": BUSY_S}
    return lasting
