"""The real stores on SQLite in memory, in this thread: the same statements, without the driver's thread.

Transactions run one after the other, as on the file that a real Scheduler writes. Before each begins and after each
commit some time may pass, so that others come between two transactions of one request.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import pathlib
import sqlite3
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import sqlalchemy

from orchestrator.database import Database, sqlite_url

Pause = Callable[[], Awaitable[None]]


class Transaction:
    """What the stores use of an `AsyncConnection`."""

    def __init__(self, connection: sqlalchemy.Connection) -> None:
        self._connection = connection
        self.dialect = connection.dialect

    async def execute(self, statement: Any, parameters: Any = None) -> sqlalchemy.CursorResult[Any]:
        return self._connection.execute(statement, parameters)

    async def scalar(self, statement: Any, parameters: Any = None) -> Any:
        return self._connection.scalar(statement, parameters)

    async def stream(self, statement: Any, parameters: Any = None) -> _Stream:
        return _Stream(self._connection.execute(statement, parameters))


class _Stream:
    def __init__(self, result: sqlalchemy.CursorResult[Any]) -> None:
        self._rows = iter(result)

    def __aiter__(self) -> _Stream:
        return self

    async def __anext__(self) -> Any:
        for row in self._rows:
            return row
        raise StopAsyncIteration


class SqlDatabase:
    """Has the methods of `orchestrator.database.Database`. `committed` is called after every commit."""

    is_shared = False

    def __init__(self, pause: Pause, committed: Callable[[], None]) -> None:
        self._pause = pause
        self._committed = committed
        self._lock = asyncio.Lock()
        engine, self.raw = _engine()
        template().backup(self.raw)
        self._connection = engine.connect()
        self.tx = Transaction(self._connection)

    @contextlib.asynccontextmanager
    async def transaction(self) -> AsyncIterator[Transaction]:
        await self._pause()
        async with self._lock:
            self.raw.execute("BEGIN IMMEDIATE")
            try:
                yield self.tx
            except BaseException:
                self.raw.execute("ROLLBACK")
                raise
            self.raw.execute("COMMIT")
            self._committed()
        await self._pause()

    @contextlib.asynccontextmanager
    async def snapshot(self) -> AsyncIterator[Transaction]:
        await self._pause()
        async with self._lock:
            self.raw.execute("BEGIN")
            try:
                yield self.tx
            finally:
                self.raw.execute("ROLLBACK")
        await self._pause()

    def close(self) -> None:
        self._connection.close()


@functools.cache
def template() -> sqlite3.Connection:
    """An empty database at the newest migration. Call it first outside of any event loop: migrating needs one."""
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder, "template.sqlite")
        asyncio.run(_migrated(sqlite_url(path)))
        empty = sqlite3.connect(":memory:", check_same_thread=False)
        with contextlib.closing(sqlite3.connect(path)) as file:
            file.backup(empty)
    return empty


async def _migrated(url: str) -> None:
    await (await Database.open(url)).close()


@functools.cache
def _engine() -> tuple[sqlalchemy.Engine, sqlite3.Connection]:
    """One for all runs: compiled statements are kept with it, and each run begins with a copy of the template."""
    raw = sqlite3.connect(":memory:", isolation_level=None, check_same_thread=False)
    engine = sqlalchemy.create_engine(
        "sqlite://", creator=lambda: raw, poolclass=sqlalchemy.StaticPool, isolation_level="AUTOCOMMIT"
    )
    return engine, raw
