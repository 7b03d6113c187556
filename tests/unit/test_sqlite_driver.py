"""Statements run where they are awaited, and what takes long runs in a thread."""

from __future__ import annotations

import asyncio
import contextlib
import pathlib
import sqlite3
import threading
from collections.abc import AsyncIterator

import pytest

from orchestrator import sqlite_driver
from orchestrator.sqlite_driver import Connection

LONG = """SELECT count(*) FROM (
    WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 20000) SELECT i FROM n)"""


@pytest.fixture
async def connection(tmp_path: pathlib.Path) -> AsyncIterator[Connection]:
    opened = await sqlite_driver.connect(str(tmp_path / "file.sqlite"))
    await execute(opened, "CREATE TABLE rows (number INTEGER, thread INTEGER)")
    await opened.create_function("thread", 0, threading.get_ident)
    yield opened
    await opened.close()


async def execute(connection: Connection, statement: str, parameters: tuple[int, ...] = ()) -> list[tuple[int, ...]]:
    cursor = await connection.cursor().__aenter__()
    await cursor.execute(statement, parameters)
    rows = await cursor.fetchall()
    await cursor.close()
    return rows


async def test_short_statements_take_no_thread(connection: Connection) -> None:
    me = threading.get_ident()
    await execute(connection, "INSERT INTO rows VALUES (1, thread())")
    assert await execute(connection, "SELECT number, thread, thread() FROM rows") == [(1, me, me)]


async def test_a_query_that_takes_too_long_goes_on_in_a_thread(
    connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite_driver, "PATIENCE_S", -1.0)
    for number in range(3):
        await execute(connection, "INSERT INTO rows VALUES (?, 0)", (number,))
    long = f"SELECT number, thread() FROM rows WHERE 20000 = ({LONG})"
    rows = await execute(connection, long)
    assert [number for number, _ in rows] == [0, 1, 2], "all of it, from its beginning"
    assert rows[0][1] != threading.get_ident()


async def test_an_error_of_a_statement_is_told(connection: Connection) -> None:
    with pytest.raises(sqlite3.OperationalError, match="no such table"):
        await execute(connection, "SELECT * FROM no_rows")


async def test_a_transaction_is_kept_or_taken_back(connection: Connection, tmp_path: pathlib.Path) -> None:
    other = await sqlite_driver.connect(str(tmp_path / "file.sqlite"))
    await execute(connection, "BEGIN IMMEDIATE")
    await execute(connection, "INSERT INTO rows VALUES (1, 0)")
    await connection.rollback()
    await execute(connection, "BEGIN IMMEDIATE")
    await execute(connection, "INSERT INTO rows VALUES (2, 0)")
    assert await execute(other, "SELECT number FROM rows") == []
    await connection.commit()
    assert await execute(other, "SELECT number FROM rows") == [(2,)]
    await other.close()


async def test_who_is_cancelled_leaves_no_statement_running(connection: Connection) -> None:
    begun, go_on = threading.Event(), threading.Event()

    def slow() -> None:
        begun.set()
        go_on.wait(5)

    task = asyncio.create_task(connection.in_thread(slow))
    await asyncio.to_thread(begun.wait, 5)
    task.cancel()
    await asyncio.sleep(0)
    assert not task.done()
    go_on.set()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_a_stream_comes_in_parts(connection: Connection) -> None:
    for number in range(5):
        await execute(connection, "INSERT INTO rows VALUES (?, 0)", (number,))
    cursor = connection.cursor()
    await cursor.execute("SELECT number FROM rows ORDER BY number")
    assert await cursor.fetchone() == (0,)
    assert await cursor.fetchmany(2) == [(1,), (2,)]
    assert [row async for row in cursor] == [(3,), (4,)]


async def test_whoever_begins_to_write_waits_for_another_process_in_a_thread(
    connection: Connection, tmp_path: pathlib.Path
) -> None:
    with contextlib.closing(sqlite3.connect(tmp_path / "file.sqlite", isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        waiting = asyncio.create_task(execute(connection, "BEGIN IMMEDIATE"))
        await asyncio.sleep(0)
        assert not waiting.done(), "the loop goes on"
        other.execute("COMMIT")
        async with asyncio.timeout(20):
            await waiting
    await execute(connection, "INSERT INTO rows VALUES (1, 0)")
    await connection.commit()
    assert await execute(connection, "SELECT number FROM rows") == [(1,)]
