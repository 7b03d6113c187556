"""Rows of jobs: what never changes (`JobRecord`) apart from what every slice changes (`JobState`)."""

from __future__ import annotations

import dataclasses
import json
import operator
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from orchestrator.bulk import BulkUpdate
from orchestrator.jobs.words import RunStatus
from orchestrator.scheduler.estimates import Estimate
from orchestrator.scheduler.lifecycle import DISTRIBUTABLE, Counts
from orchestrator.scheduler.store.schema import job_groups, jobs


@dataclasses.dataclass(frozen=True, slots=True)
class JobRecord:
    """What was said at submit. `key` is 0 before the row exists."""

    key: int
    id: str
    owner: str
    payment_account: str
    spec: Mapping[str, Any]
    input_set: Mapping[str, Any] | None
    local_exec: bool
    slice_price: int
    estimation_slices: int | None
    created_at: float


@dataclasses.dataclass(frozen=True, slots=True)
class JobState:
    """What changes while a job lives."""

    key: int
    status: RunStatus
    closed: bool
    admitted: bool
    counts: Counts
    estimate: Estimate
    estimation_slices: int | None
    funded: int | None = None
    """slices for which money was put into the hold since the deploy; None: nothing limits them (see `escrow`)"""
    heard_at: float = 0.0
    """when the owner last did something about the job, or listened to it"""
    served_at: float = 0.0
    ended_at: float | None = None
    pile_digest: str | None = None
    stop_code: str | None = None
    stop_reason: str | None = None
    last_error: str | None = None

    @property
    def computed(self) -> int:
        """Times that slices were computed to an end: where workers must agree, by each of them."""
        return self.counts.settled if self.counts.copies == 1 else self.estimate.measured


_COUNTS = tuple(field.name for field in dataclasses.fields(Counts))
_ESTIMATE = tuple(field.name for field in dataclasses.fields(Estimate))
_PLAIN = (
    "status", "closed", "admitted", "funded", "heard_at", "served_at", "ended_at", "pile_digest", "stop_code",
    "stop_reason", "last_error",
)  # fmt: skip
_CHANGING = (*_PLAIN, *_COUNTS, *_ESTIMATE)
_STATE_COLUMNS = [jobs.c[name] for name in ("key", "estimation_slices", *_CHANGING)]
_RECORD_COLUMNS = [
    jobs.c[name]
    for name in (
        "key", "id", "owner", "payment_account", "spec", "input_set", "local_exec", "slice_price", "estimation_slices",
        "created_at",
    )
]  # fmt: skip
# Made once: so many columns take longer to put together than the database takes to find them.
_SELECT_STATE = sa.select(*_STATE_COLUMNS)
_SELECT_RECORD = sa.select(*_RECORD_COLUMNS)
_SELECT_STATES = _SELECT_STATE.where(jobs.c.key.in_(sa.bindparam("keys", expanding=True))).order_by(jobs.c.key)
_LOCK_STATES = _SELECT_STATES.with_for_update()
_SELECT_GROUPS = sa.select(job_groups.c.job, job_groups.c.group_id).where(
    job_groups.c.job.in_(sa.bindparam("keys", expanding=True))
)
_SELECT_LIVE = (
    _SELECT_STATE.where(
        jobs.c.status.in_([str(status) for status in sorted(DISTRIBUTABLE)]), jobs.c.key > sa.bindparam("after")
    )
    .order_by(jobs.c.key)
    .limit(sa.bindparam("most", type_=sa.Integer))
)
_PAUSED = (
    sa.select(jobs.c.key)
    .where(jobs.c.status == str(RunStatus.PAUSED))
    .order_by(jobs.c.served_at, jobs.c.key)
    .limit(sa.bindparam("most", type_=sa.Integer))
)
_SAVE = BulkUpdate(jobs, ("key",), *_CHANGING)


async def insert(tx: AsyncConnection, record: JobRecord, state: JobState) -> int:
    """Add a job; the answer is its key."""
    values = dict(zip(_CHANGING, _values(state), strict=True)) | {
        "id": record.id,
        "owner": record.owner,
        "payment_account": record.payment_account,
        "spec": json.dumps(record.spec),
        "input_set": None if record.input_set is None else json.dumps(record.input_set),
        "local_exec": record.local_exec,
        "slice_price": str(record.slice_price),
        "estimation_slices": record.estimation_slices,
        "created_at": record.created_at,
    }
    key = (await tx.execute(sa.insert(jobs).values(values).returning(jobs.c.key))).scalar_one()
    return int(key)


