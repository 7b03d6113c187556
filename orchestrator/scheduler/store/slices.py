"""Rows of slices: inputs, life cycle, results, failures. Whole sets per statement."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from orchestrator.bulk import Bulk, BulkInsert, BulkUpdate
from orchestrator.scheduler.lifecycle import Slice, SliceState
from orchestrator.scheduler.redundancy import Asked
from orchestrator.scheduler.store import opinions
from orchestrator.scheduler.store.schema import jobs, leases, slice_failures, slice_inputs, slice_results, slices

CHUNK = 2000
"""values per IN list: databases bound the number of parameters"""

_SLICE = (
    slices.c.number, slices.c.state, slices.c.lease, slices.c.failures, slices.c.losses, slices.c.rival,
    slices.c.opinions,
)  # fmt: skip
_IS_OUT = slices.c.state == sa.literal_column("'leased'")
_HAS_RIVAL = slices.c.rival > sa.literal_column("0")
"""spelt so that databases see that the partial indexes serve"""
_SELECT_SLICE = sa.select(*_SLICE)
_INSERT = BulkInsert(slices, "job", "number", "state", "lease")
_INSERT_RESULT = BulkInsert(slice_results, "job", "number", "uri", "lease", "accepted_at")
_OF_JOB = (slices.c.job == sa.bindparam("of_job"), slices.c.number.in_(sa.bindparam("numbers", expanding=True)))
_LOAD = _SELECT_SLICE.where(*_OF_JOB)
_LOCK = _LOAD.with_for_update()
_FIND_GIVEN = (
    "SELECT slices.job, slices.number, state, lease, failures, losses, rival, opinions FROM {rows}"
    " JOIN slices ON slices.job = given.job AND slices.number = given.number"
)
_LOCK_GIVEN = Bulk(_FIND_GIVEN, postgresql=f"{_FIND_GIVEN} FOR UPDATE OF slices", job="bigint", number="bigint")
_ACCEPT = Bulk(
    "UPDATE slices SET state = 'accepted', ready_at = NULL FROM {rows}"
    " WHERE slices.job = given.job AND slices.number = given.number",
    job="bigint",
    number="bigint",
)
_SAVE = BulkUpdate(slices, ("job", "number"), "state", "lease", "failures", "losses", "rival", "ready_at", "opinions")


def _chunks(numbers: Iterable[int]) -> Iterator[list[int]]:
    items = list(numbers)
    for start in range(0, len(items), CHUNK):
        yield items[start : start + CHUNK]


async def add_inputs(tx: AsyncConnection, job: int, first: int, uris: Sequence[str]) -> None:
    """Listed inputs `first`, `first + 1`, …"""
    if uris:
        rows = [{"job": job, "number": number, "uri": uri} for number, uri in enumerate(uris, first)]
        await tx.execute(sa.insert(slice_inputs), rows)


async def inputs(tx: AsyncConnection, job: int, numbers: Iterable[int]) -> dict[int, str]:
    found: dict[int, str] = {}
    for chunk in _chunks(numbers):
        query = sa.select(slice_inputs.c.number, slice_inputs.c.uri).where(
            slice_inputs.c.job == job, slice_inputs.c.number.in_(chunk)
        )
        found.update((number, uri) for number, uri in await tx.execute(query))
    return found


async def load(tx: AsyncConnection, job: int, numbers: Iterable[int], *, lock: bool = True) -> dict[int, Slice]:
    found: dict[int, Slice] = {}
    for chunk in _chunks(numbers):
        found.update(_read(await tx.execute(_LOCK if lock else _LOAD, {"of_job": job, "numbers": chunk})))
    return found


def _read(rows: Iterable[Any]) -> dict[int, Slice]:
    return {
        number: Slice(number, SliceState(state), lease, failures, losses, rival, opinions)
        for number, state, lease, failures, losses, rival, opinions in rows
    }


async def lock(tx: AsyncConnection, wanted: Iterable[tuple[int, int]]) -> dict[int, dict[int, Slice]]:
    """Slices by job and number; `wanted` are such pairs."""
    found: dict[int, dict[int, Slice]] = {}
    rows = await _LOCK_GIVEN.execute(tx, wanted)
    for job, number, state, lease, failures, losses, rival, heard in rows:
        found.setdefault(job, {})[number] = Slice(number, SliceState(state), lease, failures, losses, rival, heard)
    return found


async def mark_accepted(tx: AsyncConnection, pairs: Collection[tuple[int, int]]) -> None:
    """`pairs` are jobs and numbers."""
    if pairs:
        await _ACCEPT.execute(tx, pairs)


async def save(tx: AsyncConnection, changed: Iterable[tuple[int, Slice]], now: float) -> None:
    """Each with its job."""
    await _SAVE.execute(
        tx,
        [
            (
                job, one.number, one.state.value, one.lease, one.failures, one.losses, one.rival,
                now if one.state is SliceState.READY else None, one.opinions,
            )
            for job, one in changed
        ],
    )  # fmt: skip


@dataclasses.dataclass(frozen=True, slots=True)
class Fresh:
    """Slices of a job that are leased for the first time."""

    job: int
    first: int
    count: int
    lease: int


async def lease_fresh(tx: AsyncConnection, leased: Iterable[Fresh]) -> None:
    """Rows for slices that are leased for the first time."""
    state = SliceState.LEASED.value
    await _INSERT.execute(
        tx,
        [(one.job, number, state, one.lease) for one in leased for number in range(one.first, one.first + one.count)],
    )


async def failed_here(tx: AsyncConnection, job: int, limit: int, *, worker: str) -> dict[int, set[str]]:
    """Slices that wait again though this worker failed them, lowest number first, each with all workers that did."""
    mine = (
        sa.select(slices.c.number)
        .where(slices.c.job == job, slices.c.state == sa.literal_column("'ready'"), _failed_by(worker))
        .order_by(slices.c.number)
        .limit(limit)
    )
    query = sa.select(slice_failures.c.number, slice_failures.c.worker).where(
        slice_failures.c.job == job, slice_failures.c.number.in_(mine)
    )
    found: dict[int, set[str]] = {}
    for number, who in await tx.execute(query):
        found.setdefault(number, set()).add(who)
    return found


async def take_ready(
    tx: AsyncConnection,
    job: int,
    limit: int,
    *,
    worker: str,
    failed_elsewhere_before: float,
    also: Collection[int] = (),
    heard: bool | None = None,
    unheard_of: Asked | None = None,
) -> list[Slice]:
    """Slices that wait again, lowest number first. One that this worker failed is left to others unless it has been
    waiting since before `failed_elsewhere_before`, or is one of `also`.

    `heard`: only those on which somebody was heard, or nobody; `unheard_of`: without those on which this worker was,
    or somebody in the same hands.
    """
    if limit <= 0:
        return []
    query = (
        _SELECT_SLICE.where(
            slices.c.job == job,
            slices.c.state == sa.literal_column("'ready'"),
            sa.or_(slices.c.ready_at <= failed_elsewhere_before, slices.c.number.in_(list(also)), ~_failed_by(worker)),
        )
        .order_by(slices.c.number)
        .limit(limit)
        .with_for_update(skip_locked=True)
    )
    if heard is not None:
        query = query.where(slices.c.opinions > 0 if heard else slices.c.opinions == 0)
    if unheard_of is not None:
        query = query.where(~opinions.heard_kin(unheard_of))
    return list(_read(await tx.execute(query)).values())


_IN_DOUBT = (slices.c.state == sa.literal_column("'ready'"), slices.c.opinions > 0)


async def unanswered(
    tx: AsyncConnection, before: float, limit: int, *, of: Collection[int] | None = None
) -> list[tuple[int, int]]:
    """(job, number) of slices in doubt that have waited since before that time for somebody else; of these jobs, or of
    all that live."""
    query = (
        sa.select(slices.c.job, slices.c.number)
        .join(jobs, jobs.c.key == slices.c.job)
        .where(jobs.c.ended_at.is_(None), jobs.c.doubted > 0, *_IN_DOUBT, slices.c.ready_at < before)
        .order_by(slices.c.job, slices.c.number)
        .limit(limit)
    )
    if of is not None:
        query = query.where(slices.c.job.in_(list(of)))
    return [(job, number) for job, number in await tx.execute(query)]


async def longest_in_doubt(tx: AsyncConnection, job: int) -> tuple[int, float] | None:
    """(number, since when it waits) of the slice in doubt that has waited longest for somebody else."""
    query = sa.select(slices.c.number, slices.c.ready_at).where(slices.c.job == job, *_IN_DOUBT)
    row = (await tx.execute(query.order_by(slices.c.ready_at, slices.c.number).limit(1))).first()
    return None if row is None else (row[0], row[1])


async def lease_again(tx: AsyncConnection, job: int, numbers: Iterable[int], lease: int) -> None:
    for chunk in _chunks(numbers):
        where = (slices.c.job == job, slices.c.number.in_(chunk))
        await tx.execute(
            sa.update(slices).where(*where).values(state=SliceState.LEASED.value, lease=lease, ready_at=None)
        )


_UNDER = [
    sa.select(slices.c.job, slices.c.number, column).where(
        slices.c.job.in_(sa.bindparam("jobs", expanding=True)),
        column.in_(sa.bindparam("leases", expanding=True)),
        where,
    )
    for column, where in ((slices.c.lease, _IS_OUT), (slices.c.rival, _HAS_RIVAL))
]


async def leased_under(tx: AsyncConnection, held: Mapping[int, Iterable[int]]) -> list[tuple[int, int, int]]:
    """(job, number, lease) of every slice that is out under these leases; `held` names the jobs of each."""
    found: list[tuple[int, int, int]] = []
    for chunk in _chunks(held):
        of_jobs = sorted({job for lease in chunk for job in held[lease]})
        for query in _UNDER:
            rows = await tx.execute(query, {"jobs": of_jobs, "leases": list(chunk)})
            found.extend((job, number, lease) for job, number, lease in rows)
    return found


@dataclasses.dataclass(frozen=True, slots=True)
class Late:
    """A slice that is out under one lease."""

    piece: Slice
    worker: str
    due_at: float
    opened_at: float
    failed_here: bool
    """the worker that was asked about has failed it before"""


async def longest_out(
    tx: AsyncConnection, job: int, limit: int, *, worker: str, unheard_of: Asked | None = None
) -> list[Late]:
    """Slices of a job that are out under one lease, the oldest leases first, without those whose leases are not due at
    any time. `worker`: of whom it is told which of them it has failed before. `unheard_of`: without those on which this
    worker is or was asked, or somebody in the same hands."""
    query = _longest_out()
    if unheard_of is not None:
        query = query.where(~opinions.heard_kin(unheard_of), ~opinions.held_by_kin(unheard_of))
    rows = await tx.execute(query, {"of_job": job, "most": limit, "asking": worker})
    return [
        Late(Slice(number, SliceState(state), lease, failures, losses, rival, opinions), *about)
        for number, state, lease, failures, losses, rival, opinions, *about in rows
    ]


@functools.cache
def _longest_out() -> sa.Select[Any]:
    return (
        sa.select(*_SLICE, leases.c.worker, leases.c.due_at, leases.c.opened_at, _failed_by(sa.bindparam("asking")))
        .join(leases, leases.c.id == slices.c.lease)
        .where(
            slices.c.job == sa.bindparam("of_job"),
            _IS_OUT,
            slices.c.rival == 0,
            leases.c.due_at.is_not(None),
        )
        .order_by(slices.c.lease, slices.c.number)
        .limit(sa.bindparam("most", type_=sa.Integer))
    )


async def lease_beside(tx: AsyncConnection, job: int, numbers: Iterable[int], lease: int) -> None:
    """Lease slices a second time."""
    for chunk in _chunks(numbers):
        where = (slices.c.job == job, slices.c.number.in_(chunk), _IS_OUT, slices.c.rival == 0)
        await tx.execute(sa.update(slices).where(*where).values(rival=slices.c.lease, lease=lease))


def _failed_by(worker: str | sa.BindParameter[str]) -> sa.Exists:
    return (
        sa.select(slice_failures.c.number)
        .where(
            slice_failures.c.job == slices.c.job,
            slice_failures.c.number == slices.c.number,
            slice_failures.c.worker == worker,
        )
        .exists()
    )


async def to_call_off(tx: AsyncConnection, job: int) -> set[str]:
    """Workers that have slices of a job and may be told to drop them (see `Lease.may_be_called_off`)."""
    query = (
        sa.select(leases.c.worker)
        .distinct()
        .join(slices, sa.or_(slices.c.lease == leases.c.id, slices.c.rival == leases.c.id))
        .where(slices.c.job == job, _IS_OUT, leases.c.request.is_not(None))
    )
    return set((await tx.execute(query)).scalars())


@dataclasses.dataclass(slots=True)  # not frozen: freezing costs four times as much, and there is one for every result
class Result:
    number: int
    uri: str
    lease: int


async def add_results(tx: AsyncConnection, results: Iterable[tuple[int, Result]], now: float) -> None:
    """Each with its job."""
    await _INSERT_RESULT.execute(tx, [(job, one.number, one.uri, one.lease, now) for job, one in results])


async def results(
    tx: AsyncConnection, job: int, numbers: Iterable[int] | None, limit: int | None = None
) -> list[tuple[int, str]]:
    """(slice number, URI) of accepted results, in slice order; all of the job when `numbers` is None."""
    query = (
        sa.select(slice_results.c.number, slice_results.c.uri)
        .where(slice_results.c.job == job)
        .order_by(slice_results.c.number)
        .limit(limit)
    )
    if numbers is None:
        return [(number, uri) for number, uri in await tx.execute(query)]
    found: list[tuple[int, str]] = []
    for chunk in _chunks(sorted(set(numbers))):
        rows = await tx.execute(query.where(slice_results.c.number.in_(chunk)))
        found.extend((number, uri) for number, uri in rows)
    return found


@dataclasses.dataclass(frozen=True, slots=True)
class Failure:
    number: int
    worker: str
    reason: str


async def add_failures(tx: AsyncConnection, failures: Iterable[tuple[int, Failure]], now: float) -> None:
    """Remember who failed what, each with its job; a worker's newest failure of a slice replaces its older one."""
    newest = {(job, one.number, one.worker): one for job, one in failures}
    if not newest:
        return
    await tx.execute(
        sa.delete(slice_failures).where(
            slice_failures.c.job == sa.bindparam("of_job"),
            slice_failures.c.number == sa.bindparam("of_number"),
            slice_failures.c.worker == sa.bindparam("of_worker"),
        ),
        [{"of_job": job, "of_number": number, "of_worker": worker} for job, number, worker in newest],
    )
    rows = [
        {"job": job, "number": number, "worker": worker, "reason": one.reason[:500], "failed_at": now}
        for (job, number, worker), one in newest.items()
    ]
    await tx.execute(sa.insert(slice_failures), rows)


