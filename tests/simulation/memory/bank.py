"""As `orchestrator.bank.store`, of what a Scheduler asks of it."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Iterable, Sequence

from orchestrator.bank.kinds import AccountKind
from orchestrator.bank.ledger import Account, Book, Hold
from tests.simulation.memory.state import Memory


async def load(
    tx: Memory,
    *,
    names: Iterable[str] = (),
    payees: Iterable[str] = (),
    hold_ids: Iterable[str] = (),
    with_owner: bool = False,
    pending_id: str | None = None,
    posting_ids: Collection[str] = (),
) -> Book:
    assert pending_id is None, "no transfer is pending here"
    wanted = {*names, *payees}
    holds = []
    for hold_id in sorted(set(hold_ids) & tx.holds.keys()):
        hold = Hold(hold_id, *tx.holds[hold_id])
        holds.append(hold)
        wanted |= {hold.account, hold.owner} if with_owner else {hold.account}
    accounts = [
        Account(name, AccountKind(tx.accounts[name][1]), tx.accounts[name][0], key=1)
        for name in wanted
        if name in tx.accounts
    ]
    known = [tx.postings[one] for one in posting_ids if one in tx.postings]
    return Book(accounts, holds, known)


async def save(tx: Memory, book: Book, now: float) -> None:
    for account in book.opened:
        if account.name not in tx.accounts:
            _put_account(tx, account.name, 0, account.kind)
    for name, change in book.moved.items():
        if change:
            units, kind = tx.accounts[name]
            _put_account(tx, name, units + change, AccountKind(kind))
    for hold in book.new_holds:
        tx.put(tx.holds, hold.id, (hold.owner, True))
    for hold in book.closed_holds:
        tx.put(tx.holds, hold.id, (hold.owner, False))
    before = dataclasses.replace(tx.lane)
    tx.afterwards(lambda: setattr(tx, "lane", before))
    for posting in book.postings:
        assert posting.id not in tx.postings, "a second posting of one id"
        tx.lane.append(posting, now)
        tx.put(tx.postings, posting.id, posting)
        tx.touched.postings.add(posting.id)
    for opening in book.openings:
        tx.lane.append(opening, now)


def _put_account(tx: Memory, name: str, units: int, kind: AccountKind) -> None:
    assert kind.allows(units), f"{name} may not have {units}"
    tx.put(tx.accounts, name, (units, kind.value))
    tx.touched.accounts.add(name)


async def balances(tx: Memory, names: Sequence[str]) -> dict[str, int]:
    return {name: tx.accounts[name][0] for name in names if name in tx.accounts}


async def due(tx: Memory, now: float, most: int) -> list[str]:
    return []


async def next_expiry(tx: Memory) -> float | None:
    return None
