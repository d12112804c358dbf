"""Connecting to the database behind a storage URL."""

import json
from pathlib import Path
from typing import Any

from sqlalchemy import Engine, create_engine, event, inspect
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError, NoSuchModuleError, SQLAlchemyError

from ._errors import UserError
from ._secrets import without_secrets
from ._tables import Base


def connect(url: str, *, must_exist: bool) -> Engine:
    """An engine; our tables are created where they are missing.

    must_exist: a missing SQLite file is an error, and is not created. Raises UserError when it cannot be used.
    """
    if _has_bare_at(url):
        raise UserError(f"--storage {shown(url)}: write an @ in the password as %40")
    try:
        parsed = make_url(url)
        if parsed.get_backend_name() not in ("sqlite", "postgresql"):
            raise ArgumentError(parsed.get_backend_name())
        if parsed.get_backend_name() == "sqlite":
            if parsed.database in (None, "", ":memory:"):
                raise UserError(f"--storage {shown(url)} would keep nothing: name a file, as in sqlite:///paretune.db")
            if must_exist and not Path(str(parsed.database)).is_file():
                raise UserError(
                    f"there is no database {parsed.database}: paretune launch creates one, --storage names another"
                )
            Path(str(parsed.database)).parent.mkdir(parents=True, exist_ok=True)
        engine = create_engine(url, pool_pre_ping=True, json_serializer=_to_json)
        if parsed.get_backend_name() == "sqlite":
            event.listen(engine, "connect", _durable)
        _refuse_older_tables(engine, url)
        Base.metadata.create_all(engine)
    except (ArgumentError, NoSuchModuleError, ValueError):
        raise UserError(
            f"--storage {shown(url)} is not a database URL; write sqlite:///FILE or postgresql://USER@HOST/DATABASE"
        ) from None
    except ModuleNotFoundError as error:
        raise UserError(f"the database driver {error.name} is missing: pip install 'paretune[postgresql]'") from None
    except (SQLAlchemyError, OSError) as error:
        raise UserError(f"the database {shown(url)} cannot be used: {first_line(error)}") from None
    return engine


def _refuse_older_tables(engine: Engine, url: str) -> None:
    """Raise UserError for tables of an earlier version, which lack what this one writes."""
    found = inspect(engine)
    present = set(found.get_table_names())
    for table in Base.metadata.sorted_tables:
        if table.name not in present:
            continue
        missing = {column.name for column in table.columns} - {c["name"] for c in found.get_columns(table.name)}
        if missing:
            raise UserError(
                f"the database {shown(url)} was made by an earlier version of paretune: name another --storage"
            )


def _durable(connection: Any, _: Any) -> None:
    # Readers (report, dashboard) never block a running launch, and a killed launch loses nothing.
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("PRAGMA busy_timeout=30000")


def _to_json(value: Any) -> str:
    return json.dumps(value, allow_nan=False, ensure_ascii=False)


def shown(url: str) -> str:
    """The URL without its password; nothing of one that is none, where nobody knows which part that is."""
    try:
        make_url(url)
    except (ArgumentError, ValueError):
        return repr(without_secrets(url)) if "@" not in url else "that was given"
    return without_secrets(url)


def _has_bare_at(url: str) -> bool:
    """Whether a password has an @ of its own, and would end there."""
    return url.partition("://")[2].partition("/")[0].count("@") > 1


def first_line(error: BaseException) -> str:
    """The first line of what a database driver says."""
    original = getattr(error, "orig", None) or error
    lines = without_secrets(str(original)).strip().splitlines()
    return lines[0].rstrip(".") if lines else type(original).__name__