async def record_by_id(tx: AsyncConnection, job_id: str) -> JobRecord | None:
    row = (await tx.execute(_SELECT_RECORD.where(jobs.c.id == job_id))).mappings().first()
    return None if row is None else _record(row)


async def records(tx: AsyncConnection, keys: Iterable[int]) -> list[JobRecord]:
    rows = await tx.execute(_SELECT_RECORD.where(jobs.c.key.in_(list(keys))))
    return [_record(row) for row in rows.mappings()]


async def states(tx: AsyncConnection, keys: Iterable[int], *, lock: bool = False) -> dict[int, JobState]:
    """Current states by key; with `lock` no other transaction changes them before this one ends."""
    rows = await tx.execute(_LOCK_STATES if lock else _SELECT_STATES, {"keys": sorted(keys)})
    return {state.key: state for state in map(_state, rows)}


async def live(tx: AsyncConnection, after: int, limit: int) -> list[JobState]:
    """Jobs that may give slices now or later and whose keys are greater than `after`, in the order of their keys."""
    return [_state(row) for row in await tx.execute(_SELECT_LIVE, {"after": after, "most": limit})]


async def save(tx: AsyncConnection, changed: Iterable[JobState]) -> None:
    await _SAVE.execute(tx, [(state.key, *_values(state)) for state in changed])


async def note_error(tx: AsyncConnection, key: int, text: str) -> None:
    """Remember the newest error of a job's code, to tell it with the job's end."""
    await tx.execute(sa.update(jobs).where(jobs.c.key == key).values(last_error=text))


async def change_spec(tx: AsyncConnection, key: int, change: Callable[[Mapping[str, Any]], Mapping[str, Any]]) -> None:
    """For jobs that have ended; the caller has locked it."""
    spec = (await tx.execute(sa.select(jobs.c.spec).where(jobs.c.key == key))).scalar_one()
    await tx.execute(sa.update(jobs).where(jobs.c.key == key).values(spec=json.dumps(change(json.loads(spec)))))


async def join_groups(tx: AsyncConnection, key: int, group_ids: Iterable[str]) -> None:
    known = await groups(tx, [key])
    fresh = set(group_ids) - known.get(key, frozenset())
    if fresh:
        await tx.execute(sa.insert(job_groups), [{"job": key, "group_id": group} for group in sorted(fresh)])


async def groups(tx: AsyncConnection, keys: Iterable[int]) -> dict[int, frozenset[str]]:
    found: dict[int, set[str]] = {}
    for key, group in await tx.execute(_SELECT_GROUPS, {"keys": list(keys)}):
        found.setdefault(key, set()).add(group)
    return {key: frozenset(names) for key, names in found.items()}


async def listing(
    tx: AsyncConnection,
    *,
    owner: str | None,
    job_id: str | None,
    statuses: Sequence[str] | None,
    created_from: float | None = None,
    created_to: float | None = None,
    limit: int = 1000,
) -> list[tuple[JobRecord, JobState]]:
    """Jobs for a report, newest first."""
    columns = {column.name: column for column in (*_STATE_COLUMNS, *_RECORD_COLUMNS)}
    query = sa.select(*columns.values()).order_by(jobs.c.key.desc()).limit(limit)
    if owner is not None:
        query = query.where(jobs.c.owner == owner)
    if job_id is not None:
        query = query.where(jobs.c.id == job_id)
    if statuses is not None:
        query = query.where(jobs.c.status.in_(list(statuses)))
    if created_from is not None:
        query = query.where(jobs.c.created_at >= created_from)
    if created_to is not None:
        query = query.where(jobs.c.created_at <= created_to)
    return [(_record(row._mapping), _state(row)) for row in await tx.execute(query)]


async def of_account(tx: AsyncConnection, payment_account: str, *, owner: str | None = None) -> list[str]:
    """Ids of the account's jobs that have not ended, of one owner or of all."""
    query = sa.select(jobs.c.id).where(jobs.c.payment_account == payment_account, jobs.c.ended_at.is_(None))
    if owner is not None:
        query = query.where(jobs.c.owner == owner)
    return list((await tx.execute(query)).scalars())


async def live_of_owner(tx: AsyncConnection, owner: str) -> int:
    """How many jobs of this identity have not ended."""
    query = sa.select(sa.func.count()).where(jobs.c.owner == owner, jobs.c.ended_at.is_(None))
    return int((await tx.execute(query)).scalar_one())


