"""What the database gives to those who work on it at the same time, on a real PostgreSQL."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator

import pytest
import sqlalchemy as sa

from orchestrator.database import Database, DatabaseAway, check_url, persistently, retried
from orchestrator.errors import InvalidInput
from orchestrator.migrations import running
from orchestrator.scheduler.store.schema import counters
from tests.postgres import PostgresServer


@pytest.fixture
async def database(postgres_url: str) -> AsyncIterator[Database]:
    database = await Database.open(postgres_url)
    yield database
    await database.close()


@pytest.fixture
def own_server() -> Iterator[PostgresServer]:
    """A server that the test may stop."""
    with PostgresServer() as server:
        yield server


async def _set(database: Database, name: str, value: int) -> None:
    async with database.transaction() as tx:
        await tx.execute(sa.insert(counters).values(name=name, value=value))


async def _add(database: Database, names: list[str], met: asyncio.Barrier | None = None) -> None:
    async with database.transaction() as tx:
        for name in names:
            await tx.execute(sa.update(counters).where(counters.c.name == name).values(value=counters.c.value + 1))
            if met is not None:
                await met.wait()
                met = None


async def _value(database: Database, name: str) -> int:
    async with database.snapshot() as tx:
        return int((await tx.execute(sa.select(counters.c.value).where(counters.c.name == name))).scalar_one())


async def test_a_deadlock_costs_nobody_anything(database: Database) -> None:
    await _set(database, "a", 0)
    await _set(database, "b", 0)
    barrier = asyncio.Barrier(2)
    tries: list[str] = []

    def circle(first: str, second: str) -> object:
        async def work() -> None:
            met = barrier if first not in tries else None
            tries.append(first)
            await _add(database, [first, second], met)

        return retried(work)

    await asyncio.gather(circle("a", "b"), circle("b", "a"))
    assert (await _value(database, "a"), await _value(database, "b")) == (2, 2)
    assert len(tries) > 2


async def test_a_snapshot_sees_one_moment(database: Database) -> None:
    await _set(database, "a", 1)
    query = sa.select(counters.c.value).where(counters.c.name == "a")
    async with database.snapshot() as tx:
        assert (await tx.execute(query)).scalar_one() == 1
        await _add(database, ["a"])
        assert (await tx.execute(query)).scalar_one() == 1
    assert await _value(database, "a") == 2


async def test_what_must_not_happen_twice_is_not_tried_again(database: Database) -> None:
    calls = []

    async def work() -> None:
        calls.append(1)
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await persistently(work)
    assert len(calls) == 1


async def test_notifications_are_heard_again_after_the_server_was_away(own_server: PostgresServer) -> None:
    database = await Database.open(own_server.create())
    heard: asyncio.Queue[str] = asyncio.Queue()
    listening = asyncio.Event()
    task = asyncio.ensure_future(database.listen("here", heard.put_nowait, listening.set))
    await listening.wait()
    await database.notify("here", ["one", "two"])
    assert [await heard.get(), await heard.get()] == ["one", "two"]
    listening.clear()
    own_server.kill()
    with pytest.raises(DatabaseAway):
        await retried(lambda: _set(database, "a", 1))
    waiting = asyncio.ensure_future(persistently(lambda: _set(database, "a", 1)))
    await asyncio.to_thread(own_server.start)
    await waiting
    await listening.wait()
    await database.notify("here", ["three"])
    assert await heard.get() == "three"
    assert await _value(database, "a") == 1
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    await database.close()


async def test_processes_that_start_at_once_migrate_one_after_the_other(postgres_server: PostgresServer) -> None:
    url = postgres_server.create(migrated=False)
    opened = await asyncio.gather(*(Database.open(url) for _ in range(4)))
    schema = await asyncio.to_thread(running.look, check_url(url))
    assert (schema.at, schema.pending) == (schema.newest, ())
    for one in opened:
        await one.close()
    postgres_server.drop(url)


async def test_a_schema_of_a_newer_program_is_used_as_it_is(database_url: str) -> None:
    database = await Database.open(database_url)
    async with database.transaction() as tx:
        await tx.exec_driver_sql("UPDATE alembic_version SET version_num = '9999_next'")
        await tx.exec_driver_sql("ALTER TABLE jobs ADD COLUMN of_next_year TEXT")
    await database.close()
    older = await Database.open(database_url)
    await _set(older, "a", 7)
    assert await _value(older, "a") == 7
    await older.close()
    assert (await asyncio.to_thread(running.look, check_url(database_url))).is_ahead


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("mysql://a/b", r"begins with mysql://; it must be postgresql\+psycopg:// or sqlite"),
        ("here", "cannot be read"),
    ],
)
async def test_other_databases_are_refused(url: str, says: str) -> None:
    with pytest.raises(InvalidInput, match=says):
        await Database.open(url)


async def test_a_database_that_does_not_answer() -> None:
    with pytest.raises(DatabaseAway, match=r"PostgreSQL does not answer at 127\.0\.0\.1, database x"):
        await Database.open("postgresql://somebody@127.0.0.1:1/x")


async def test_a_connection_that_the_server_has_ended_is_replaced_before_it_is_used(database: Database) -> None:
    await _set(database, "a", 0)
    async with database.transaction() as tx:
        mine = (await tx.execute(sa.text("SELECT pg_backend_pid()"))).scalar_one()
    async with await database._connect() as other:
        await other.execute("SELECT pg_terminate_backend(%s, 10000)", [mine])
    # The pool gives the same connection, used a moment ago: that the server has ended it is seen without asking.
    await _add(database, ["a"])
    assert await _value(database, "a") == 1


async def test_single_statements_are_transactions_of_their_own(database: Database) -> None:
    async with database.single() as connection:
        first, second = [
            (await connection.execute(sa.text("SELECT pg_current_xact_id()::text::bigint"))).scalar_one() for _ in "ab"
        ]
    assert first != second
    with pytest.raises(ZeroDivisionError):
        async with database.transaction() as tx:  # on the same connection, which has transactions again
            await tx.execute(sa.insert(counters).values(name="b", value=1))
            raise ZeroDivisionError
    await _set(database, "b", 2)
