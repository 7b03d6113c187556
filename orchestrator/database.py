"""The one database of a scheduler and its bank: engine, transactions, notifications.

Only `store` modules write statements; this module gives them connections. SQLite is the embedded default, for one
process; the same statements run on PostgreSQL, which several processes may share.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import os
import pathlib
import random
import sqlite3
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator
from typing import Any, TypeVar

import psycopg
import sqlalchemy
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

from orchestrator import pg_connections, pg_tools, sqlite_driver, telemetry
from orchestrator.errors import InvalidInput, OrchestratorError
from orchestrator.fair_queue import FairSemaphore

log = logging.getLogger(__name__)

metadata = sqlalchemy.MetaData()
"""Every table of the system is declared on this object, by the `store` module that owns it."""

# FULL: a payment that was acknowledged survives a power cut. Group commit pays for it.
_PRAGMAS = ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON", "busy_timeout=10000", "temp_store=MEMORY")
Transaction = AsyncConnection
"""What stores are handed to write their statements on. Others pass it along without looking inside."""

_POOL = {"sqlite": 4, "postgresql": 10}
_OVERFLOW = 10
_SPARE = 5
"""connections for what takes no turns: notifications"""
_CONNECT_TIMEOUT_S = 10
_QUIET_S = 15.0
"""a listener that has heard nothing for so long asks whether its connection still lives"""

# The server has taken the transaction back, so it can be tried again: serialization failure, deadlock, lock time-out,
# and two who inserted the same row at once (the second finds it there).
_CONFLICTS = frozenset({"40001", "40P01", "55P03", "23505"})
# It shuts down, was shut down, or starts; connections fail with 08…
_AWAY = frozenset({"57P01", "57P02", "57P03"})
_CONFLICT_TRIES = 8

_NOTIFY = sqlalchemy.text("SELECT pg_notify(:channel, :payload)")

_Result = TypeVar("_Result")


def sqlite_url(path: pathlib.Path) -> str:
    return f"sqlite+aiosqlite:///{path.resolve()}"


def check_url(url: str) -> sqlalchemy.URL:
    """Raises `InvalidInput` when it is no URL of a database that we can use."""
    try:
        parsed = sqlalchemy.make_url(url)
    except sqlalchemy.exc.ArgumentError:
        raise InvalidInput("the database URL cannot be read; write postgresql+psycopg://USER@HOST/NAME") from None
    if parsed.drivername in ("postgresql", "postgres"):
        parsed = parsed.set(drivername="postgresql+psycopg")
    if parsed.drivername not in ("sqlite+aiosqlite", "postgresql+psycopg"):
        raise InvalidInput(
            f"the database URL begins with {parsed.drivername}://; it must be postgresql+psycopg:// or "
            "sqlite+aiosqlite://"
        )
    return parsed


class DatabaseAway(OrchestratorError):
    """The database does not answer at the moment. Nothing is known about a transaction that was being committed."""

    code = "EDATABASE"
    retryable = True


class Unreached(DatabaseAway):
    """No connection could be had: the transaction has not begun."""


class Database:
    """Connections to one database whose schema is at the newest migration.

    A transaction is committed when its block ends and rolled back when the block raises or is cancelled. On SQLite
    write transactions run one after the other (a lock here, so that none waits in the driver). On PostgreSQL they run
    at once: whoever decides by a row must have locked it.
    """

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine
        # Whoever asks for much waits behind those that ask for little; and nobody in the pool's own queue.
        self._writer = FairSemaphore(1)
        self._connections = FairSemaphore(_POOL[engine.dialect.name] + _OVERFLOW)
        self._is_sqlite = engine.dialect.name == "sqlite"

    @property
    def is_shared(self) -> bool:
        """Other processes may be at work on it too."""
        return not self._is_sqlite

    @classmethod
    async def open(cls, url: str, *, migrate: bool = True) -> Database:
        """Connect and bring the schema up to date. `url` is an async SQLAlchemy URL.

        Raises `InvalidInput` for a URL of another kind, `DatabaseAway` when nothing answers there.
        """
        parsed = check_url(url)
        if migrate:
            from orchestrator.migrations import running  # noqa: PLC0415 — slow to import

            await asyncio.to_thread(running.upgrade, parsed)
        arguments: dict[str, Any] = {"connect_timeout": _CONNECT_TIMEOUT_S}
        if parsed.get_backend_name() == "sqlite":
            arguments = {"async_creator_fn": sqlite_driver.connect}
        engine = create_async_engine(
            parsed,
            pool_size=_POOL[parsed.get_backend_name()],
            max_overflow=_OVERFLOW + _SPARE,
            connect_args=arguments,
        )
        prepare(engine)
        if parsed.get_backend_name() == "postgresql":
            pg_connections.watch(engine)
        return cls(engine)

    @contextlib.asynccontextmanager
    async def transaction(self) -> AsyncIterator[AsyncConnection]:
        """A connection inside a write transaction."""
        async with contextlib.AsyncExitStack() as stack:
            stack.callback(_record, "write", time.perf_counter())
            stack.enter_context(_values_checked())
            if self._is_sqlite:
                await stack.enter_async_context(self._writer)
            await stack.enter_async_context(self._connections)
            connection = await self._connected(stack)
            async with connection.begin():
                yield connection

    @contextlib.asynccontextmanager
    async def snapshot(self) -> AsyncIterator[AsyncConnection]:
        """A connection for reading one consistent state; changes made on it are rolled back."""
        async with contextlib.AsyncExitStack() as stack:
            stack.callback(_record, "read", time.perf_counter())
            stack.enter_context(_values_checked())
            await stack.enter_async_context(self._connections)
            connection = await self._connected(stack)
            if self._is_sqlite:
                await connection.execution_options(read_only=True)
            else:
                await connection.execution_options(isolation_level="REPEATABLE READ")
            yield connection

    @contextlib.asynccontextmanager
    async def single(self) -> AsyncIterator[AsyncConnection]:
        """A connection on which each statement is a transaction of its own: one round trip, where a transaction has at
        least three. PostgreSQL only."""
        async with contextlib.AsyncExitStack() as stack:
            stack.enter_context(_values_checked())
            await stack.enter_async_context(self._connections)
            connection = await self._connected(stack)
            await connection.execution_options(isolation_level="AUTOCOMMIT")
            yield connection

    async def _connected(self, stack: contextlib.AsyncExitStack) -> AsyncConnection:
        try:
            return await stack.enter_async_context(self._engine.connect())
        except Exception as error:
            if is_away(error):
                raise Unreached(f"the database does not answer: {reason(error)}") from error
            raise

    async def ping(self) -> None:
        """Raises `DatabaseAway`."""
        async with self.snapshot() as tx:
            await tx.execute(sqlalchemy.select(1))

    async def notify(self, channel: str, payloads: Iterable[str]) -> None:
        """Tell every process that listens, this one included. A payload has less than 8000 bytes."""
        async with self.single() as connection:
            for payload in payloads:
                await connection.execute(_NOTIFY, {"channel": channel, "payload": payload})

    async def listen(self, channel: str, heard: Callable[[str], None], connected: Callable[[], None]) -> None:
        """Hear notifications until cancelled, over a connection of its own that is made again when it breaks.

        `connected` is called whenever listening (again) begins: what was told before then was missed.
        """
        pause = 0.05
        while True:
            try:
                async with await self._connect() as connection:
                    await connection.execute(f'LISTEN "{channel}"'.encode())
                    connected()
                    pause = 0.05
                    while True:
                        async for one in connection.notifies(timeout=_QUIET_S):
                            heard(one.payload)
                        async with asyncio.timeout(_CONNECT_TIMEOUT_S):
                            await connection.execute(b"SELECT 1")
            except (psycopg.Error, OSError, TimeoutError) as error:
                log.warning("no notifications from the database: %s", error, extra={"action": "database-away"})
                await asyncio.sleep(pause)
                pause = min(pause * 2, 2.0)

    async def _connect(self) -> psycopg.AsyncConnection[Any]:
        _, arguments = self._engine.dialect.create_connect_args(self._engine.url)
        return await psycopg.AsyncConnection.connect(
            **arguments, autocommit=True, connect_timeout=_CONNECT_TIMEOUT_S, keepalives_idle=30
        )

    async def describe(self) -> tuple[str, int]:
        """Name and version of the database server, and the size of this database in bytes."""
        if self._is_sqlite:
            queries = (
                "SELECT 'SQLite ' || sqlite_version()",
                "SELECT page_count * page_size FROM pragma_page_count, pragma_page_size",
            )
        else:
            queries = (
                "SELECT 'PostgreSQL ' || current_setting('server_version')",
                "SELECT pg_database_size(current_database())",
            )
        async with self.snapshot() as tx:
            name, size = [(await tx.exec_driver_sql(query)).scalar_one() for query in queries]
        return str(name), int(size)

    async def close(self) -> None:
        await self._engine.dispose()


def back_up(url: sqlalchemy.URL, file: pathlib.Path) -> int:
    """Copy a database, as it is at one moment, to a new file while others write to it; returns the bytes of the copy.

    A copy of SQLite is a checked database itself, one of PostgreSQL an archive of pg_dump. Raises `InvalidInput` for a
    file that is there, and for one that cannot be written. Blocks.
    """
    if not _is_sqlite(url):
        pg_tools.dump(_libpq(url), file)
        return file.stat().st_size
    source = pathlib.Path(url.database or "")
    if not source.is_file():
        raise InvalidInput(f"there is no database {source}; name its --state or --database")
    _copy_sqlite(source, file)
    return file.stat().st_size


def put_back(url: sqlalchemy.URL, file: pathlib.Path) -> int:
    """Make a database out of a copy of `back_up`; returns the copy's bytes. One of SQLite must not be there yet, one of
    PostgreSQL must be empty.

    Raises `InvalidInput`. Blocks.
    """
    if not _is_sqlite(url):
        pg_tools.restore(_libpq(url), file)
        return file.stat().st_size
    target = pathlib.Path(url.database or "")
    if not file.is_file():
        raise InvalidInput(f"there is no backup {file}")
    for left in (target, target.with_name(f"{target.name}-wal"), target.with_name(f"{target.name}-shm")):
        if left.exists():
            raise InvalidInput(f"{left} is there; stop the Scheduler and move the file away, then restore again")
    target.parent.mkdir(parents=True, exist_ok=True)
    _copy_sqlite(file, target)
    return target.stat().st_size


def _is_sqlite(url: sqlalchemy.URL) -> bool:
    return url.get_backend_name() == "sqlite"


def _libpq(url: sqlalchemy.URL) -> dict[str, str]:
    """The same as libpq's environment variables. Raises `InvalidInput` for options that have none."""
    said = {"host": url.host, "port": url.port, "user": url.username, "password": url.password, "dbname": url.database}
    said |= {name: value for name, value in url.query.items() if isinstance(value, str)}
    unknown = said.keys() - _LIBPQ.keys()
    if unknown:
        raise InvalidInput(f"the database URL has options that pg_dump cannot be given: {', '.join(sorted(unknown))}")
    if not said["dbname"]:
        raise InvalidInput("the database URL must name a database: postgresql+psycopg://USER@HOST/NAME")
    return {_LIBPQ[name]: str(value) for name, value in said.items() if value}


