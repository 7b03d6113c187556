"""Numbers that only grow, and that writers take without waiting for one another.

On PostgreSQL they come from sequences: the order of numbers is not that of commits. Where that matters, writers are
put in order by what they lock before (a lease: its jobs; an event: its queue), or readers keep a `Watermark`. On
SQLite, whose writers come one after the other in any case, a row counts.
"""

from __future__ import annotations

import enum
from collections.abc import Sequence

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
_DRAW = {
    name: sa.select(sequence.next_value()).select_from(sa.func.generate_series(1, sa.bindparam("many")))
    for name, sequence in _SEQUENCES.items()
}
_LAST = {
    name: sa.text(f"SELECT CASE WHEN is_called THEN last_value ELSE 0 END FROM {sequence.name}")  # noqa: S608
    for name, sequence in _SEQUENCES.items()
}
# A transaction that is about to draw numbers has an id already: `Watermark` relies on it.
_BEGUN = sa.text("SELECT pg_current_xact_id()")
_MOMENT = sa.text("SELECT pg_snapshot_xmin(pg_current_snapshot())::text::bigint, pg_current_xact_id()::text::bigint")


async def reserve(tx: AsyncConnection, name: Name, many: int = 1) -> Sequence[int]:
    """Take so many numbers that nobody else has, in growing order."""
    if tx.dialect.name == "postgresql":
        await tx.execute(_BEGUN)
        return sorted((await tx.execute(_DRAW[name], {"many": many})).scalars())
    last = (await tx.execute(_COUNT, {"of_name": str(name), "many": many})).scalar_one_or_none()
    if last is None:
        await tx.execute(sa.insert(counters).values(name=str(name), value=many))
        last = many
    return range(int(last) - many + 1, int(last) + 1)


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