async def input_characters_of_owner(tx: AsyncConnection, owner: str) -> int:
    """What this identity has sent for its jobs that have not ended."""
    query = sa.select(sa.func.sum(jobs.c.input_characters)).where(jobs.c.owner == owner, jobs.c.ended_at.is_(None))
    return int((await tx.execute(query)).scalar_one() or 0)


async def add_input_characters(tx: AsyncConnection, key: int, characters: int) -> None:
    counted = jobs.c.input_characters + characters
    await tx.execute(sa.update(jobs).where(jobs.c.key == key).values(input_characters=counted))


async def paused(tx: AsyncConnection, limit: int) -> list[int]:
    """Keys of jobs that wait for funds, the longest unserved first."""
    return list((await tx.execute(_PAUSED, {"most": limit})).scalars())


async def abandoned(tx: AsyncConnection, before: float, limit: int) -> list[int]:
    """Keys of jobs that have not ended, of which nothing is out, and about which neither their owner nor a worker has
    done anything since."""
    since = [column < before for column in (jobs.c.created_at, jobs.c.heard_at, jobs.c.served_at)]
    query = sa.select(jobs.c.key).where(jobs.c.ended_at.is_(None), jobs.c.leased == 0, *since)
    return list((await tx.execute(query.order_by(jobs.c.key).limit(limit))).scalars())


async def touch(tx: AsyncConnection, keys: Iterable[int], now: float) -> None:
    """The owners of these jobs are there."""
    wanted = list(keys)
    if wanted:
        await tx.execute(sa.update(jobs).where(jobs.c.key.in_(wanted)).values(heard_at=now))


async def count_by_status(tx: AsyncConnection, owner: str) -> dict[str, int]:
    query = sa.select(jobs.c.status, sa.func.count()).where(jobs.c.owner == owner).group_by(jobs.c.status)
    return {row[0]: row[1] for row in await tx.execute(query.order_by(jobs.c.status))}


_WAITING = sa.and_(
    jobs.c.status.in_([str(status) for status in sorted(DISTRIBUTABLE)]),
    jobs.c.total - jobs.c.cursor + jobs.c.ready > 0,
)


def _within(group_ids: Iterable[str]) -> sa.ColumnElement[bool]:
    where = (job_groups.c.job == jobs.c.key, job_groups.c.group_id.in_(sorted(group_ids)))
    return sa.exists(sa.select(job_groups.c.job).where(*where))


async def competing(tx: AsyncConnection, job: JobRecord, groups: Iterable[str]) -> tuple[int, int]:
    """How many other jobs wait in some of these groups, and how many of those pay more per slice."""
    where = (_WAITING, _within(groups), jobs.c.key != job.key)
    prices = [int(price) for price in (await tx.execute(sa.select(jobs.c.slice_price).where(*where))).scalars()]
    return len(prices), sum(price > job.slice_price for price in prices)


def _record(row: Mapping[Any, Any]) -> JobRecord:
    return JobRecord(
        key=row["key"],
        id=row["id"],
        owner=row["owner"],
        payment_account=row["payment_account"],
        spec=json.loads(row["spec"]),
        input_set=None if row["input_set"] is None else json.loads(row["input_set"]),
        local_exec=row["local_exec"],
        slice_price=int(row["slice_price"]),
        estimation_slices=row["estimation_slices"],
        created_at=row["created_at"],
    )


def _state(row: Sequence[Any]) -> JobState:
    """`row` begins with the columns of `_STATE_COLUMNS`."""
    key, estimation_slices, status, closed, admitted, funded, heard_at, served_at, ended_at, digest, *rest = row
    code, reason, error, *numbers = rest
    return JobState(
        key,
        RunStatus(status),
        closed,
        admitted,
        Counts(*numbers[: len(_COUNTS)]),
        Estimate(*numbers[len(_COUNTS) : len(_COUNTS) + len(_ESTIMATE)]),
        estimation_slices,
        funded,
        heard_at,
        served_at,
        ended_at,
        digest,
        code,
        reason,
        error,
    )


_plain_values = operator.attrgetter(*_PLAIN)
_count_values = operator.attrgetter(*_COUNTS)
_estimate_values = operator.attrgetter(*_ESTIMATE)


def _values(state: JobState) -> tuple[Any, ...]:
    """In the order of `_CHANGING`."""
    return (*_plain_values(state), *_count_values(state.counts), *_estimate_values(state.estimate))
