"""As the smaller modules of `orchestrator.scheduler.store`: events, opinions and trust, bans, accounts of owners, the
market, counters, retention."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from orchestrator.scheduler.bans import Record
from orchestrator.scheduler.redundancy import Opinion, State
from orchestrator.scheduler.store.events import Event
from orchestrator.scheduler.trust import Trust
from orchestrator.scheduler.watermark import Moment
from tests.simulation.memory.state import Memory, ordered

# --- counters


async def reserve(tx: Memory, name: str, many: int = 1) -> Sequence[int]:
    last = tx.counters.get(str(name), 0) + many
    tx.put(tx.counters, str(name), last)
    return range(last - many + 1, last + 1)


async def reserve_events(tx: Memory, jobs: Iterable[int], many: int) -> Sequence[int]:
    return await reserve(tx, "event", many)


async def newest(tx: Memory, name: str = "event") -> int:
    return tx.counters.get(str(name), 0)


async def moment(tx: Memory) -> Moment:
    return Moment(0, 0)


# --- events


async def append(tx: Memory, fresh: Sequence[Event]) -> list[Event]:
    ids = await reserve(tx, "event", len(fresh)) if fresh else []
    numbered = [
        Event(one.job, one.label, one.number, one.body, one.uri, id) for id, one in zip(ids, fresh, strict=True)
    ]
    for one in numbered:
        tx.put(tx.events, one.id, dataclasses.replace(one, uri=None))
        tx.mark(tx.queues, (one.job, one.label), one.id, True)
    return numbered


async def queued(tx: Memory, job: int, label: str, after: int, limit: int) -> list[Event]:
    found = []
    for one in ordered(tx.queues, (job, label)):
        if one > after:
            event = tx.events[one]
            number = event.number
            uri = tx.results[job, number][0] if label == "result" and number is not None else None
            found.append(dataclasses.replace(event, uri=uri))
            if len(found) == limit:
                break
    return found


async def count(tx: Memory, job: int, label: str) -> int:
    return len(tx.queues.get((job, label), ()))


async def queues_since(tx: Memory, after: int) -> list[tuple[int, str]]:
    found: dict[tuple[int, str], None] = {}
    for one in range(after + 1, tx.counters.get("event", 0) + 1):
        event = tx.events.get(one)
        if event is not None:
            found[event.job, event.label] = None
    return list(found)


async def delete(tx: Memory, ids: Iterable[int]) -> None:
    for one in ids:
        event = tx.events.get(one)
        if event is not None:
            tx.mark(tx.queues, (event.job, event.label), one, False)
            tx.drop(tx.events, one)


# --- opinions and trust


async def load_opinions(tx: Memory, job: int, numbers: Iterable[int]) -> dict[int, list[Opinion]]:
    return {number: list(tx.opinions[job, number]) for number in sorted(set(numbers)) if (job, number) in tx.opinions}


async def pending(tx: Memory, job: int) -> dict[int, list[Opinion]]:
    found = {}
    for number in ordered(tx.pending_opinions, job):
        waiting = [one for one in tx.opinions[job, number] if one.state is State.PENDING]
        found[number] = sorted(waiting, key=lambda one: one.lease)
    return found


async def add(tx: Memory, job: int, heard: Sequence[tuple[int, Opinion]], now: float) -> None:
    for number, one in heard:
        rate = one.fee_rate if one.fee_account is not None else 0
        before = tx.opinions.get((job, number), ())
        tx.put_opinions((job, number), (*before, dataclasses.replace(one, fee_rate=rate)))


async def settle(tx: Memory, job: int, settled: Sequence[tuple[int, Opinion]]) -> None:
    for number, one in settled:
        _set_state(tx, job, number, {one.lease: one.state})


def _set_state(tx: Memory, job: int, number: int, states: Mapping[int, State]) -> None:
    after = (
        dataclasses.replace(one, state=states[one.lease], uri="") if one.lease in states else one
        for one in tx.opinions[job, number]
    )
    tx.put_opinions((job, number), tuple(after))


async def give_up(tx: Memory, job: int) -> None:
    for number, those in (await pending(tx, job)).items():
        _set_state(tx, job, number, {one.lease: State.UNDECIDED for one in those})


async def trust(tx: Memory, owner: str, identities: Iterable[str], *, lock: bool = False) -> dict[str, Trust]:
    return {one: tx.trust[owner, one][0] for one in sorted(set(identities)) if (owner, one) in tx.trust}


async def judge(tx: Memory, owner: str, verdicts: Mapping[str, Sequence[bool]], now: float) -> None:
    for identity, told in sorted(verdicts.items()):
        after = tx.trust.get((owner, identity), (Trust(), 0.0))[0]
        for agreed in told:
            after = after.confirmed() if agreed else after.refuted()
        tx.put(tx.trust, (owner, identity), (after, now))


async def all_trust(tx: Memory, owner: str, limit: int) -> dict[str, Trust]:
    mine = [(-changed_at, identity, trust) for (of, identity), (trust, changed_at) in tx.trust.items() if of == owner]
    return {identity: trust for _, identity, trust in sorted(mine, key=lambda one: one[:2])[:limit]}


async def forget_trust(tx: Memory, before: float) -> None:
    for pair in [pair for pair, (_, changed_at) in tx.trust.items() if changed_at < before]:
        tx.drop(tx.trust, pair)


# --- bans


async def load_bans(tx: Memory, jobs: Iterable[int]) -> dict[tuple[int, str], Record]:
    wanted = set(jobs)
    return {pair: record for pair, record in sorted(tx.bans.items()) if pair[0] in wanted}


async def save_bans(tx: Memory, changed: Mapping[tuple[int, str], Record | None]) -> None:
    for pair, record in changed.items():
        if record is not None:
            tx.put(tx.bans, pair, record)
        elif pair in tx.bans:
            tx.drop(tx.bans, pair)


async def forget_bans(tx: Memory, since_before: float, now: float) -> None:
    for pair, record in list(tx.bans.items()):
        if record.since < since_before and record.until <= now:
            tx.drop(tx.bans, pair)


# --- accounts of owners, and the market


async def load_accounts(tx: Memory, since: float = 0.0) -> dict[tuple[str, str], float]:
    return {name: done for name, (done, grown_at) in sorted(tx.owner_accounts.items()) if grown_at >= since}


async def grow(tx: Memory, fresh: Mapping[tuple[str, str], float], now: float) -> None:
    for name, done in sorted(fresh.items()):
        if name not in tx.owner_accounts or tx.owner_accounts[name][0] < done:
            tx.put(tx.owner_accounts, name, (done, now))


async def forget_accounts(tx: Memory, before: float) -> None:
    for name, (_, grown_at) in list(tx.owner_accounts.items()):
        if grown_at < before and name[1]:
            tx.drop(tx.owner_accounts, name)


async def load_market(tx: Memory, now: float, half_life_s: float) -> dict[int, float]:
    return {step: _now(work_s, at, now, half_life_s) for step, (work_s, at) in sorted(tx.market.items())}


async def add_work(tx: Memory, fresh: Mapping[int, float], now: float, half_life_s: float) -> None:
    for step, work_s in sorted(fresh.items()):
        known = _now(*tx.market[step], now, half_life_s) if step in tx.market else 0.0
        tx.put(tx.market, step, (known + work_s, now))


def _now(work_s: float, at: float, now: float, half_life_s: float) -> float:
    kept: float = 0.5 ** (max(0.0, now - at) / half_life_s)
    return work_s * kept


# --- retention


async def due(tx: Memory, what: Any, ended_before: float, limit: int) -> list[int]:
    """Runs are shorter than anything is kept."""
    return []
