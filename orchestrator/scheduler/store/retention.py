"""Statements that drop what ended jobs have left."""

from __future__ import annotations

import enum

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from orchestrator.scheduler.store.schema import (
    events,
    jobs,
    slice_failures,
    slice_inputs,
    slice_opinions,
    slice_results,
    slices,
)


class What(enum.StrEnum):
    EVENTS = "events"
    RESULTS = "results"


EVENTS, RESULTS = What.EVENTS, What.RESULTS
_MARK = {EVENTS: jobs.c.events_dropped_at, RESULTS: jobs.c.dropped_at}
# With the results their events go, too: an event of a result is a reference to its row.
_TABLES: dict[What, tuple[tuple[sa.Table, sa.Column[int]], ...]] = {
    EVENTS: ((events, events.c.id),),
    RESULTS: (
        (events, events.c.id),
        (slice_results, slice_results.c.number),
        (slice_inputs, slice_inputs.c.number),
        (slice_failures, slice_failures.c.number),
        (slice_opinions, slice_opinions.c.number),
        (slices, slices.c.number),
    ),
}


async def due(tx: AsyncConnection, what: What, ended_before: float, limit: int) -> list[int]:
    """Keys of jobs that ended before that and still have what is to be dropped, the oldest first."""
    query = (
        sa.select(jobs.c.key)
        .where(jobs.c.ended_at < ended_before, _MARK[what].is_(None))
        .order_by(jobs.c.ended_at)
        .limit(limit)
    )
    return list((await tx.execute(query)).scalars())


async def take(tx: AsyncConnection, key: int, what: What) -> str | None:
    """Lock the job; its id. None when another process has it, or nothing is left to drop."""
    query = sa.select(jobs.c.id).where(jobs.c.key == key, _MARK[what].is_(None))
    return (await tx.execute(query.with_for_update(skip_locked=True))).scalar()


async def drop_some(tx: AsyncConnection, key: int, what: What, limit: int) -> int:
    """Drop up to so many rows of the first table that has any; how many there were."""
    for table, number in _TABLES[what]:
        chosen = sa.select(number).where(table.c.job == key).order_by(number).limit(limit).scalar_subquery()
        count = (await tx.execute(sa.delete(table).where(table.c.job == key, number.in_(chosen)))).rowcount
        if count:
            return int(count)
    return 0


async def dropped(tx: AsyncConnection, key: int, what: What, now: float) -> None:
    await tx.execute(sa.update(jobs).where(jobs.c.key == key).values({_MARK[what]: now}))
