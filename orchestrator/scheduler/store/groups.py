"""Rows of compute groups and of the jobs in them. The public group has no row, only jobs."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from orchestrator.jobs.words import GroupDescriptor
from orchestrator.scheduler.groups import Group, Terms, Use, change_terms
from orchestrator.scheduler.store.schema import compute_groups, job_groups, jobs


async def insert(tx: AsyncConnection, group: Group, now: float) -> None:
    await tx.execute(sa.insert(compute_groups).values({"id": group.id, "created_at": now} | _values(group)))


async def save(tx: AsyncConnection, group: Group) -> None:
    await tx.execute(sa.update(compute_groups).where(compute_groups.c.id == group.id).values(_values(group)))


async def delete(tx: AsyncConnection, group_id: str) -> None:
    """The group and who is in it; the jobs themselves stay."""
    await tx.execute(sa.delete(job_groups).where(job_groups.c.group_id == group_id))
    await tx.execute(sa.delete(compute_groups).where(compute_groups.c.id == group_id))


async def named(tx: AsyncConnection, descriptors: Iterable[GroupDescriptor], *, lock: bool = False) -> list[Group]:
    """Those that the descriptors name, whether or not they prove anything."""
    keys = {one.join_key for one in descriptors if one.join_key is not None}
    ids = {one.opaque_id for one in descriptors if one.opaque_id is not None and one.join_key is None}
    if not keys and not ids:
        return []
    where = sa.or_(compute_groups.c.join_key.in_(sorted(keys)), compute_groups.c.id.in_(sorted(ids)))
    return await _found(tx, where, lock=lock)


async def by_ids(tx: AsyncConnection, ids: Iterable[str]) -> dict[str, Group]:
    wanted = sorted(set(ids))
    found = await _found(tx, compute_groups.c.id.in_(wanted)) if wanted else []
    return {group.id: group for group in found}


async def of_owner(tx: AsyncConnection, owner: str) -> list[Group]:
    return await _found(tx, compute_groups.c.owner == owner)


async def count_of_owner(tx: AsyncConnection, owner: str) -> int:
    query = sa.select(sa.func.count()).where(compute_groups.c.owner == owner)
    return int((await tx.execute(query)).scalar_one())


async def use(tx: AsyncConnection, group_id: str) -> Use:
    """Jobs in the group that have not ended, and what they may still pay together."""
    query = (
        sa.select(jobs.c.slice_price, (jobs.c.total - jobs.c.accepted - jobs.c.failed) * jobs.c.copies)
        .join(job_groups, job_groups.c.job == jobs.c.key)
        .where(job_groups.c.group_id == group_id, jobs.c.ended_at.is_(None))
    )
    rows = list(await tx.execute(query))
    return Use(jobs=len(rows), escrow=sum(int(price) * left for price, left in rows))


async def jobs_in(tx: AsyncConnection, group_id: str, limit: int) -> list[int]:
    """Keys of the jobs, newest first."""
    query = sa.select(job_groups.c.job).where(job_groups.c.group_id == group_id).order_by(job_groups.c.job.desc())
    return list((await tx.execute(query.limit(limit))).scalars())


async def remove_jobs(tx: AsyncConnection, group_id: str, keys: Sequence[int] | None) -> int:
    """Take jobs out of a group, all of them when `keys` is None; how many were in it."""
    where = [job_groups.c.group_id == group_id]
    if keys is not None:
        where.append(job_groups.c.job.in_(list(keys)))
    return (await tx.execute(sa.delete(job_groups).where(*where))).rowcount


async def _found(tx: AsyncConnection, where: Any, *, lock: bool = False) -> list[Group]:
    query = sa.select(compute_groups).where(where).order_by(compute_groups.c.id)
    return [_group(row) for row in (await tx.execute(query.with_for_update() if lock else query)).mappings()]


def _group(row: Mapping[Any, Any]) -> Group:
    return Group(
        id=row["id"],
        owner=row["owner"],
        terms=change_terms(Terms(), json.loads(row["terms"]), "terms"),
        join_key=row["join_key"],
        join_hash=row["join_hash"],
        join_address=row["join_address"],
    )


def _values(group: Group) -> dict[str, Any]:
    return {
        "owner": group.owner,
        "join_key": group.join_key,
        "join_hash": group.join_hash,
        "join_address": group.join_address,
        "terms": json.dumps(group.terms.to_json()),
    }
