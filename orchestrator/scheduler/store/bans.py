"""Rows about workers that have trouble with a job. They change under the lock of the job."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from orchestrator.scheduler.bans import Record
from orchestrator.scheduler.store.schema import bans

_LOAD = sa.select(bans.c.job, bans.c.worker, bans.c.since, bans.c.failures, bans.c.successes, bans.c.until).where(
    bans.c.job.in_(sa.bindparam("jobs", expanding=True))
)


async def load(tx: AsyncConnection, jobs: Iterable[int]) -> dict[tuple[int, str], Record]:
    """By job and worker."""
    rows = await tx.execute(_LOAD, {"jobs": sorted(jobs)})
    return {(job, worker): Record(*record) for job, worker, *record in rows}


async def save(tx: AsyncConnection, changed: Mapping[tuple[int, str], Record | None]) -> None:
    """None: there is nothing to say of the pair any more."""
    if not changed:
        return
    pairs = [{"of_job": job, "of_worker": worker} for job, worker in sorted(changed)]
    where = (bans.c.job == sa.bindparam("of_job"), bans.c.worker == sa.bindparam("of_worker"))
    await tx.execute(sa.delete(bans).where(*where), pairs)
    rows = [
        {
            "job": job,
            "worker": worker,
            "since": record.since,
            "failures": record.failures,
            "successes": record.successes,
            "until": record.until,
        }
        for (job, worker), record in sorted(changed.items())
        if record is not None
    ]
    if rows:
        await tx.execute(sa.insert(bans), rows)


async def forget(tx: AsyncConnection, since_before: float, now: float) -> None:
    """Pairs whose trouble began before then, and that are kept apart no longer."""
    await tx.execute(sa.delete(bans).where(bans.c.since < since_before, bans.c.until <= now))


async def count(tx: AsyncConnection) -> int:
    return int((await tx.execute(sa.select(sa.func.count()).select_from(bans))).scalar_one())
