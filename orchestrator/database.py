"""The one database of a scheduler and its bank: engine, transactions, migrations.

Only `store` modules write statements; this module gives them connections. SQLite is the embedded default; the
same statements must run on PostgreSQL.
"""

from __future__ import annotations

import asyncio
import contextlib
import pathlib
from collections.abc import AsyncIterator
from typing import Any

import alembic.command
import alembic.config
import sqlalchemy
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

metadata = sqlalchemy.MetaData()
"""Every table of the system is declared on this object, by the `store` module that owns it."""

# FULL: a payment that was acknowledged survives a power cut. Group commit pays for it.
_PRAGMAS = ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON", "busy_timeout=10000", "temp_store=MEMORY")
Transaction = AsyncConnection
"""What stores are handed to write their statements on. Others pass it along without looking inside."""

_MIGRATIONS = pathlib.Path(__file__).parent / "migrations"


def sqlite_url(path: pathlib.Path) -> str:
    return f"sqlite+aiosqlite:///{path.resolve()}"


class Database:
    """Connections to one database whose schema is at the newest migration.

    A transaction is committed when its block ends and rolled back when the block raises or is cancelled. On SQLite
    write transactions run one after the other (a lock here, so that none waits in the driver).
    """

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine
        self._writer = asyncio.Lock()
        self._is_sqlite = engine.dialect.name == "sqlite"

    @classmethod
    async def open(cls, url: str) -> Database:
        """Connect and bring the schema up to date. `url` is an async SQLAlchemy URL."""
        await asyncio.to_thread(_migrate, url)
        engine = create_async_engine(url, pool_size=4)
        if engine.dialect.name == "sqlite":
            sqlalchemy.event.listen(engine.sync_engine, "connect", _configure_sqlite)
            sqlalchemy.event.listen(engine.sync_engine, "begin", _begin_immediate)
        return cls(engine)

    @contextlib.asynccontextmanager
    async def transaction(self) -> AsyncIterator[AsyncConnection]:
        """A connection inside a write transaction."""
        async with contextlib.AsyncExitStack() as stack:
            if self._is_sqlite:
                await stack.enter_async_context(self._writer)
            yield await stack.enter_async_context(self._engine.begin())

    @contextlib.asynccontextmanager
    async def snapshot(self) -> AsyncIterator[AsyncConnection]:
        """A connection for reading one consistent state; changes made on it are rolled back."""
        async with self._engine.connect() as connection:
            await connection.execution_options(read_only=True)
            yield connection

    async def close(self) -> None:
        await self._engine.dispose()


def _migrate(url: str) -> None:
    config = alembic.config.Config()
    config.set_main_option("script_location", str(_MIGRATIONS))
    config.attributes["url"] = url
    alembic.command.upgrade(config, "head")


def _configure_sqlite(connection: Any, _record: Any) -> None:
    # The driver must not open transactions by itself: `_begin_immediate` does.
    connection.isolation_level = None
    cursor = connection.cursor()
    for pragma in _PRAGMAS:
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()


def _begin_immediate(connection: sqlalchemy.Connection) -> None:
    read_only = connection.get_execution_options().get("read_only", False)
    connection.exec_driver_sql("BEGIN" if read_only else "BEGIN IMMEDIATE")
