"""Statements about many rows at once say the same on both databases."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest
import sqlalchemy as sa

from orchestrator.bank.tables import lanes
from orchestrator.bulk import Bulk, BulkInsert, BulkUpdate
from orchestrator.database import Database
from orchestrator.errors import InvalidInput
from orchestrator.scheduler.lifecycle import Slice, SliceState
from orchestrator.scheduler.store import slices
from orchestrator.scheduler.store.schema import slice_failures, slice_results
from orchestrator.scheduler.store.slices import Fresh

_INSERT = BulkInsert(slice_results, "job", "number", "uri", "lease", "accepted_at")
_UPDATE = BulkUpdate(slice_results, ("job", "number"), "uri", "accepted_at")
_FIND = Bulk(
    "SELECT slice_results.number, uri FROM {rows} JOIN slice_results"
    " ON slice_results.job = given.job AND slice_results.number = given.number"
    " WHERE lease > :least ORDER BY slice_results.number",
    job="bigint",
    number="bigint",
)
_TEXTS = ["", "plain", 'quo"tes', "back\\slash", "a:colon %s {braces}", "Fünf €, 🙂", "\u2028 line\nbreak\ttab"]


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[Database]:
    database = await Database.open(database_url)
    yield database
    await database.close()


async def _rows(database: Database) -> list[tuple[Any, ...]]:
    async with database.snapshot() as tx:
        return [tuple(row) for row in await tx.execute(sa.select(slice_results).order_by(slice_results.c.number))]


async def test_what_is_written_is_read(database: Database) -> None:
    rows = [(7, 2**53 + number, text, 2**62, 1e9 / (number + 3)) for number, text in enumerate(_TEXTS)]
    async with database.transaction() as tx:
        await _INSERT.execute(tx, [])
        await _INSERT.execute(tx, rows)
        await _UPDATE.execute(tx, [(7, 2**53 + 1, "changed", 0.1), (7, 1, "nobody's", 0.2)])
        found = await _FIND.execute(tx, [(7, 2**53), (7, 2**53 + 1), (8, 2**53)], least=5)
        assert [tuple(row) for row in found] == [(2**53, ""), (2**53 + 1, "changed")]
    rows[1] = (7, 2**53 + 1, "changed", 2**62, 0.1)
    assert await _rows(database) == rows


async def test_bytes_are_written_as_they_are(database: Database) -> None:
    insert = BulkInsert(lanes, "number", "digest")
    digests = [bytes(range(32)), bytes(32)]
    async with database.transaction() as tx:
        await insert.execute(tx, [(100 + place, digest) for place, digest in enumerate(digests)])
        found = await tx.execute(sa.select(lanes.c.digest).where(lanes.c.number >= 100).order_by(lanes.c.number))
        assert [bytes(digest) for digest in found.scalars()] == digests


async def test_half_a_surrogate_pair_is_refused(database: Database) -> None:
    with pytest.raises(InvalidInput, match="cannot be kept"):
        async with database.transaction() as tx:
            await _INSERT.execute(tx, [(1, 1, "fine", 1, 0.0), (1, 2, "half \ud83d", 1, 0.0)])
    assert await _rows(database) == []


async def test_slices_of_several_jobs_are_one_statement(database: Database) -> None:
    async with database.transaction() as tx:
        await slices.lease_fresh(tx, [Fresh(1, 1, 3, 10), Fresh(2, 5, 2, 11)])
        await slices.mark_accepted(tx, [(1, 2), (2, 5)])
        await slices.save(
            tx, [(1, Slice(3, SliceState.READY, 0, 1)), (2, Slice(6, SliceState.LEASED, 12, 0, 1, 11))], 5.0
        )
        found = await slices.lock(tx, [(1, 1), (1, 2), (1, 3), (1, 4), (2, 5), (2, 6)])
    assert found == {
        1: {
            1: Slice(1, SliceState.LEASED, 10),
            2: Slice(2, SliceState.ACCEPTED, 10),
            3: Slice(3, SliceState.READY, 0, 1),
        },
        2: {5: Slice(5, SliceState.ACCEPTED, 11), 6: Slice(6, SliceState.LEASED, 12, 0, 1, 11)},
    }


async def test_the_newest_failure_of_a_worker_stays_for_each_job(database: Database) -> None:
    async with database.transaction() as tx:
        await slices.add_failures(tx, [(1, slices.Failure(1, "w", "old")), (2, slices.Failure(1, "w", "other"))], 1.0)
        await slices.add_failures(tx, [(1, slices.Failure(1, "w", "older")), (1, slices.Failure(1, "w", "new"))], 2.0)
        query = sa.select(slice_failures.c.job, slice_failures.c.reason).order_by(slice_failures.c.job)
        assert [tuple(row) for row in await tx.execute(query)] == [(1, "new"), (2, "other")]
