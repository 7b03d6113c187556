"""Bringing a schema up to date, and saying how far it is.

Steps only add: a process of the version before goes on working while a newer one migrates, and a database that is ahead
of a program is used as it is. Processes that start at once migrate one after the other.
"""

from __future__ import annotations

import asyncio
import dataclasses
import pathlib
from collections.abc import Callable
from typing import TypeVar

import alembic.command
import alembic.config
import alembic.script
import sqlalchemy
from alembic.runtime.migration import MigrationContext
from sqlalchemy.ext.asyncio import create_async_engine

from orchestrator.database import DatabaseAway, is_away, prepare, reason

_LOCK = 0x0DC9_5C4E
"""the advisory lock of whoever migrates"""
# DDL waits for transactions and everybody waits behind it: better to fail and be tried again.
_LOCK_TIMEOUT = "10s"

_Result = TypeVar("_Result")


@dataclasses.dataclass(frozen=True, slots=True)
class Schema:
    """How far a schema is. `at` is None before the first step; `is_ahead`: a newer program has migrated it."""

    at: str | None
    newest: str
    pending: tuple[str, ...]
    is_ahead: bool


def upgrade(url: sqlalchemy.URL, to: str = "head") -> Schema:
    """Take every pending step; what the schema was before. Blocks, and starts an event loop of its own.

    Raises `DatabaseAway`.
    """

    def steps(connection: sqlalchemy.Connection) -> Schema:
        before = _schema(connection)
        if before.pending:
            if connection.dialect.name == "postgresql":
                connection.exec_driver_sql(f"SELECT pg_advisory_lock({_LOCK})")
                connection.exec_driver_sql(f"SET lock_timeout = '{_LOCK_TIMEOUT}'")
                connection.commit()
            config = _config()
            config.attributes["connection"] = connection
            alembic.command.upgrade(config, to)
        return before

    return asyncio.run(_on(url, steps))


def look(url: sqlalchemy.URL) -> Schema:
    """Blocks, as `upgrade`. Raises `DatabaseAway`."""
    return asyncio.run(_on(url, _schema, read_only=True))


async def _on(
    url: sqlalchemy.URL, work: Callable[[sqlalchemy.Connection], _Result], *, read_only: bool = False
) -> _Result:
    # Without a pool the session ends here, and with it the advisory lock.
    engine = create_async_engine(url, poolclass=sqlalchemy.NullPool)
    prepare(engine, foreign_keys=False)
    try:
        async with engine.connect() as connection:
            await connection.execution_options(read_only=read_only)
            return await connection.run_sync(work)
    except Exception as error:
        if is_away(error):
            where = f"{url.host or url.query.get('host', 'this machine')}, database {url.database}"
            raise DatabaseAway(f"PostgreSQL does not answer at {where}: {reason(error)}") from error
        raise
    finally:
        await engine.dispose()


def _schema(connection: sqlalchemy.Connection) -> Schema:
    scripts = alembic.script.ScriptDirectory.from_config(_config())
    newest = scripts.get_current_head() or ""
    at = MigrationContext.configure(connection).get_current_revision()
    connection.rollback()
    order = [one.revision for one in scripts.walk_revisions()][::-1]
    if at is not None and at not in order:
        return Schema(at, newest, (), is_ahead=True)
    pending = order[order.index(at) + 1 :] if at is not None else order
    return Schema(at, newest, tuple(pending), is_ahead=False)


def _config() -> alembic.config.Config:
    config = alembic.config.Config()
    config.set_main_option("script_location", str(pathlib.Path(__file__).parent))
    return config
