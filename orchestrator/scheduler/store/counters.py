"""Numbers that only grow. Taking some locks the counter until the transaction ends, so numbers are in commit order."""

from __future__ import annotations

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from orchestrator.scheduler.store.schema import counters

_RESERVE = (
    sa.update(counters)
    .where(counters.c.name == sa.bindparam("of_name"))
    .values(value=counters.c.value + sa.bindparam("many"))
    .returning(counters.c.value)
)


async def reserve(tx: AsyncConnection, name: str, many: int) -> int:
    """Take `many` consecutive numbers; the answer is the first."""
    last = (await tx.execute(_RESERVE, {"of_name": name, "many": many})).scalar_one_or_none()
    if last is None:
        await tx.execute(sa.insert(counters).values(name=name, value=many))
        last = many
    return int(last) - many + 1
