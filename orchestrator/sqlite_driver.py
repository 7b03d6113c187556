"""SQLite in the event loop's own thread, for statements that take microseconds.

aiosqlite hands each step of a statement (cursor, execute, fetch, close) to a thread and waits for it, which costs many
times what the statement does. Here they run where they are awaited, and a thread does what may take long: beginning
to write while another process does; the commit, which waits for the disk; deletions, large batches, streams; and
a query that has not ended within `PATIENCE_S`, from its beginning.

This is what SQLAlchemy's aiosqlite dialect wants of a connection and its cursors, and no more.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import math
import sqlite3
import time
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any, Self, TypeVar

PATIENCE_S = 0.01
"""how long a query may keep the event loop"""
BUSY_S = 10
"""how long a writer waits for another process"""
MANY = 1000
"""rows from which on a batch goes to the thread"""
_LOOK_AFTER = 5_000
"""instructions of SQLite's machine between two looks at the clock"""

_WAIT = f"PRAGMA busy_timeout={BUSY_S * 1000}"
_DO_NOT_WAIT = "PRAGMA busy_timeout=0"

_Result = TypeVar("_Result")


async def connect(database: str, **options: Any) -> Connection:
    """Transactions are begun by hand. Blocks as long as opening a file does."""
    options.pop("check_same_thread", None)
    return Connection(sqlite3.connect(database, isolation_level=None, check_same_thread=False, **options))


class Connection:
    def __init__(self, raw: sqlite3.Connection) -> None:
        self._connection: sqlite3.Connection | None = raw
        self._thread = concurrent.futures.ThreadPoolExecutor(1, thread_name_prefix="sqlite")
        self._until = math.inf
        raw.set_progress_handler(self._is_over, _LOOK_AFTER)
        raw.execute(_WAIT)

    @property
    def isolation_level(self) -> str | None:
        return None if self._connection is None else self._connection.isolation_level

    def _is_over(self) -> bool:
        return time.monotonic() > self._until

    def cursor(self) -> Cursor:
        if self._connection is None:
            raise ValueError("no active connection")
        return Cursor(self, self._connection.cursor())

    async def commit(self) -> None:
        if self._connection is not None and self._connection.in_transaction:
            await self.in_thread(self._connection.commit)

    async def rollback(self) -> None:
        if self._connection is not None and self._connection.in_transaction:
            self._connection.rollback()

    async def create_function(self, *arguments: Any, **named: Any) -> None:
        assert self._connection is not None
        self._connection.create_function(*arguments, **named)

    async def close(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            # The last one to leave writes the log into the database file.
            await self.in_thread(connection.close)
            self._thread.shutdown(wait=False)

    def stop(self) -> None:
        """Close without waiting."""
        connection, self._connection = self._connection, None
        if connection is not None:
            self._thread.submit(connection.close)
            self._thread.shutdown(wait=False)

    def within(self, seconds: float, work: Callable[[], _Result]) -> _Result:
        """Raises `sqlite3.OperationalError` when it takes longer; nothing has happened then."""
        self._until = time.monotonic() + seconds
        try:
            return work()
        finally:
            self._until = math.inf

    def begins_at_once(self, operation: str) -> bool:
        """Begin to write, unless another process does."""
        assert self._connection is not None
        self._connection.execute(_DO_NOT_WAIT)
        try:
            self._connection.execute(operation)
        except sqlite3.OperationalError as error:
            if getattr(error, "sqlite_errorcode", None) != sqlite3.SQLITE_BUSY:
                raise
            return False
        finally:
            self._connection.execute(_WAIT)
        return True

    async def in_thread(self, work: Callable[[], _Result]) -> _Result:
        """Cancelled, it waits all the same: a connection does one thing at a time."""
        done = asyncio.get_running_loop().run_in_executor(self._thread, work)
        try:
            return await asyncio.shield(done)
        except asyncio.CancelledError:
            await asyncio.wait([done])
            raise


class Cursor:
    def __init__(self, connection: Connection, raw: sqlite3.Cursor) -> None:
        self._connection = connection
        self._raw = raw
        self._query: tuple[str, Sequence[Any]] | None = None

    async def __aenter__(self) -> Self:
        return self

    @property
    def description(self) -> Any:
        return self._raw.description

    @property
    def rowcount(self) -> int:
        return self._raw.rowcount

    @property
    def lastrowid(self) -> int | None:
        return self._raw.lastrowid

    @property
    def arraysize(self) -> int:
        return self._raw.arraysize

    @arraysize.setter
    def arraysize(self, size: int) -> None:
        self._raw.arraysize = size

    async def execute(self, operation: str, parameters: Sequence[Any] = ()) -> Self:
        verb = operation[:6].upper()
        self._query = (operation, parameters) if verb == "SELECT" else None
        if self._query is not None:
            await self._patiently(lambda: self._raw.execute(operation, parameters))
        elif operation.startswith("BEGIN IMMEDIATE"):
            if not self._connection.begins_at_once(operation):
                await self._connection.in_thread(lambda: self._raw.execute(operation, parameters))
        elif verb == "DELETE":
            await self._connection.in_thread(lambda: self._raw.execute(operation, parameters))
        else:
            self._raw.execute(operation, parameters)
        return self

    async def executemany(self, operation: str, parameters: Sequence[Sequence[Any]]) -> Self:
        self._query = None
        if len(parameters) >= MANY or operation[:6].upper() == "DELETE":
            await self._connection.in_thread(lambda: self._raw.executemany(operation, parameters))
        else:
            self._raw.executemany(operation, parameters)
        return self

    async def _patiently(self, work: Callable[[], _Result], again: Callable[[], _Result] | None = None) -> _Result:
        """A query here and now; in the thread, with `again`, if that takes too long."""
        try:
            return self._connection.within(PATIENCE_S, work)
        except sqlite3.OperationalError as error:
            if getattr(error, "sqlite_errorcode", None) != sqlite3.SQLITE_INTERRUPT:
                raise
        return await self._connection.in_thread(again or work)

    async def fetchall(self) -> list[Any]:
        if self._query is None:
            return self._raw.fetchall()
        operation, parameters = self._query
        return await self._patiently(
            self._raw.fetchall, again=lambda: self._raw.execute(operation, parameters).fetchall()
        )

    async def fetchone(self) -> Any:
        return await self._connection.in_thread(self._raw.fetchone)

    async def fetchmany(self, size: int | None = None) -> list[Any]:
        return await self._connection.in_thread(lambda: self._raw.fetchmany(size or self.arraysize))

    async def __aiter__(self) -> AsyncIterator[Any]:
        while rows := await self.fetchmany(MANY):
            for row in rows:
                yield row

    async def close(self) -> None:
        self._raw.close()
