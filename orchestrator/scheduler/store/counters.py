"""Numbers that only grow, and that writers take without waiting for one another.

On PostgreSQL they come from sequences: the order of numbers is not that of commits. Where that matters, writers are
put in order by what they lock before (a lease: its jobs; an event: its queue), or readers keep a `Watermark`. On
SQLite, whose writers come one after the other in any case, a row counts.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable, Sequence

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from orchestrator.scheduler.store.schema import counters, events, leases
from orchestrator.scheduler.watermark import Moment


class Name(enum.StrEnum):
    EVENT = "event"
    LEASE = "lease"


_COUNT = (
    sa.update(counters)
    .where(counters.c.name == sa.bindparam("of_name"))
    .values(value=counters.c.value + sa.bindparam("many"))
    .returning(counters.c.value)
)
_SEQUENCES = {name: sa.Sequence(f"{name}_ids") for name in Name}
# A transaction that is about to draw numbers has an id already: `Watermark` relies on it. Columns are computed from the
# left.
_DRAW = {
    Name.EVENT: sa.text("SELECT pg_current_xact_id(), nextval('event_ids') FROM generate_series(1, :many)"),
    Name.LEASE: sa.text("SELECT pg_current_xact_id(), nextval('lease_ids') FROM generate_series(1, :many)"),
}
_DRAW_IN_ORDER = sa.text(
    """
    WITH queues AS MATERIALIZED (
        SELECT count(pg_advisory_xact_lock(:queues, job)) AS locked
        FROM (SELECT unnest(CAST(:jobs AS int[])) AS job ORDER BY 1) AS in_order
    )
    SELECT locked, pg_current_xact_id(), nextval('event_ids') FROM queues CROSS JOIN generate_series(1, :many)
    """
)
_QUEUES = 0x0DC9_E7E7
"""the class of the advisory locks of queues; the migration that made the sequence names it, too"""
_LAST = {
    name: sa.text(f"SELECT CASE WHEN is_called THEN last_value ELSE 0 END FROM {sequence.name}")  # noqa: S608
    for name, sequence in _SEQUENCES.items()
}
_MOMENT = sa.text("SELECT pg_snapshot_xmin(pg_current_snapshot())::text::bigint, pg_current_xact_id()::text::bigint")


async def reserve(tx: AsyncConnection, name: Name, many: int = 1) -> Sequence[int]:
    """Take so many numbers that nobody else has, in growing order."""
    if tx.dialect.name == "postgresql":
        return sorted((await tx.execute(_DRAW[name], {"many": many})).scalars(1))
    last = (await tx.execute(_COUNT, {"of_name": str(name), "many": many})).scalar_one_or_none()
    if last is None:
        await tx.execute(sa.insert(counters).values(name=str(name), value=many))
        last = many
    return range(int(last) - many + 1, int(last) + 1)


async def reserve_events(tx: AsyncConnection, jobs: Iterable[int], many: int) -> Sequence[int]:
    """Numbers of events for the queues of these jobs, which are locked until the transaction ends."""
    if tx.dialect.name != "postgresql":
        return await reserve(tx, Name.EVENT, many)
    locks = {"queues": _QUEUES, "jobs": [job % 2**31 for job in jobs]}
    return sorted((await tx.execute(_DRAW_IN_ORDER, {**locks, "many": many})).scalars(2))


async def newest(tx: AsyncConnection, name: Name) -> int:
    """The highest number that anybody has taken, committed or not."""
    query = (
        _LAST[name] if tx.dialect.name == "postgresql" else sa.select(counters.c.value).where(counters.c.name == name)
    )
    return int((await tx.execute(query)).scalar() or 0)


async def behind(tx: AsyncConnection) -> list[str]:
    """What would be given numbers that rows have already: a copy was put back in parts."""
    found = []
    for name, column in ((Name.EVENT, events.c.id), (Name.LEASE, leases.c.id)):
        highest = (await tx.execute(sa.select(sa.func.max(column)))).scalar()
        if highest is not None and highest > await newest(tx, name):
            found.append(
                f"{name} {highest} is there, and the next one to be made would be {await newest(tx, name) + 1}"
            )
    return found


async def moment(tx: AsyncConnection) -> Moment:
    """Which transactions this snapshot sees. `newest` must have been asked in an earlier transaction."""
    if tx.dialect.name != "postgresql":
        return Moment(0, 0)
    return Moment(*(await tx.execute(_MOMENT)).one())