def _copy_sqlite(source: pathlib.Path, target: pathlib.Path) -> None:
    try:
        os.close(os.open(target, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
    except FileExistsError:
        raise InvalidInput(f"{target} is there already; name a new file") from None
    except OSError as error:
        raise InvalidInput(f"{target} cannot be written: {error.strerror}") from error
    try:
        with (
            contextlib.closing(sqlite3.connect(f"{source.resolve().as_uri()}?mode=ro", uri=True)) as old,
            contextlib.closing(sqlite3.connect(target)) as new,
        ):
            old.backup(new)
            (said,) = new.execute("PRAGMA integrity_check").fetchone()
            tables = new.execute("SELECT count(*) FROM sqlite_master WHERE name = 'alembic_version'").fetchone()
            if said != "ok" or tables == (0,):
                raise InvalidInput(f"{source} is no sound database of a Scheduler: {said}")
    except BaseException as error:
        target.unlink(missing_ok=True)
        if isinstance(error, sqlite3.Error):
            raise InvalidInput(f"{source} cannot be copied to {target}: {error}") from error
        raise


_LIBPQ = {
    "host": "PGHOST",
    "port": "PGPORT",
    "user": "PGUSER",
    "password": "PGPASSWORD",
    "dbname": "PGDATABASE",
    "sslmode": "PGSSLMODE",
    "sslrootcert": "PGSSLROOTCERT",
    "sslcert": "PGSSLCERT",
    "sslkey": "PGSSLKEY",
    "passfile": "PGPASSFILE",
    "options": "PGOPTIONS",
    "connect_timeout": "PGCONNECT_TIMEOUT",
    "application_name": "PGAPPNAME",
    "target_session_attrs": "PGTARGETSESSIONATTRS",
}


def _record(kind: str, begun: float) -> None:
    telemetry.transaction_time.record(time.perf_counter() - begun, {"kind": kind})


@contextlib.contextmanager
def _values_checked() -> Iterator[None]:
    """What peers send may reach the database as it is; what no database takes is their error, not ours."""
    try:
        yield
    except (UnicodeEncodeError, OverflowError, sqlalchemy.exc.DataError) as error:
        raise InvalidInput(
            "a text with a NUL or half a surrogate pair, or a number beyond 64 bits, cannot be kept or looked for"
        ) from error


def is_conflict(error: BaseException) -> bool:
    """The transaction met another one and was taken back by the server; done again it may well succeed."""
    return isinstance(error, sqlalchemy.exc.DBAPIError) and getattr(error.orig, "sqlstate", None) in _CONFLICTS


def is_away(error: BaseException) -> bool:
    """The database could not be reached, or went away: a commit under way may or may not have happened."""
    if isinstance(error, DatabaseAway | sqlalchemy.exc.TimeoutError):  # no connection became free
        return True
    if not isinstance(error, sqlalchemy.exc.DBAPIError) or isinstance(error, sqlalchemy.exc.IntegrityError):
        return False
    state = getattr(error.orig, "sqlstate", None)
    if state is None:
        return error.connection_invalidated or isinstance(error.orig, psycopg.OperationalError)
    return state in _AWAY or state.startswith("08")


def reason(error: BaseException) -> str:
    """What the driver says, in one line."""
    return str(getattr(error, "orig", error)).strip().partition("\n")[0]


async def retried(work: Callable[[], Awaitable[_Result]], *, patience: float = 0.0, connecting: float = 0.0) -> _Result:
    """Do `work`, which is one transaction, and do it again after a conflict.

    While the database is away it is tried again for `patience` seconds: for work only that may be done twice, because a
    commit whose answer was lost is done again. For `connecting` seconds it is tried again when no connection could be
    had, which has changed nothing. Raises `DatabaseAway` then, and whatever else `work` raises.
    """
    begun = time.monotonic()
    conflicts = 0
    pause = 0.05
    while True:
        try:
            return await work()
        except Exception as error:
            if is_conflict(error) and conflicts < _CONFLICT_TRIES:
                conflicts += 1
                # Those who met must not meet again in step.
                await asyncio.sleep(random.uniform(0, 0.005 * 2**conflicts))  # noqa: S311
                continue
            if not is_away(error):
                raise
            if time.monotonic() >= begun + (max(patience, connecting) if isinstance(error, Unreached) else patience):
                raise DatabaseAway("the database does not answer; try again in a while") from error
            log.warning("the database does not answer: %s", error, extra={"action": "database-away"})
        await asyncio.sleep(pause)
        pause = min(pause * 2, 1.0)


async def persistently(work: Callable[[], Awaitable[_Result]]) -> _Result:
    """`retried` for as long as the database is away: for side tasks, which must outlive that."""
    return await retried(work, patience=math.inf)


def prepare(engine: AsyncEngine, *, foreign_keys: bool = True) -> None:
    """Let transactions on SQLite begin where ours do. A connection with the option `read_only` may only read. Without
    `foreign_keys` they are not looked at, as it must be while tables are made anew."""
    if engine.dialect.name == "sqlite":
        sqlalchemy.event.listen(engine.sync_engine, "connect", _configure_sqlite)
        sqlalchemy.event.listen(engine.sync_engine, "begin", _begin_immediate)
        if not foreign_keys:
            sqlalchemy.event.listen(engine.sync_engine, "connect", _ignore_foreign_keys)


def _ignore_foreign_keys(connection: Any, _record: Any) -> None:
    connection.cursor().execute("PRAGMA foreign_keys=OFF")


def _configure_sqlite(connection: Any, _record: Any) -> None:
    cursor = connection.cursor()
    for pragma in _PRAGMAS:
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()


def _begin_immediate(connection: sqlalchemy.Connection) -> None:
    read_only = connection.get_execution_options().get("read_only", False)
    connection.exec_driver_sql("BEGIN" if read_only else "BEGIN IMMEDIATE")
