"""Rows about values that were put aside before the job has a row: nothing is left of a job that was refused then."""

from __future__ import annotations

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from orchestrator.scheduler.store.schema import blob_intents, jobs


async def begin(tx: AsyncConnection, job: str, token: str, now: float) -> None:
    """Values of this job are about to be put aside. Whoever began before has nothing to say any more."""
    values = {"token": token, "begun_at": now}
    done = await tx.execute(sa.update(blob_intents).where(blob_intents.c.job == job).values(values))
    if not done.rowcount:
        await tx.execute(sa.insert(blob_intents).values(job=job, **values))


async def end(tx: AsyncConnection, job: str) -> None:
    """The job has a row: its values go with it."""
    await tx.execute(sa.delete(blob_intents).where(blob_intents.c.job == job))


async def take(tx: AsyncConnection, job: str, *, token: str | None = None, before: float | None = None) -> bool | None:
    """Lock an intent: whether nothing refers to what was put aside. None when it is not this one, or not so old, any
    more: then it is another's."""
    query = sa.select(blob_intents.c.job).where(blob_intents.c.job == job)
    if token is not None:
        query = query.where(blob_intents.c.token == token)
    if before is not None:
        query = query.where(blob_intents.c.begun_at < before)
    if (await tx.execute(query.with_for_update())).first() is None:
        return None
    return (await tx.execute(sa.select(jobs.c.key).where(jobs.c.id == job))).first() is None


async def older(tx: AsyncConnection, before: float, limit: int) -> list[str]:
    """Jobs of intents that began before then."""
    query = sa.select(blob_intents.c.job).where(blob_intents.c.begun_at < before).order_by(blob_intents.c.begun_at)
    return list((await tx.execute(query.limit(limit))).scalars())


async def count(tx: AsyncConnection) -> int:
    return int((await tx.execute(sa.select(sa.func.count()).select_from(blob_intents))).scalar_one())
