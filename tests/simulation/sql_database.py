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
from collections.abc import AsyncIterator, Callable, Iterable
from typing import Any

import sqlalchemy

from orchestrator.database import Database, sqlite_url
from tests.simulation.outages import Commit, Outages
from tests.simulation.rows import SqlRows, watch
from tests.simulation.world import World


class Transaction:
    """What the stores use of an `AsyncConnection`."""

    def __init__(self, connection: sqlalchemy.Connection) -> None:
        self._connection = connection
        self.dialect = connection.dialect

    async def execute(self, statement: Any, parameters: Any = None) -> sqlalchemy.CursorResult[Any]:
        return self._connection.execute(statement, parameters)

    async def exec_driver_sql(self, statement: str, parameters: Any = None) -> sqlalchemy.CursorResult[Any]:
        return self._connection.exec_driver_sql(statement, parameters)

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

    def __init__(self, world: World, committed: Callable[[], None], *, is_shared: bool) -> None:
        self.is_shared = is_shared
        """several processes are at work on it, and tell each other by `notify`"""
        self._world = world
        self._pause = world.pause
        self._listeners: dict[object, Callable[[str], None]] = {}
        self._committed = committed
        self._lock = asyncio.Lock()
        self._outages = Outages(world)
        engine, self.raw = _engine()
        template().backup(self.raw)
        self._connection = engine.connect()
        self.tx = Transaction(self._connection)
        self.rows = SqlRows(self.raw)

    @contextlib.asynccontextmanager
    async def transaction(self) -> AsyncIterator[Transaction]:
        await self._pause()
        async with self._lock:
            self._outages.reach()
            self.raw.execute("BEGIN IMMEDIATE")
            try:
                yield self.tx
                if (outcome := self._outages.commit()) is Commit.LOST:
                    raise self._outages.broken()
            except BaseException:
                self.raw.execute("ROLLBACK")
                raise
            self.raw.execute("COMMIT")
            self._committed()
            if outcome is Commit.UNHEARD:
                raise self._outages.broken()
        await self._pause()

    @contextlib.asynccontextmanager
    async def snapshot(self) -> AsyncIterator[Transaction]:
        await self._pause()
        async with self._lock:
            self._outages.reach()
            self.raw.execute("BEGIN")
            try:
                yield self.tx
            finally:
                self.raw.execute("ROLLBACK")
        await self._pause()

    async def notify(self, channel: str, payloads: Iterable[str]) -> None:
        """As LISTEN/NOTIFY does: to all who listen at the moment. Now and then a connection breaks, and what was told
        meanwhile is missed."""
        for payload in payloads:
            for heard in list(self._listeners.values()):
                if not self._world.chance(self._world.faults.lose_answer):
                    delay = self._world.random.random() * 0.05
                    asyncio.get_running_loop().call_later(delay, heard, payload)

    async def listen(self, channel: str, heard: Callable[[str], None], connected: Callable[[], None]) -> None:
        me = object()
        self._listeners[me] = heard
        try:
            connected()
            await asyncio.get_running_loop().create_future()
        finally:
            del self._listeners[me]

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
    watch(empty)
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
