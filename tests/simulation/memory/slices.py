"""As `orchestrator.scheduler.store.slices`."""

from __future__ import annotations

import dataclasses
import heapq
import itertools
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence

from orchestrator.scheduler.lifecycle import Slice, SliceState
from orchestrator.scheduler.redundancy import Asked
from orchestrator.scheduler.store.leases import Lease
from orchestrator.scheduler.store.slices import Failure, Fresh, Late, Result
from tests.simulation.memory.state import Memory, ordered
from tests.simulation.rows import Place


async def add_inputs(tx: Memory, job: int, first: int, uris: Sequence[str]) -> None:
    for number, uri in enumerate(uris, first):
        assert (job, number) not in tx.inputs, "a second input of a slice"
        tx.put(tx.inputs, (job, number), uri)


async def inputs(tx: Memory, job: int, numbers: Iterable[int]) -> dict[int, str]:
    return {number: tx.inputs[job, number] for number in numbers if (job, number) in tx.inputs}


async def load(tx: Memory, job: int, numbers: Iterable[int], *, lock: bool = True) -> dict[int, Slice]:
    places = ((job, number) for number in sorted(numbers))
    return {place[1]: tx.slices[place].piece for place in places if place in tx.slices}


async def lock(tx: Memory, wanted: Iterable[Place]) -> dict[int, dict[int, Slice]]:
    found: dict[int, dict[int, Slice]] = {}
    for job, number in wanted:
        if (job, number) in tx.slices:
            found.setdefault(job, {})[number] = tx.slices[job, number].piece
    return found


async def mark_accepted(tx: Memory, pairs: Iterable[Place]) -> None:
    for job, number in pairs:
        tx.put_slice(job, dataclasses.replace(tx.slices[job, number].piece, state=SliceState.ACCEPTED), None)


async def save(tx: Memory, changed: Iterable[tuple[int, Slice]], now: float) -> None:
    for job, one in changed:
        tx.put_slice(job, one, now if one.state is SliceState.READY else None)


async def lease_fresh(tx: Memory, leased: Iterable[Fresh]) -> None:
    for one in leased:
        for number in range(one.first, one.first + one.count):
            assert (one.job, number) not in tx.slices, "a second row of a slice"
            tx.put_slice(one.job, Slice(number, SliceState.LEASED, one.lease), None)


async def failed_here(tx: Memory, job: int, limit: int, *, worker: str) -> dict[int, set[str]]:
    mine = (number for number in ordered(tx.ready, job) if worker in tx.failures.get((job, number), ()))
    return {number: set(tx.failures[job, number]) for number in itertools.islice(mine, limit)}


async def take_ready(
    tx: Memory,
    job: int,
    limit: int,
    *,
    worker: str,
    failed_elsewhere_before: float,
    also: Collection[int] = (),
    heard: bool | None = None,
    unheard_of: Asked | None = None,
) -> list[Slice]:
    def fitting() -> Iterator[int]:
        for number in tx.ready.get(job, ()):
            entry = tx.slices[job, number]
            assert entry.ready_at is not None
            failed = worker in tx.failures.get((job, number), ())
            if failed and number not in also and entry.ready_at > failed_elsewhere_before:
                continue
            if heard is not None and heard is not bool(entry.piece.opinions):
                continue
            if unheard_of is None or not _heard_kin(tx, job, number, unheard_of):
                yield number

    if limit <= 0:
        return []
    return [tx.slices[job, number].piece for number in heapq.nsmallest(limit, fitting())]


def _heard_kin(tx: Memory, job: int, number: int, who: Asked) -> bool:
    return any(
        one.by.worker == who.worker
        or one.by.identity == who.identity
        or (who.payee is not None and one.by.payee == who.payee)
        for one in tx.opinions.get((job, number), ())
    )


def _held_by_kin(lease: Lease, who: Asked) -> bool:
    mine = lease.worker == who.worker or lease.peer == who.identity
    return mine or (who.payee is not None and lease.payment_address == who.payee)


