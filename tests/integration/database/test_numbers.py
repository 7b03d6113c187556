"""Writers of events and leases do not wait for one another, and no reader passes over what a slow one commits late."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator

import pytest
import sqlalchemy as sa

from orchestrator.database import Database, check_url
from orchestrator.migrations import running
from orchestrator.scheduler.store import counters, events, schema
from orchestrator.scheduler.store.events import Event
from orchestrator.scheduler.watermark import Watermark
from tests.postgres import PostgresServer


@pytest.fixture
async def database(postgres_url: str) -> AsyncIterator[Database]:
    database = await Database.open(postgres_url)
    yield database
    await database.close()


def _some(job: int, count: int = 1, label: str = "custom") -> list[Event]:
    return [Event(job, label, number, "{}") for number in range(count)]


async def test_two_writers_do_not_wait_for_one_another(database: Database) -> None:
    async with asyncio.timeout(20), database.transaction() as slow:
        [first] = await events.append(slow, _some(1))
        [lease] = await counters.reserve(slow, counters.Name.LEASE)
        async with database.transaction() as quick:
            [second, *_] = await events.append(quick, _some(2, 3))
            assert await counters.reserve(quick, counters.Name.LEASE, 2) == [lease + 1, lease + 2]
        assert second.id == first.id + 1


async def test_writers_of_one_job_queue_in_the_order_of_their_commits(database: Database) -> None:
    ids: list[int] = []

    async def write() -> None:
        async with database.transaction() as tx:
            ids.extend(one.id for one in await events.append(tx, _some(1, 2)))

    async with asyncio.timeout(20):
        async with database.transaction() as first:
            [mine] = await events.append(first, _some(1))
            waiting = asyncio.ensure_future(write())
            async with database.transaction() as other:  # the second has come to where it waits
                query = sa.text("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted")
                while not (await other.execute(query)).scalar():
                    pass
            assert ids == []
        await waiting
    assert ids == [mine.id + 1, mine.id + 2]


async def test_late_commits_are_found_when_notifications_were_lost(database: Database) -> None:
    mark = Watermark()

    async def look() -> set[tuple[int, str]]:
        async with database.snapshot() as tx:
            newest = await events.newest(tx)
        async with database.snapshot() as tx:
            moment = await events.moment(tx)
            queues = await events.queues_since(tx, mark.passed)
        mark.looked(newest, moment)
        return set(queues)

    async with database.transaction() as slow:
        await events.append(slow, _some(1))
        async with database.transaction() as quick:
            await events.append(quick, _some(2))
        assert await look() == {(2, "custom")}
        assert await look() == {(2, "custom")}
    assert await look() == {(1, "custom"), (2, "custom")}
    assert await look() == set()


async def test_a_reader_of_each_queue_sees_everything_in_order(database: Database) -> None:
    draw = random.Random(3)
    cursors = dict.fromkeys(range(1, 4), 0)
    seen: dict[int, list[int]] = {job: [] for job in cursors}
    written: dict[int, list[int]] = {job: [] for job in cursors}

    async def write(writer: int) -> None:
        for turn in range(15):
            chosen = draw.sample(sorted(cursors), draw.randint(1, 3))
            async with database.transaction() as tx:
                number = writer * 1000 + turn
                await events.append(tx, [Event(job, "custom", number, "{}") for job in sorted(chosen)])
                for _ in range(draw.randint(0, 3)):
                    await tx.execute(sa.select(1))
            for job in chosen:
                written[job].append(number)

    async def read(over: asyncio.Event) -> None:
        last = False
        while not last:
            last = over.is_set()
            for job in cursors:
                async with database.snapshot() as tx:
                    for one in await events.queued(tx, job, "custom", cursors[job], 3):
                        cursors[job] = one.id
                        seen[job].append(one.number or 0)
                        last = False

    over = asyncio.Event()
    reader = asyncio.ensure_future(read(over))
    async with asyncio.timeout(60):
        await asyncio.gather(*(write(writer) for writer in range(1, 5)))
        over.set()
        await reader
    assert {job: sorted(numbers) for job, numbers in seen.items()} == {
        job: sorted(numbers) for job, numbers in written.items()
    }
    for numbers in seen.values():
        for writer in range(1, 5):
            mine = [number for number in numbers if number // 1000 == writer]
            assert mine == sorted(mine)


async def test_a_process_of_the_version_before_counts_on(postgres_server: PostgresServer) -> None:
    """It has its own way of counting; numbers of both ways never meet, and stay in the order of commits."""
    url = postgres_server.create(migrated=False)
    await asyncio.to_thread(running.upgrade, check_url(url), "0012_bank_ethereum")
    database = await Database.open(url, migrate=False)

    async def old_event(job: int) -> int:
        async with database.transaction() as tx:
            number = await _counted(tx, "event")
            await tx.execute(sa.insert(schema.events).values(id=number, job=job, label="custom", body="{}"))
            return number

    async def ids() -> list[int]:
        async with database.snapshot() as tx:
            return [one.id for one in await events.queued(tx, 1, "custom", 0, 100)]

    assert await old_event(1) == 1
    async with database.transaction() as tx:
        assert await _counted(tx, "lease") == 1
    await asyncio.to_thread(running.upgrade, check_url(url))
    async with database.transaction() as tx:
        [fresh] = await events.append(tx, _some(1))
        [lease] = await counters.reserve(tx, counters.Name.LEASE)
    await old_event(1)
    async with database.transaction() as tx:
        assert await _counted(tx, "lease") == lease + 1
        assert await counters.reserve(tx, counters.Name.LEASE) == [lease + 2]
        await events.append(tx, _some(1))
    assert await ids() == [1, fresh.id, fresh.id + 1, fresh.id + 2]
    await database.close()
    postgres_server.drop(url)


async def _counted(tx: object, name: str) -> int:
    """As the version before draws a number."""
    row = {"name": name}
    last = (
        await tx.execute(  # type: ignore[attr-defined]
            sa.text("UPDATE counters SET value = value + 1 WHERE name = :name RETURNING value"), row
        )
    ).scalar_one_or_none()
    if last is None:
        await tx.execute(sa.insert(schema.counters).values(name=name, value=1))  # type: ignore[attr-defined]
    return int(last or 1)
