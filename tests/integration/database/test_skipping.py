"""Processes on one PostgreSQL do not queue for rows that another one is busy with: they take the next ones."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator

import pytest
import sqlalchemy as sa

from orchestrator.database import Database, Transaction
from orchestrator.jobs.words import RunStatus
from orchestrator.scheduler.lifecycle import SliceState
from orchestrator.scheduler.store import leases, retention, schema, slices
from orchestrator.scheduler.store.leases import Lease


@pytest.fixture
async def database(postgres_url: str) -> AsyncIterator[Database]:
    database = await Database.open(postgres_url)
    yield database
    await database.close()


async def _take(tx: Transaction, many: int) -> list[int]:
    rows = await slices.take_ready(tx, 1, many, worker="w", failed_elsewhere_before=time.time())
    return [one.number for one in rows]


def _lease(number: int) -> Lease:
    return Lease(number, "token", "worker", "0x", None, frozenset([1]), opened_at=0.0, expires_at=5.0)


async def test_slices_that_wait_again_are_shared(database: Database) -> None:
    async with database.transaction() as tx:
        row = {"job": 1, "state": str(SliceState.READY), "lease": 0, "ready_at": 0.0}
        await tx.execute(sa.insert(schema.slices), [row | {"number": number} for number in range(1, 6)])
    async with asyncio.timeout(20), database.transaction() as one:
        assert await _take(one, 2) == [1, 2]
        async with database.transaction() as other:
            assert await _take(other, 2) == [3, 4]
        async with database.transaction() as third:
            assert await _take(third, 9) == [3, 4, 5]


async def test_leases_that_have_run_out_are_ended_by_one_process(database: Database) -> None:
    async with database.transaction() as tx:
        numbers = await leases.reserve(tx, 3)
        await leases.insert(tx, [_lease(number) for number in numbers])
    async with asyncio.timeout(20), database.transaction() as one:
        assert list(await leases.take_overdue(one, numbers[:2], 10.0)) == numbers[:2]
        async with database.transaction() as other:
            assert list(await leases.take_overdue(other, numbers, 10.0)) == numbers[2:]


async def test_what_an_ended_job_left_is_dropped_by_one_process(database: Database) -> None:
    async with database.transaction() as tx:
        ended = {
            "id": "j" * 22, "owner": "0x", "payment_account": "0x", "status": str(RunStatus.FINISHED), "spec": "{}",
            "closed": True, "admitted": True, "local_exec": False, "slice_price": "0", "total": 0, "created_at": 0.0,
            "ended_at": 1.0,
        }  # fmt: skip
        key = (await tx.execute(sa.insert(schema.jobs).values(ended).returning(schema.jobs.c.key))).scalar_one()
    async with asyncio.timeout(20), database.transaction() as one:
        assert await retention.take(one, key, retention.EVENTS) is not None
        async with database.transaction() as other:
            assert await retention.take(other, key, retention.EVENTS) is None
