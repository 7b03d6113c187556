"""Rows of leases: one per answered `requestTask`, however many slices and jobs it covers."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from orchestrator.bulk import BulkInsert
from orchestrator.scheduler.groups import Commission
from orchestrator.scheduler.store import counters
from orchestrator.scheduler.store.schema import leases


@dataclasses.dataclass(frozen=True, slots=True)
class Lease:
    """`id` is the fencing token's number, `token` its unguessable part."""

    id: int
    token: str
    worker: str
    peer: str
    payment_address: str | None
    jobs: frozenset[int]
    opened_at: float
    expires_at: float
    ended: bool = False
    due_at: float | None = None
    """by when its slices should be done; later they may be leased a second time"""
    commissions: Mapping[int, Commission] = dataclasses.field(default_factory=dict)
    """by job: what the compute group takes through which its slices were handed out; as it was then"""
    request: str | None = None
    """the worker's own name for the request that was answered with it; official workers give none"""

    @property
    def may_be_called_off(self) -> bool:
        """An official worker that is told to drop what it computes ends its sandbox and begins nothing there ever
        again (dcp-worker 3.3.19, DistributiveWorker of dcp-client 5.6.1)."""
        return self.request is not None


_INSERT = BulkInsert(
    leases,
    "id", "token", "worker", "peer", "payment_address", "jobs", "opened_at", "expires_at", "due_at", "ended",
    "commissions", "request",
)  # fmt: skip


async def reserve(tx: AsyncConnection, many: int) -> Sequence[int]:
    """Numbers of new leases, in growing order. The caller has locked the jobs: of two leases of a slice the later one
    has the higher number."""
    return await counters.reserve(tx, counters.Name.LEASE, many)


async def insert(tx: AsyncConnection, made: Iterable[Lease]) -> None:
    await _INSERT.execute(tx, map(_row, made))


def _row(one: Lease) -> tuple[Any, ...]:
    taken = {key: dataclasses.astuple(commission) for key, commission in one.commissions.items()}
    return (
        one.id, one.token, one.worker, one.peer, one.payment_address, " ".join(map(str, sorted(one.jobs))),
        one.opened_at, one.expires_at, one.due_at, one.ended, json.dumps(taken) if taken else None, one.request,
    )  # fmt: skip


def _lease(row: Mapping[Any, Any]) -> Lease:
    taken = json.loads(row["commissions"]) if row["commissions"] else {}
    return Lease(
        **{
            **row,
            "jobs": _jobs(row["jobs"]),
            "commissions": {int(key): Commission(*one) for key, one in taken.items()},
        }
    )


async def load(tx: AsyncConnection, ids: Iterable[int]) -> dict[int, Lease]:
    rows = await tx.execute(sa.select(leases).where(leases.c.id.in_(list(ids))))
    return {row["id"]: _lease(row) for row in rows.mappings()}


async def held_by(tx: AsyncConnection, worker: str, peer: str, newest: int | None = None) -> dict[int, frozenset[int]]:
    """Leases of a worker that have not ended, or so many of them, with their jobs. Only the identity that took them
    counts."""
    query = sa.select(leases.c.id, leases.c.jobs).where(
        leases.c.worker == worker, leases.c.peer == peer, leases.c.ended.is_(False)
    )
    if newest is not None:
        query = query.order_by(leases.c.id.desc()).limit(newest)
    return {lease: _jobs(text) for lease, text in await tx.execute(query)}


def jobs_of(held: Iterable[Lease]) -> dict[int, frozenset[int]]:
    return {lease.id: lease.jobs for lease in held}


def _jobs(text: str) -> frozenset[int]:
    return frozenset(map(int, text.split()))


async def make_due(tx: AsyncConnection, ids: Iterable[int], now: float) -> None:
    """Their worker says itself that slices run longer than they should."""
    where = (leases.c.id.in_(sorted(ids)), leases.c.due_at > now)
    await tx.execute(sa.update(leases).where(*where).values(due_at=now))


async def answering(
    tx: AsyncConnection, worker: str, peer: str, requests: Collection[str]
) -> dict[int, frozenset[int]]:
    """Those of them that these requests of the worker's were answered with."""
    query = sa.select(leases.c.id, leases.c.jobs).where(
        leases.c.worker == worker, leases.c.peer == peer, leases.c.ended.is_(False), leases.c.request.in_(requests)
    )
    return {lease: _jobs(text) for lease, text in await tx.execute(query)}


async def renew(tx: AsyncConnection, ids: Iterable[int], expires_at: float) -> None:
    where = (leases.c.id.in_(sorted(ids)), leases.c.ended.is_(False), leases.c.expires_at < expires_at)
    await tx.execute(sa.update(leases).where(*where).values(expires_at=expires_at))


async def renew_all(tx: AsyncConnection, expires_at: float) -> None:
    """Every lease that has not ended lives at least until then."""
    where = (leases.c.ended.is_(False), leases.c.expires_at < expires_at)
    await tx.execute(sa.update(leases).where(*where).values(expires_at=expires_at))


# Made once: each process asks these again and again.
_OVERDUE = (
    sa.select(leases)
    .where(leases.c.ended.is_(False), leases.c.expires_at <= sa.bindparam("now"))
    .order_by(leases.c.expires_at)
    .limit(sa.bindparam("most", type_=sa.Integer))
)
_NEXT_EXPIRY = sa.select(sa.func.min(leases.c.expires_at)).where(leases.c.ended.is_(False))


async def overdue(tx: AsyncConnection, now: float, limit: int) -> list[Lease]:
    return [_lease(row) for row in (await tx.execute(_OVERDUE, {"now": now, "most": limit})).mappings()]


async def take_overdue(tx: AsyncConnection, ids: Iterable[int], now: float) -> dict[int, Lease]:
    """Those of the leases that are overdue still, locked; what another process is busy with is left to it."""
    query = (
        sa.select(leases)
        .where(leases.c.id.in_(list(ids)), leases.c.ended.is_(False), leases.c.expires_at <= now)
        .order_by(leases.c.id)
        .with_for_update(skip_locked=True)
    )
    return {row["id"]: _lease(row) for row in (await tx.execute(query)).mappings()}


async def next_expiry(tx: AsyncConnection) -> float | None:
    expiry = (await tx.execute(_NEXT_EXPIRY)).scalar()
    return None if expiry is None else float(expiry)


async def end(tx: AsyncConnection, ids: Iterable[int]) -> None:
    await tx.execute(sa.update(leases).where(leases.c.id.in_(list(ids))).values(ended=True))


async def forget(tx: AsyncConnection, before: float) -> None:
    """Drop leases that ended and expired long ago."""
    await tx.execute(sa.delete(leases).where(leases.c.ended.is_(True), leases.c.expires_at < before))