async def failure_reasons(tx: AsyncConnection, job: int, limit: int) -> list[tuple[str, int]]:
    """(reason, how often) of slices that failed at workers, the most frequent first."""
    count = sa.func.count().label("times")
    query = (
        sa.select(slice_failures.c.reason, count).where(slice_failures.c.job == job).group_by(slice_failures.c.reason)
    )
    rows = await tx.execute(query.order_by(count.desc(), slice_failures.c.reason).limit(limit))
    return [(reason, times) for reason, times in rows]


async def holdings(tx: AsyncConnection, job: int, limit: int) -> list[tuple[str, int, float, float]]:
    """(worker, slices, opened, expires) of the leases under which slices of the job are out; the first to end first."""
    query = (
        sa.select(leases.c.worker, sa.func.count(), leases.c.opened_at, leases.c.expires_at)
        .join(slices, sa.or_(slices.c.lease == leases.c.id, slices.c.rival == leases.c.id))
        .where(slices.c.job == job, _IS_OUT)
        .group_by(leases.c.id, leases.c.worker, leases.c.opened_at, leases.c.expires_at)
        .order_by(leases.c.expires_at)
        .limit(limit)
    )
    return [(worker, count, opened, expires) for worker, count, opened, expires in await tx.execute(query)]


async def reports(tx: AsyncConnection, job: int, first: int, limit: int) -> list[dict[str, Any]]:
    """Slices from number `first` on that were given to a worker at least once: where each is, and its history."""
    query = (
        sa.select(*_SLICE, slices.c.ready_at, leases.c.worker, slice_results.c.accepted_at)
        .outerjoin(leases, leases.c.id == slices.c.lease)
        .outerjoin(
            slice_results, sa.and_(slice_results.c.job == slices.c.job, slice_results.c.number == slices.c.number)
        )
        .where(slices.c.job == job, slices.c.number >= first)
        .order_by(slices.c.number)
        .limit(limit)
    )
    found = {row["number"]: _slice_report(row) for row in (await tx.execute(query)).mappings()}
    for chunk in _chunks(found):
        where = (slice_failures.c.job == job, slice_failures.c.number.in_(chunk))
        rows = await tx.execute(sa.select(slice_failures).where(*where).order_by(slice_failures.c.failed_at))
        for row in rows.mappings():
            failure = {"worker": row["worker"], "reason": row["reason"], "time": round(row["failed_at"] * 1000)}
            found[row["number"]]["history"].append(failure)
    return list(found.values())


def _slice_report(row: Mapping[Any, Any]) -> dict[str, Any]:
    accepted, ready = row["accepted_at"], row["ready_at"]
    return {
        "slice": row["number"],
        "status": row["state"],
        "worker": row["worker"],
        "failures": row["failures"],
        "losses": row["losses"],
        "computedTime": None if accepted is None else round(accepted * 1000),
        "waitingSince": None if ready is None else round(ready * 1000),
        "history": [],
    }


async def story(tx: AsyncConnection, job: int, number: int) -> dict[str, object]:
    """Everything that is known of one slice."""
    piece = (await load(tx, job, [number], lock=False)).get(number)
    query = sa.select(slice_failures.c.worker, slice_failures.c.reason, slice_failures.c.failed_at).where(
        slice_failures.c.job == job, slice_failures.c.number == number
    )
    failures = [dict(row) for row in (await tx.execute(query)).mappings()]
    text = f"slice {number} was never given to a worker" if piece is None else piece.story()
    return {"slice": number, "story": text, "failures": failures}
