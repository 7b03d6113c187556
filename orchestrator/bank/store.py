"""The ledger's tables and statements. Works inside the caller's transaction and never ends it.

Amounts. A 64-bit integer ends at 9.2 DCC, SQLite has nothing wider, and its NUMERIC turns into floating point. So an
amount is two integers, `high` × 10^12 + `low` with 0 ≤ `low` < 10^12: both databases can compare them (the CHECK that
no balance goes below zero is `high >= 0`) and add them up (the audit), which they cannot do with text.
"""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator, Collection, Iterable, Iterator, Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from orchestrator.bank.ledger import Account, AccountKind, Book, Hold, Posting, PostingKind
from orchestrator.database import metadata

LIMB = 10**12
_IDS_PER_QUERY = 500

_key = sa.BigInteger().with_variant(sa.Integer, "sqlite")
"""SQLite numbers rows by itself only in a column of type INTEGER."""
_LOW = f"low BETWEEN 0 AND {LIMB - 1}"

accounts = sa.Table(
    "bank_accounts",
    metadata,
    sa.Column("id", _key, primary_key=True),
    sa.Column("name", sa.Text, nullable=False, unique=True),
    sa.Column("kind", sa.Text, nullable=False),
    sa.Column("high", sa.BigInteger, nullable=False),
    sa.Column("low", sa.BigInteger, nullable=False),
    sa.Column("opened_at", sa.Float, nullable=False),
    sa.CheckConstraint(_LOW, name="ck_bank_accounts_low"),
    sa.CheckConstraint("high >= 0 OR kind = 'issuance'", name="ck_bank_accounts_not_below_zero"),
)

postings = sa.Table(
    "bank_postings",
    metadata,
    sa.Column("id", _key, primary_key=True),
    sa.Column("posting_id", sa.Text, nullable=False, unique=True),
    sa.Column("kind", sa.Text, nullable=False),
    sa.Column("source", sa.BigInteger, sa.ForeignKey("bank_accounts.id"), nullable=False),
    sa.Column("target", sa.BigInteger, sa.ForeignKey("bank_accounts.id"), nullable=False),
    sa.Column("high", sa.BigInteger, nullable=False),
    sa.Column("low", sa.BigInteger, nullable=False),
    sa.Column("posted_at", sa.Float, nullable=False),
    sa.CheckConstraint(_LOW, name="ck_bank_postings_low"),
    sa.CheckConstraint("high >= 0 AND high + low > 0", name="ck_bank_postings_positive"),
    sa.CheckConstraint("source <> target", name="ck_bank_postings_two_accounts"),
)
"""Rows are never changed or deleted; triggers refuse it."""

holds = sa.Table(
    "bank_holds",
    metadata,
    sa.Column("id", sa.Text, primary_key=True),
    sa.Column("owner", sa.BigInteger, sa.ForeignKey("bank_accounts.id"), nullable=False, index=True),
    sa.Column("account", sa.BigInteger, sa.ForeignKey("bank_accounts.id"), nullable=False, unique=True),
    sa.Column("is_open", sa.Boolean, nullable=False),
)

_source, _target, _owner = accounts.alias("source"), accounts.alias("target"), accounts.alias("owner")

_select_balances = sa.select(accounts.c.name, accounts.c.kind, accounts.c.high, accounts.c.low).where(
    accounts.c.name.in_(sa.bindparam("names", expanding=True))
)
# One order for everybody, so that two transactions never wait for each other in a circle.
_select_accounts = _select_balances.order_by(accounts.c.id).with_for_update()
_select_keys = sa.select(accounts.c.name, accounts.c.id).where(
    accounts.c.name.in_(sa.bindparam("names", expanding=True))
)
_select_postings = (
    sa.select(
        postings.c.posting_id,
        postings.c.kind,
        _source.c.name.label("source"),
        _target.c.name.label("target"),
        postings.c.high,
        postings.c.low,
    )
    .join(_source, _source.c.id == postings.c.source)
    .join(_target, _target.c.id == postings.c.target)
)
_postings_with_id = _select_postings.where(postings.c.posting_id.in_(sa.bindparam("ids", expanding=True)))
_select_hold = (
    sa.select(_owner.c.name, holds.c.is_open)
    .join(_owner, _owner.c.id == holds.c.owner)
    .where(holds.c.id == sa.bindparam("hold_id"))
    .with_for_update(of=holds)
)
_open_holds_of = (
    sa.select(accounts.c.high, accounts.c.low)
    .join(holds, holds.c.account == accounts.c.id)
    .join(_owner, _owner.c.id == holds.c.owner)
    .where(_owner.c.name == sa.bindparam("owner"), holds.c.is_open)
)
_insert_account = accounts.insert()
_insert_posting = postings.insert()
_insert_hold = holds.insert()
_update_balance = (
    accounts.update()
    .where(accounts.c.name == sa.bindparam("account_name"))
    .values(high=sa.bindparam("new_high"), low=sa.bindparam("new_low"))
)
_close_hold = holds.update().where(holds.c.id == sa.bindparam("hold_id")).values(is_open=False)


def split(units: int) -> tuple[int, int]:
    """(high, low) of an amount, negative ones included."""
    return divmod(units, LIMB)


