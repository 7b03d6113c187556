"""Rows of the stamps of requests, each with the request that used it. They are written by `journal`."""

from __future__ import annotations

import dataclasses

import sqlalchemy as sa
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


@dataclasses.dataclass(slots=True)
class Claim:
    stamp: str
    used_by: str
    stale_at: float
    is_used: bool = False
    """by another request"""


async def forget(tx: AsyncConnection, now: float) -> None:
    """Those that nobody could use again in any case."""
    await tx.execute(sa.delete(stamps).where(stamps.c.stale_at < now))


async def count(tx: AsyncConnection) -> int:
    return int((await tx.execute(sa.select(sa.func.count()).select_from(stamps))).scalar_one())