def _in_doubt(tx: Memory, job: int) -> list[tuple[float, int]]:
    """(since when it waits, number)"""
    entries = [tx.slices[job, number] for number in tx.ready.get(job, ())]
    return sorted((one.ready_at or 0.0, one.piece.number) for one in entries if one.piece.opinions)


async def unanswered(
    tx: Memory, before: float, limit: int, *, of: Collection[int] | None = None
) -> list[tuple[int, int]]:
    live = [key for key in sorted(tx.ready) if tx.jobs[key].ended_at is None and (of is None or key in of)]
    return sorted((key, number) for key in live for since, number in _in_doubt(tx, key) if since < before)[:limit]


async def longest_in_doubt(tx: Memory, job: int) -> tuple[int, float] | None:
    return next(((number, since) for since, number in _in_doubt(tx, job)), None)


async def lease_again(tx: Memory, job: int, numbers: Iterable[int], lease: int) -> None:
    for number in numbers:
        piece = tx.slices[job, number].piece
        tx.put_slice(job, dataclasses.replace(piece, state=SliceState.LEASED, lease=lease), None)


async def leased_under(tx: Memory, held: Mapping[int, Iterable[int]]) -> list[tuple[int, int, int]]:
    of_jobs = sorted({job for jobs in held.values() for job in jobs})
    leases = sorted(held)
    found = [
        (job, number, lease)
        for job in of_jobs
        for lease in leases
        for number in ordered(tx.out[job].by_lease, lease)
    ]  # fmt: skip
    rivals = [(*place, lease) for lease in leases for place in sorted(tx.rivals.get(lease, ()))]
    return found + [one for one in rivals if one[0] in of_jobs]


async def longest_out(tx: Memory, job: int, limit: int, *, worker: str, unheard_of: Asked | None = None) -> list[Late]:
    tx.out[job].sort()
    found: list[Late] = []
    for lease_id, numbers in tx.out[job].by_lease.items():
        lease = tx.leases[lease_id]
        if lease.due_at is None or (unheard_of is not None and _held_by_kin(lease, unheard_of)):
            continue
        for number in sorted(numbers):
            piece = tx.slices[job, number].piece
            if piece.rival or (unheard_of is not None and _heard_kin(tx, job, number, unheard_of)):
                continue
            failed = worker in tx.failures.get((job, number), ())
            found.append(Late(piece, lease.worker, lease.due_at, lease.opened_at, failed))
            if len(found) == limit:
                return found
    return found


async def lease_beside(tx: Memory, job: int, numbers: Iterable[int], lease: int) -> None:
    for number in numbers:
        piece = tx.slices[job, number].piece
        if piece.state is SliceState.LEASED and not piece.rival:
            tx.put_slice(job, dataclasses.replace(piece, rival=piece.lease, lease=lease), None)


async def to_call_off(tx: Memory, job: int) -> set[str]:
    held = {
        lease
        for lease_id, numbers in tx.out[job].by_lease.items()
        for number in numbers
        for lease in (lease_id, tx.slices[job, number].piece.rival)
        if lease
    }
    return {tx.leases[lease].worker for lease in held if tx.leases[lease].may_be_called_off}


async def add_results(tx: Memory, results: Iterable[tuple[int, Result]], now: float) -> None:
    for job, one in results:
        tx.put_result((job, one.number), one.uri, one.lease)


async def results(
    tx: Memory, job: int, numbers: Iterable[int] | None, limit: int | None = None
) -> list[tuple[int, str]]:
    wanted = ordered(tx.results_of, job) if numbers is None else sorted(set(numbers))
    return [(number, tx.results[job, number][0]) for number in wanted if (job, number) in tx.results][:limit]


async def add_failures(tx: Memory, failures: Iterable[tuple[int, Failure]], now: float) -> None:
    for job, one in failures:
        place = (job, one.number)
        tx.put(tx.failures, place, tx.failures.get(place, {}) | {one.worker: one.reason[:500]})
