"""Rows of opinions on slices of jobs that ask for agreement, and of what owners think of workers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.ext.asyncio import AsyncConnection

from orchestrator.scheduler.redundancy import Asked, Opinion, State
from orchestrator.scheduler.store.schema import leases, slice_opinions, slices, worker_trust
from orchestrator.scheduler.trust import Trust

CHUNK = 2000
_PENDING = slice_opinions.c.state == sa.literal_column("'pending'")
_ADD_TRUST = {
    "sqlite": sqlite.insert(worker_trust).on_conflict_do_nothing(),
    "postgresql": postgresql.insert(worker_trust).on_conflict_do_nothing(),
}


async def load(tx: AsyncConnection, job: int, numbers: Iterable[int]) -> dict[int, list[Opinion]]:
    """Opinions by slice, in the order in which they came. Slices without any are left out."""
    found: dict[int, list[Opinion]] = {}
    wanted = sorted(set(numbers))
    for start in range(0, len(wanted), CHUNK):
        where = (slice_opinions.c.job == job, slice_opinions.c.number.in_(wanted[start : start + CHUNK]))
        _collect(found, await tx.execute(sa.select(slice_opinions).where(*where)))
    return {number: sorted(those, key=lambda one: one.place) for number, those in found.items()}


async def pending(tx: AsyncConnection, job: int) -> dict[int, list[Opinion]]:
    """Opinions that wait for others, of all slices of a job."""
    found: dict[int, list[Opinion]] = {}
    _collect(found, await tx.execute(sa.select(slice_opinions).where(slice_opinions.c.job == job, _PENDING)))
    return found


def _collect(found: dict[int, list[Opinion]], rows: sa.CursorResult[Any]) -> None:
    for row in rows.mappings():
        opinion = Opinion(
            lease=row["lease"],
            by=Asked(row["worker"], row["identity"], row["payee"]),
            digest=row["digest"],
            state=State(row["state"]),
            place=row["place"],
            uri=row["uri"] or "",
            fee_account=row["fee_account"],
            fee_rate=int(row["fee_rate"] or 0),
        )
        found.setdefault(row["number"], []).append(opinion)


async def add(tx: AsyncConnection, job: int, heard: Sequence[tuple[int, Opinion]], now: float) -> None:
    if heard:
        rows = [
            {
                "job": job,
                "number": number,
                "lease": one.lease,
                "place": one.place,
                "worker": one.by.worker,
                "identity": one.by.identity,
                "payee": one.by.payee,
                "digest": one.digest,
                "uri": one.uri or None,
                "fee_account": one.fee_account,
                "fee_rate": None if one.fee_account is None else str(one.fee_rate),
                "state": one.state.value,
                "given_at": now,
            }
            for number, one in heard
        ]
        await tx.execute(sa.insert(slice_opinions), rows)


_SETTLE = (
    sa.update(slice_opinions)
    .where(
        slice_opinions.c.job == sa.bindparam("of_job"),
        slice_opinions.c.number == sa.bindparam("of_number"),
        slice_opinions.c.lease == sa.bindparam("of_lease"),
    )
    .values(state=sa.bindparam("new_state"), uri=None)
)


async def settle(tx: AsyncConnection, job: int, settled: Sequence[tuple[int, Opinion]]) -> None:
    """What became of opinions. Their values are not needed any more: the accepted one is among the results."""
    if settled:
        rows = [
            {"of_job": job, "of_number": number, "of_lease": one.lease, "new_state": one.state.value}
            for number, one in settled
        ]
        await tx.execute(_SETTLE, rows)


async def give_up(tx: AsyncConnection, job: int) -> None:
    """The job is over: nobody will know who was right."""
    where = (slice_opinions.c.job == job, _PENDING)
    await tx.execute(sa.update(slice_opinions).where(*where).values(state=State.UNDECIDED.value, uri=None))


async def count(tx: AsyncConnection, job: int) -> dict[State, int]:
    """How many opinions there are, by what became of them."""
    query = sa.select(slice_opinions.c.state, sa.func.count()).where(slice_opinions.c.job == job)
    return {State(state): number for state, number in await tx.execute(query.group_by(slice_opinions.c.state))}


def heard_kin(who: Asked) -> sa.Exists:
    """That this worker, or somebody in the same hands, was heard on the slice."""
    return (
        sa.select(slice_opinions.c.number)
        .where(
            slice_opinions.c.job == slices.c.job,
            slice_opinions.c.number == slices.c.number,
            sa.or_(
                slice_opinions.c.worker == who.worker,
                slice_opinions.c.identity == who.identity,
                slice_opinions.c.payee == who.payee if who.payee is not None else sa.false(),
            ),
        )
        .exists()
    )


def held_by_kin(who: Asked) -> sa.ColumnElement[bool]:
    """That the lease is this worker's, or of somebody in the same hands."""
    return sa.or_(
        leases.c.worker == who.worker,
        leases.c.peer == who.identity,
        leases.c.payment_address == who.payee if who.payee is not None else sa.false(),
    )


