"""How far the ledger has followed the chain, and withdrawals on their way. Works inside the caller's transaction."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.ext.asyncio import AsyncConnection

from orchestrator.bank import tables
from orchestrator.bank.ethereum.flights import STEPS, Attempt, Flight, Outcome, State
from orchestrator.bank.ethereum.plan import Cursor
from orchestrator.bank.ethereum.transactions import Fees
from orchestrator.bank.pending import Pending, PendingState
from orchestrator.database import metadata

cursors = sa.Table(
    "bank_chain_cursors",
    metadata,
    sa.Column("id", sa.Text, primary_key=True),
    sa.Column("number", sa.BigInteger, nullable=False),
    sa.Column("block_hash", sa.Text, nullable=False),
)
"""One row per chain, contract and address of the Bank."""

withdrawals = sa.Table(
    "bank_withdrawals",
    metadata,
    sa.Column("id", sa.Text, sa.ForeignKey("bank_pending.id"), primary_key=True),
    sa.Column("place", sa.Text, nullable=False),
    sa.Column("state", sa.Text, nullable=False),
    sa.Column("made_at", sa.Float, nullable=False),
    sa.Column("sender", sa.Text),
    sa.Column("nonce", sa.BigInteger),
    sa.Column("block", sa.BigInteger),
    sa.Column("txhash", sa.Text),
    sa.Column("reason", sa.Text),
    sa.UniqueConstraint("sender", "nonce", name="uq_bank_withdrawals_nonce"),
    sa.CheckConstraint("state IN ('waiting', 'sent', 'done', 'failed')", name="ck_bank_withdrawals_state"),
    sa.CheckConstraint("state IN ('waiting', 'failed') OR nonce IS NOT NULL", name="ck_bank_withdrawals_sent"),
)
"""Payer, amount and destination are those of the pending transfer."""
_is_open = withdrawals.c.state.in_([sa.literal_column("'waiting'"), sa.literal_column("'sent'")])
sa.Index("ix_bank_withdrawals_open", withdrawals.c.place, sqlite_where=_is_open, postgresql_where=_is_open)

attempts = sa.Table(
    "bank_withdrawal_attempts",
    metadata,
    sa.Column("withdrawal", sa.Text, sa.ForeignKey("bank_withdrawals.id"), primary_key=True),
    sa.Column("number", sa.Integer, primary_key=True),
    sa.Column("txhash", sa.Text, nullable=False, unique=True),
    sa.Column("raw", sa.LargeBinary, nullable=False),
    sa.Column("gas", sa.BigInteger, nullable=False),
    sa.Column("most_fee", sa.BigInteger, nullable=False),
    sa.Column("tip", sa.BigInteger),
    sa.Column("signed_at", sa.Float, nullable=False),
)
"""Every transaction that was ever signed for a withdrawal."""

senders = sa.Table(
    "bank_chain_senders",
    metadata,
    sa.Column("id", sa.Text, primary_key=True),
    sa.Column("next_nonce", sa.BigInteger, nullable=False),
)
"""One row per chain and address of the Bank."""

_inserts = {
    (table, dialect): insert(table).on_conflict_do_nothing()
    for table in (cursors, senders)
    for dialect, insert in (("sqlite", sqlite.insert), ("postgresql", postgresql.insert))
}


async def cursor(tx: AsyncConnection, key: str, *, lock: bool = False) -> Cursor | None:
    query = sa.select(cursors.c.number, cursors.c.block_hash).where(cursors.c.id == key)
    row = (await tx.execute(query.with_for_update() if lock else query)).first()
    return None if row is None else Cursor(row.number, row.block_hash)


async def locked_cursor(tx: AsyncConnection, key: str, start: int) -> Cursor:
    """Locked until the transaction ends: of several processes, one at a time goes on."""
    await tx.execute(_inserts[cursors, tx.dialect.name], {"id": key, "number": start - 1, "block_hash": ""})
    found = await cursor(tx, key, lock=True)
    assert found is not None
    return found


async def set_cursor(tx: AsyncConnection, key: str, new: Cursor) -> None:
    await tx.execute(cursors.update().where(cursors.c.id == key).values(number=new.number, block_hash=new.hash))


async def take_nonce(tx: AsyncConnection, sender: str, at_least: int) -> int:
    """The next nonce of an address, which nobody else gets. Locked until the transaction ends."""
    await tx.execute(_inserts[senders, tx.dialect.name], {"id": sender, "next_nonce": at_least})
    query = sa.select(senders.c.next_nonce).where(senders.c.id == sender).with_for_update()
    nonce: int = max((await tx.execute(query)).scalar_one(), at_least)
    await tx.execute(senders.update().where(senders.c.id == sender).values(next_nonce=nonce + 1))
    return nonce


async def next_nonce(tx: AsyncConnection, sender: str) -> int | None:
    """None while none was ever taken."""
    nonce: int | None = (await tx.execute(sa.select(senders.c.next_nonce).where(senders.c.id == sender))).scalar()
    return nonce


# --- withdrawals


async def add(tx: AsyncConnection, place: str, made: Pending) -> None:
    row = {"id": made.id, "place": place, "state": State.WAITING.value, "made_at": made.made_at}
    await tx.execute(withdrawals.insert().values(row))


async def promised(tx: AsyncConnection) -> int:
    """Units of all withdrawals that the reserve still has to give."""
    pending = tables.pending
    query = sa.select(pending.c.high, pending.c.low).join(withdrawals, withdrawals.c.id == pending.c.id)
    query = query.where(_is_open, pending.c.state == PendingState.PENDING.value)
    return sum(row.high * tables.LIMB + row.low for row in await tx.execute(query))


async def flight(tx: AsyncConnection, withdrawal: str, *, lock: bool = False) -> Flight | None:
    if lock:
        await tx.execute(sa.select(withdrawals.c.id).where(withdrawals.c.id == withdrawal).with_for_update())
    found = await _flights(tx, withdrawals.c.id == withdrawal)
    return found[0] if found else None


async def open_flights(tx: AsyncConnection, place: str, state: State, most: int | None = None) -> list[Flight]:
    """Those that wait in the order of their coming, those that are sent in the order of their nonces."""
    order = withdrawals.c.nonce if state is State.SENT else withdrawals.c.made_at
    condition = (withdrawals.c.place == place) & (withdrawals.c.state == state.value) & _is_open
    return await _flights(tx, condition, order, withdrawals.c.id, most=most)


async def twin(tx: AsyncConnection, place: str, destination: str, amount: int, nonce: int) -> Flight | None:
    """The open withdrawal that a transaction of an unknown hash must be: the one with its nonce, or the first that
    waits and goes there. Locked."""
    for condition in (
        (withdrawals.c.state == State.SENT.value) & (withdrawals.c.nonce == nonce),
        withdrawals.c.state == State.WAITING.value,
    ):
        high, low = divmod(amount, tables.LIMB)
        same = (tables.pending.c.high == high) & (tables.pending.c.low == low)
        same &= (tables.pending.c.destination == destination) & (withdrawals.c.place == place) & _is_open
        found = await _flights(tx, condition & same, withdrawals.c.made_at, withdrawals.c.id, most=1)
        locked = await flight(tx, found[0].id, lock=True) if found else None
        if locked is not None and locked.state is found[0].state:
            return locked
    return None


async def adopt(tx: AsyncConnection, one: Flight, transaction: str, nonce: int) -> None:
    """It was sent, by somebody who knew more than this database. (That nonce may be taken here by another: so it is not
    counted among this sender's.)"""
    await _step(tx, one, State.SENT, sender=transaction, nonce=nonce)


async def flights_of(tx: AsyncConnection, account: str | None, *, only_open: bool, most: int) -> list[Flight]:
    """The newest of an account, or of all, the newest first."""
    conditions: list[sa.ColumnElement[bool]] = [_is_open] if only_open else []
    if account is not None:
        owner = sa.select(tables.accounts.c.id).where(tables.accounts.c.name == account).scalar_subquery()
        conditions.append(tables.pending.c.source == owner)
    order = (withdrawals.c.made_at.desc(), withdrawals.c.id)
    return await _flights(tx, sa.and_(sa.true(), *conditions), *order, most=most)


async def counts(tx: AsyncConnection) -> dict[State, int]:
    """How many are under way."""
    query = sa.select(withdrawals.c.state, sa.func.count()).where(_is_open).group_by(withdrawals.c.state)
    return {State(state): count for state, count in (await tx.execute(query)).all()}


async def launch(tx: AsyncConnection, one: Flight, sender: str, nonce: int, attempt: Attempt) -> None:
    await _step(tx, one, State.SENT, sender=sender, nonce=nonce)
    await add_attempt(tx, one, attempt)


async def add_attempt(tx: AsyncConnection, one: Flight, attempt: Attempt) -> None:
    row = {
        "withdrawal": one.id,
        "number": attempt.number,
        "txhash": attempt.transaction,
        "raw": attempt.raw,
        "gas": attempt.gas,
        "most_fee": attempt.fees.most,
        "tip": attempt.fees.tip,
        "signed_at": attempt.signed_at,
    }
    await tx.execute(attempts.insert().values(row))


async def settle(tx: AsyncConnection, one: Flight, ended: Outcome) -> None:
    state = State.DONE if ended.reason is None else State.FAILED
    await _step(tx, one, state, block=ended.block, txhash=ended.transaction, reason=ended.reason)


async def fail(tx: AsyncConnection, one: Flight, reason: str) -> None:
    await _step(tx, one, State.FAILED, reason=reason)


async def reopen(tx: AsyncConnection, place: str, above: int) -> int:
    """What was done in blocks above that is under way again; how many."""
    done = (withdrawals.c.place == place) & (withdrawals.c.state == State.DONE.value) & (withdrawals.c.block > above)
    # What was adopted cannot be sent again from here.
    done &= sa.exists().where(attempts.c.withdrawal == withdrawals.c.id)
    change = withdrawals.update().where(done).values(state=State.SENT.value, block=None, txhash=None)
    return (await tx.execute(change)).rowcount


async def known_transactions(tx: AsyncConnection, hashes: Collection[str]) -> set[str]:
    """Which of them were signed here, for withdrawals that have not failed, or were found to be one."""
    query = sa.select(attempts.c.txhash).join(withdrawals, withdrawals.c.id == attempts.c.withdrawal)
    query = query.where(
        attempts.c.txhash.in_(sa.bindparam("hashes", expanding=True)), withdrawals.c.state != State.FAILED.value
    )
    adopted = sa.select(withdrawals.c.txhash).where(
        withdrawals.c.txhash.in_(sa.bindparam("hashes", expanding=True)), withdrawals.c.state == State.DONE.value
    )
    both = query.union(adopted)
    given = sorted(hashes)
    parts = [given[first : first + 500] for first in range(0, len(given), 500)]
    return {row.txhash for part in parts for row in await tx.execute(both, {"hashes": part})}


async def unmatched(tx: AsyncConnection) -> list[tuple[str, str | None, str | None]]:
    """Withdrawals that are not as their pending transfers: (id, its state, the other's)."""
    pending = tables.pending
    right = sa.or_(
        (pending.c.state == PendingState.PENDING.value) & withdrawals.c.state.in_([State.WAITING, State.SENT]),
        # What was done, and is under way again or has failed after a deep reorganisation, stays posted.
        (pending.c.state == PendingState.POSTED.value)
        & withdrawals.c.state.in_([State.DONE, State.SENT, State.FAILED]),
        (pending.c.state == PendingState.VOID.value) & (withdrawals.c.state == State.FAILED.value),
    )
    joined = sa.outerjoin(pending, withdrawals, withdrawals.c.id == pending.c.id)
    query = sa.select(pending.c.id, withdrawals.c.state.label("own"), pending.c.state).select_from(joined)
    query = query.where(pending.c.kind == "withdrawal", sa.or_(withdrawals.c.id.is_(None), sa.not_(right)))
    return [(row.id, row.own, row.state) for row in await tx.execute(query)]


async def _step(tx: AsyncConnection, one: Flight, state: State, **values: Any) -> None:
    assert state in STEPS[one.state], f"withdrawal {one.id} cannot become {state}: it is {one.state}"
    await tx.execute(withdrawals.update().where(withdrawals.c.id == one.id).values(state=state.value, **values))


async def _flights(tx: AsyncConnection, condition: Any, *order: Any, most: int | None = None) -> list[Flight]:
    pending, source = tables.pending, tables.accounts
    query = (
        sa.select(withdrawals, source.c.name.label("source"), pending.c.destination, pending.c.high, pending.c.low)
        .join(pending, pending.c.id == withdrawals.c.id)
        .join(source, source.c.id == pending.c.source)
        .where(condition)
        .order_by(*order)
        .limit(most)
    )
    rows = (await tx.execute(query)).all()
    made = await _attempts(tx, [row.id for row in rows])
    return [
        Flight(
            row.id, row.source, row.destination, row.high * tables.LIMB + row.low, State(row.state), row.made_at,
            row.nonce, tuple(made.get(row.id, ())), row.block, row.txhash, row.reason,
        )
        for row in rows
    ]  # fmt: skip


async def _attempts(tx: AsyncConnection, ids: Sequence[str]) -> dict[str, list[Attempt]]:
    found: dict[str, list[Attempt]] = {}
    query = sa.select(attempts).where(attempts.c.withdrawal.in_(sa.bindparam("ids", expanding=True)))
    for first in range(0, len(ids), 500):
        rows = await tx.execute(query.order_by(attempts.c.number), {"ids": ids[first : first + 500]})
        for row in rows:
            fees = Fees(row.most_fee, row.tip)
            one = Attempt(row.number, row.txhash, row.raw, row.gas, fees, row.signed_at)
            found.setdefault(row.withdrawal, []).append(one)
    return found
