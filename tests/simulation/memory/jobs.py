"""As `orchestrator.scheduler.store.jobs`, `groups` and `blob_intents`."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Sequence

from orchestrator.jobs.words import GroupDescriptor, RunStatus
from orchestrator.scheduler.groups import Group, Use
from orchestrator.scheduler.lifecycle import DISTRIBUTABLE
from orchestrator.scheduler.store.jobs import JobRecord, JobState
from tests.simulation.memory.state import Memory


async def insert(tx: Memory, record: JobRecord, state: JobState) -> int:
    key = len(tx.jobs) + 1
    spec, inputs = (json.loads(json.dumps(one)) for one in (record.spec, record.input_set))
    tx.put(tx.records, key, dataclasses.replace(record, key=key, spec=spec, input_set=inputs))
    tx.put(tx.job_ids, record.id, key)
    tx.put_job(dataclasses.replace(state, key=key, estimation_slices=record.estimation_slices))
    return key


async def record_by_id(tx: Memory, job_id: str) -> JobRecord | None:
    key = tx.job_ids.get(job_id)
    return None if key is None else tx.records[key]


async def records(tx: Memory, keys: Iterable[int]) -> list[JobRecord]:
    return [tx.records[key] for key in sorted(keys) if key in tx.records]


async def states(tx: Memory, keys: Iterable[int], *, lock: bool = False) -> dict[int, JobState]:
    return {key: tx.jobs[key] for key in sorted(keys) if key in tx.jobs}


async def live(tx: Memory, after: int, limit: int) -> list[JobState]:
    found = (state for state in tx.jobs.values() if state.status in DISTRIBUTABLE and state.key > after)
    return sorted(found, key=lambda one: one.key)[:limit]


async def save(tx: Memory, changed: Sequence[JobState]) -> None:
    for state in changed:
        tx.put_job(state)


async def note_error(tx: Memory, key: int, text: str) -> None:
    tx.put_job(dataclasses.replace(tx.jobs[key], last_error=text))


async def join_groups(tx: Memory, key: int, group_ids: Iterable[str]) -> None:
    tx.put(tx.in_groups, key, tx.in_groups.get(key, frozenset()) | set(group_ids))


async def groups(tx: Memory, keys: Iterable[int]) -> dict[int, frozenset[str]]:
    return {key: tx.in_groups[key] for key in keys if tx.in_groups.get(key)}


async def of_account(tx: Memory, payment_account: str, *, owner: str | None = None) -> list[str]:
    return [
        record.id
        for key, record in tx.records.items()
        if record.payment_account == payment_account and owner in (None, record.owner) and tx.jobs[key].ended_at is None
    ]


async def live_of_owner(tx: Memory, owner: str) -> int:
    return sum(one.owner == owner and tx.jobs[key].ended_at is None for key, one in tx.records.items())


async def input_characters_of_owner(tx: Memory, owner: str) -> int:
    return sum(
        tx.input_characters.get(key, 0)
        for key, one in tx.records.items()
        if one.owner == owner and tx.jobs[key].ended_at is None
    )


async def add_input_characters(tx: Memory, key: int, characters: int) -> None:
    tx.put(tx.input_characters, key, tx.input_characters.get(key, 0) + characters)


async def paused(tx: Memory, limit: int) -> list[int]:
    found = [(one.served_at, key) for key, one in tx.jobs.items() if one.status is RunStatus.PAUSED]
    return [key for _, key in sorted(found)[:limit]]


async def abandoned(tx: Memory, before: float, limit: int) -> list[int]:
    return [
        key
        for key, one in tx.jobs.items()
        if one.ended_at is None
        and not one.counts.leased
        and max(tx.records[key].created_at, one.heard_at, one.served_at) < before
    ][:limit]


async def touch(tx: Memory, keys: Iterable[int], now: float) -> None:
    for key in keys:
        tx.put_job(dataclasses.replace(tx.jobs[key], heard_at=now))


# --- compute groups


async def insert_group(tx: Memory, group: Group, now: float) -> None:
    tx.put(tx.groups, group.id, group)


async def save_group(tx: Memory, group: Group) -> None:
    tx.put(tx.groups, group.id, group)


async def named(tx: Memory, descriptors: Iterable[GroupDescriptor], *, lock: bool = False) -> list[Group]:
    wanted = list(descriptors)
    keys = {one.join_key for one in wanted if one.join_key is not None}
    ids = {one.opaque_id for one in wanted if one.opaque_id is not None and one.join_key is None}
    found = (one for one in tx.groups.values() if one.join_key in keys or one.id in ids)
    return sorted(found, key=lambda one: one.id)


async def by_ids(tx: Memory, ids: Iterable[str]) -> dict[str, Group]:
    return {one: tx.groups[one] for one in sorted(set(ids)) if one in tx.groups}


async def count_of_owner(tx: Memory, owner: str) -> int:
    return sum(one.owner == owner for one in tx.groups.values())


async def use(tx: Memory, group_id: str) -> Use:
    mine = [key for key, names in tx.in_groups.items() if group_id in names and tx.jobs[key].ended_at is None]
    left = (
        tx.records[key].slice_price * (tx.jobs[key].counts.total - tx.jobs[key].counts.settled)
        * tx.jobs[key].counts.copies
        for key in mine
    )  # fmt: skip
    return Use(jobs=len(mine), escrow=sum(left))


# --- values beside the rows: there are none


async def older(tx: Memory, before: float, limit: int) -> list[str]:
    return []