# --- trust


async def trust(tx: AsyncConnection, owner: str, identities: Iterable[str], *, lock: bool = False) -> dict[str, Trust]:
    """What an owner thinks of these identities; without those that it does not know."""
    found: dict[str, Trust] = {}
    wanted = sorted(set(identities))
    for start in range(0, len(wanted), CHUNK):
        query = (
            sa.select(worker_trust)
            .where(worker_trust.c.owner == owner, worker_trust.c.identity.in_(wanted[start : start + CHUNK]))
            .order_by(worker_trust.c.identity)
        )
        rows = await tx.execute(query.with_for_update() if lock else query)
        found.update((row["identity"], Trust(row["points"], row["agreed"], row["wrong"])) for row in rows.mappings())
    return found


async def judge(tx: AsyncConnection, owner: str, verdicts: Mapping[str, Sequence[bool]], now: float) -> None:
    """Opinions of these identities were agreed with (true) or shown wrong, in this order."""
    if not verdicts:
        return
    new = [
        {"owner": owner, "identity": one, "points": 0, "agreed": 0, "wrong": 0, "changed_at": now}
        for one in sorted(verdicts)
    ]
    await tx.execute(_ADD_TRUST[tx.dialect.name], new)
    known = await trust(tx, owner, verdicts, lock=True)
    rows = []
    for identity, told in sorted(verdicts.items()):
        after = known[identity]
        for agreed in told:
            after = after.confirmed() if agreed else after.refuted()
        rows.append(
            {
                "of_owner": owner, "of_identity": identity, "new_points": after.points, "new_agreed": after.agreed,
                "new_wrong": after.wrong, "at": now,
            }
        )  # fmt: skip
    await tx.execute(_JUDGE, rows)


_JUDGE = (
    sa.update(worker_trust)
    .where(worker_trust.c.owner == sa.bindparam("of_owner"), worker_trust.c.identity == sa.bindparam("of_identity"))
    .values(
        points=sa.bindparam("new_points"),
        agreed=sa.bindparam("new_agreed"),
        wrong=sa.bindparam("new_wrong"),
        changed_at=sa.bindparam("at"),
    )
)


async def all_trust(tx: AsyncConnection, owner: str, limit: int) -> dict[str, Trust]:
    """The identities that an owner knows, those first that it heard of last."""
    query = sa.select(worker_trust).where(worker_trust.c.owner == owner).order_by(worker_trust.c.changed_at.desc())
    rows = await tx.execute(query.limit(limit))
    return {row["identity"]: Trust(row["points"], row["agreed"], row["wrong"]) for row in rows.mappings()}


async def forget_trust(tx: AsyncConnection, before: float) -> None:
    """Identities that nothing was heard of since."""
    await tx.execute(sa.delete(worker_trust).where(worker_trust.c.changed_at < before))
