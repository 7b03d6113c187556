"""Rows of events: each stays until a client has acknowledged it.

A client reads the queue of a job upwards from the last id that it has seen. So the ids of a job grow in the order of
commits: whoever queues for it holds its lock until then. Writers of different jobs do not wait for one another.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from orchestrator.bulk import BulkInsert
from orchestrator.scheduler.store import counters
from orchestrator.scheduler.store.schema import events, slice_results
from orchestrator.scheduler.watermark import Moment

CHUNK = 2000
_INSERT = BulkInsert(events, "id", "job", "label", "number", "body")


@dataclasses.dataclass(slots=True)  # not frozen: freezing costs four times as much, and there is one for every result
class Event:
    """`body` is JSON text; a result event has none: it is the number of a slice, and `uri` is read from its row."""

    job: int
    label: str
    number: int | None = None
    body: str | None = None
    uri: str | None = None
    id: int = 0


async def append(tx: AsyncConnection, fresh: Sequence[Event]) -> list[Event]:
    """Queue events; the answer carries their ids, which grow in the order of commits for each job.

    A row that the transaction is to lock besides must be locked before.
    """
    if not fresh:
        return []
    ids = await counters.reserve_events(tx, {event.job for event in fresh}, len(fresh))
    numbered = [
        Event(one.job, one.label, one.number, one.body, one.uri, id) for id, one in zip(ids, fresh, strict=True)
    ]
    await _INSERT.execute(tx, [(one.id, one.job, one.label, one.number, one.body) for one in numbered])
    return numbered


_QUEUED = (
    sa.select(events.c.job, events.c.label, events.c.number, events.c.body, slice_results.c.uri, events.c.id)
    .join_from(
        events,
        slice_results,
        sa.and_(
            events.c.label == "result",
            slice_results.c.job == events.c.job,
            slice_results.c.number == events.c.number,
        ),
        isouter=True,
    )
    .where(
        events.c.job == sa.bindparam("of_job"),
        events.c.label == sa.bindparam("named"),
        events.c.id > sa.bindparam("after"),
    )
    .order_by(events.c.id)
    .limit(sa.bindparam("most", type_=sa.Integer))
)


async def queued(tx: AsyncConnection, job: int, label: str, after: int, limit: int) -> list[Event]:
    """Unacknowledged events with an id greater than `after`, oldest first."""
    values = {"of_job": job, "named": label, "after": after, "most": limit}
    return [Event(*row) for row in await tx.execute(_QUEUED, values)]


async def count(tx: AsyncConnection, job: int, label: str) -> int:
    query = sa.select(sa.func.count()).select_from(events).where(events.c.job == job, events.c.label == label)
    return int((await tx.execute(query)).scalar_one())


async def newest(tx: AsyncConnection) -> int:
    """The id of the newest event that was ever queued, or is about to be."""
    return await counters.newest(tx, counters.Name.EVENT)


async def moment(tx: AsyncConnection) -> Moment:
    """See `Watermark`."""
    return await counters.moment(tx)


async def queues_since(tx: AsyncConnection, after: int) -> list[tuple[int, str]]:
    """(job, label) of the queues that hold events with an id greater than `after`."""
    query = sa.select(events.c.job, events.c.label).distinct().where(events.c.id > after)
    return [(job, label) for job, label in await tx.execute(query)]


async def delete(tx: AsyncConnection, ids: Iterable[int]) -> None:
    items = list(ids)
    for start in range(0, len(items), CHUNK):
        await tx.execute(sa.delete(events).where(events.c.id.in_(items[start : start + CHUNK])))
