"""Rows of the stamps of requests, each with the request that used it. The statements are PostgreSQL's."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection

from orchestrator.database import metadata

stamps = sa.Table(
    "stamps",
    metadata,
    sa.Column("stamp", sa.Text, primary_key=True),
    # session and id of the request: what was refused there may come again
    sa.Column("used_by", sa.Text, nullable=False),
    sa.Column("stale_at", sa.Float, nullable=False, index=True),
)

_insert = insert(stamps)
_CLAIM = _insert.on_conflict_do_nothing(index_elements=[stamps.c.stamp])


@dataclasses.dataclass(slots=True)
class Claim:
    stamp: str
    used_by: str
    stale_at: float
    is_used: bool = False
    """by another request"""


async def claim(tx: AsyncConnection, claims: Sequence[Claim]) -> set[str]:
    """Write who uses which stamp; those that are another request's."""
    # As with acks: what a crash of the database may lose is a moment.
    await tx.exec_driver_sql("SET LOCAL synchronous_commit = off")
    wanted = {one.stamp: one for one in sorted(claims, key=lambda one: one.stamp)}
    rows = [{"stamp": one.stamp, "used_by": one.used_by, "stale_at": one.stale_at} for one in wanted.values()]
    await tx.execute(_CLAIM, rows)
    query = sa.select(stamps.c.stamp, stamps.c.used_by).where(stamps.c.stamp.in_(list(wanted)))
    by = {row.stamp: row.used_by for row in await tx.execute(query)}
    return {one.stamp for one in claims if by.get(one.stamp, one.used_by) != one.used_by}


async def forget(tx: AsyncConnection, now: float) -> None:
    """Those that nobody could use again in any case."""
    await tx.execute(sa.delete(stamps).where(stamps.c.stale_at < now))


async def count(tx: AsyncConnection) -> int:
    return int((await tx.execute(sa.select(sa.func.count()).select_from(stamps))).scalar_one())
