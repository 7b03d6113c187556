"""As `orchestrator.scheduler.store.leases`."""

from __future__ import annotations

import dataclasses
import heapq
from collections.abc import Collection, Iterable, Sequence

from orchestrator.scheduler.store.leases import Lease
from tests.simulation.memory import others
from tests.simulation.memory.state import Memory


async def reserve(tx: Memory, many: int) -> Sequence[int]:
    return await others.reserve(tx, "lease", many)


async def insert(tx: Memory, made: Iterable[Lease]) -> None:
    for lease in made:
        tx.mark(tx.held, (lease.worker, lease.peer), lease.id, True)
        _put(tx, lease)


def _put(tx: Memory, lease: Lease) -> None:
    before = tx.leases.get(lease.id)
    tx.put(tx.leases, lease.id, lease)
    tx.touched.leases.add(lease.id)
    _await_expiry(tx, lease)
    if before is not None and not before.ended:
        tx.afterwards(lambda: _await_expiry(tx, before))


def _await_expiry(tx: Memory, lease: Lease) -> None:
    if not lease.ended:
        heapq.heappush(tx.expiries, (lease.expires_at, lease.id))


async def load(tx: Memory, ids: Iterable[int]) -> dict[int, Lease]:
    return {one: tx.leases[one] for one in sorted(ids) if one in tx.leases}


def _mine(tx: Memory, worker: str, peer: str) -> list[Lease]:
    return [tx.leases[one] for one in sorted(tx.held.get((worker, peer), ()))]


async def held_by(tx: Memory, worker: str, peer: str, newest: int | None = None) -> dict[int, frozenset[int]]:
    mine = _mine(tx, worker, peer)
    return {lease.id: lease.jobs for lease in (mine if newest is None else mine[::-1][:newest])}


async def make_due(tx: Memory, ids: Iterable[int], now: float) -> None:
    for one in ids:
        lease = tx.leases.get(one)
        if lease is not None and lease.due_at is not None and lease.due_at > now:
            _put(tx, dataclasses.replace(lease, due_at=now))


async def answering(tx: Memory, worker: str, peer: str, requests: Collection[str]) -> dict[int, frozenset[int]]:
    return {lease.id: lease.jobs for lease in _mine(tx, worker, peer) if lease.request in requests}


async def renew(tx: Memory, ids: Iterable[int], expires_at: float) -> None:
    for one in ids:
        lease = tx.leases.get(one)
        if lease is not None and not lease.ended and lease.expires_at < expires_at:
            _put(tx, dataclasses.replace(lease, expires_at=expires_at))


async def renew_all(tx: Memory, expires_at: float) -> None:
    await renew(tx, [one for leases in list(tx.held.values()) for one in leases], expires_at)


def _next(tx: Memory) -> tuple[float, int] | None:
    """The lease that expires next. What is not so any more is dropped: a transaction that is taken back notes again
    what it had made untrue."""
    while tx.expiries:
        expires_at, one = first = tx.expiries[0]
        lease = tx.leases.get(one)
        if lease is not None and not lease.ended and lease.expires_at == expires_at:
            return first
        heapq.heappop(tx.expiries)
    return None


async def overdue(tx: Memory, now: float, limit: int) -> list[Lease]:
    found: dict[tuple[float, int], None] = {}
    while len(found) < limit and (first := _next(tx)) is not None and first[0] <= now:
        found[heapq.heappop(tx.expiries)] = None
        while tx.expiries and tx.expiries[0] == first:  # said twice
            heapq.heappop(tx.expiries)
    for one in found:  # whoever asked may yet leave them alone
        heapq.heappush(tx.expiries, one)
    return [tx.leases[one] for _, one in found]


async def take_overdue(tx: Memory, ids: Iterable[int], now: float) -> dict[int, Lease]:
    found = (tx.leases[one] for one in sorted(ids) if one in tx.leases)
    return {one.id: one for one in found if not one.ended and one.expires_at <= now}


async def next_expiry(tx: Memory) -> float | None:
    first = _next(tx)
    return None if first is None else first[0]


async def end(tx: Memory, ids: Iterable[int]) -> None:
    for one in ids:
        lease = tx.leases[one]
        if not lease.ended:
            tx.mark(tx.held, (lease.worker, lease.peer), one, False)
            _put(tx, dataclasses.replace(lease, ended=True))


async def forget(tx: Memory, before: float) -> None:
    """Runs are shorter than leases are kept."""