async def load(
    tx: AsyncConnection,
    *,
    names: Iterable[str] = (),
    hold_id: str | None = None,
    with_owner: bool = False,
    posting_ids: Collection[str] = (),
) -> Book:
    """The part of the ledger that an operation touches, locked until the transaction ends.

    A hold brings its own account with it, and its owner's `with_owner`.
    """
    wanted = set(names)
    found_holds: list[Hold] = []
    if hold_id is not None:
        row = (await tx.execute(_select_hold, {"hold_id": hold_id})).first()
        if row is not None:
            hold = Hold(hold_id, row.name, row.is_open)
            found_holds.append(hold)
            wanted |= {hold.account, hold.owner} if with_owner else {hold.account}
    found = [account for part in _parts(wanted) async for account in _accounts(tx, part)]
    known = [posting for part in _parts(posting_ids) async for posting in _postings(tx, part)]
    return Book(found, found_holds, known)


async def save(tx: AsyncConnection, book: Book, now: float) -> None:
    """Write what the book changed: at most six statements, however many postings."""
    if book.opened:
        await tx.execute(_insert_account, [_account_row(account, now) for account in book.opened])
    opened = {account.name for account in book.opened}
    changed = [account for account in book.changed.values() if account.name not in opened]
    if changed:
        rows = [
            {"account_name": account.name, "new_high": high, "new_low": low}
            for account in changed
            for high, low in (split(account.balance),)
        ]
        await tx.execute(_update_balance, rows)
    if book.postings or book.new_holds:
        keys = await _keys(tx, book)
        if book.new_holds:
            rows = [
                {"id": hold.id, "owner": keys[hold.owner], "account": keys[hold.account], "is_open": hold.is_open}
                for hold in book.new_holds
            ]
            await tx.execute(_insert_hold, rows)
        if book.postings:
            await tx.execute(_insert_posting, [_posting_row(posting, keys, now) for posting in book.postings])
    if book.closed_holds:
        await tx.execute(_close_hold, [{"hold_id": hold.id} for hold in book.closed_holds])


async def balances(tx: AsyncConnection, names: Sequence[str]) -> dict[str, int]:
    """Balances of the accounts that exist, read without locking them."""
    rows = [row for part in _parts(names) for row in await tx.execute(_select_balances, {"names": part})]
    return {row.name: row.high * LIMB + row.low for row in rows}


async def open_holds(tx: AsyncConnection, owner: str) -> list[int]:
    """What each open hold of an account still holds."""
    return [row.high * LIMB + row.low for row in await tx.execute(_open_holds_of, {"owner": owner})]


async def all_accounts(tx: AsyncConnection) -> AsyncIterator[tuple[int, Account]]:
    """Every account and its row's number."""
    async for row in await tx.stream(sa.select(accounts)):
        yield row.id, Account(row.name, AccountKind(row.kind), row.high * LIMB + row.low)


async def all_holds(tx: AsyncConnection) -> list[tuple[str, int, bool]]:
    """Every hold: its id, the number of its account, whether it is open."""
    return [(row.id, row.account, row.is_open) for row in await tx.execute(sa.select(holds))]


async def posted(tx: AsyncConnection) -> tuple[dict[int, int], int]:
    """What all postings together put into each account (by its row's number), and how many there are."""
    total: dict[int, int] = {}
    for column, sign in ((postings.c.target, 1), (postings.c.source, -1)):
        # Each column in two parts: the sum of whole ones could pass 64 bits.
        part = 10**6
        sums = [
            sa.func.sum(value) for limb in (postings.c.high, postings.c.low) for value in (limb // part, limb % part)
        ]
        for account, *found in await tx.execute(sa.select(column, *sums).group_by(column)):
            high_a, high_b, low_a, low_b = (int(value) for value in found)
            amount = (high_a * part + high_b) * LIMB + low_a * part + low_b
            total[account] = total.get(account, 0) + sign * amount
    count = (await tx.execute(sa.select(sa.func.count()).select_from(postings))).scalar_one()
    return total, count


async def _accounts(tx: AsyncConnection, names: Sequence[str]) -> AsyncIterator[Account]:
    for name, kind, high, low in await tx.execute(_select_accounts, {"names": names}):
        yield Account(name, AccountKind(kind), high * LIMB + low)


async def _postings(tx: AsyncConnection, ids: Sequence[str]) -> AsyncIterator[Posting]:
    for row in await tx.execute(_postings_with_id, {"ids": ids}):
        amount = row.high * LIMB + row.low
        yield Posting(row.posting_id, PostingKind(row.kind), row.source, row.target, amount)


async def _keys(tx: AsyncConnection, book: Book) -> dict[str, int]:
    names = {name for posting in book.postings for name in (posting.source, posting.target)}
    names |= {name for hold in book.new_holds for name in (hold.owner, hold.account)}
    rows = [row for part in _parts(names) for row in await tx.execute(_select_keys, {"names": part})]
    return {row.name: row.id for row in rows}


def _account_row(account: Account, now: float) -> dict[str, Any]:
    high, low = split(account.balance)
    return {"name": account.name, "kind": account.kind.value, "high": high, "low": low, "opened_at": now}


def _posting_row(posting: Posting, keys: dict[str, int], now: float) -> dict[str, Any]:
    high, low = split(posting.amount)
    return {
        "posting_id": posting.id,
        "kind": posting.kind.value,
        "source": keys[posting.source],
        "target": keys[posting.target],
        "high": high,
        "low": low,
        "posted_at": now,
    }


def _parts(values: Iterable[str]) -> Iterator[list[str]]:
    """Databases limit the parameters of one statement."""
    rest = iter(values)
    while part := list(itertools.islice(rest, _IDS_PER_QUERY)):
        yield part
