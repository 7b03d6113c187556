"""The ledger's statements. Works inside the caller's transaction and never ends it."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator, Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.ext.asyncio import AsyncConnection

from orchestrator.bank.chain import Chained, Lane, Opening, Posting
from orchestrator.bank.kinds import AccountKind, PostingKind, kind_of
from orchestrator.bank.ledger import Account, Book, Hold
from orchestrator.bank.pending import Pending, PendingState
from orchestrator.bank.tables import LIMB, accounts, holds, lanes, pending, postings
from orchestrator.bulk import Bulk, BulkInsert

_IDS_PER_QUERY = 500

_source, _target, _owner = accounts.alias("source"), accounts.alias("target"), accounts.alias("owner")

_select_balances = sa.select(accounts.c.id, accounts.c.name, accounts.c.kind, accounts.c.high, accounts.c.low).where(
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
        postings.c.detail,
    )
    .join(_source, _source.c.id == postings.c.source)
    .join(_target, _target.c.id == postings.c.target)
)
_select_chained = _select_postings.add_columns(postings.c.id, postings.c.posted_at)
_postings_with_id = _select_postings.where(postings.c.posting_id.in_(sa.bindparam("ids", expanding=True)))
_select_holds = (
    sa.select(holds.c.id, _owner.c.name, holds.c.is_open)
    .join(_owner, _owner.c.id == holds.c.owner)
    .where(holds.c.id.in_(sa.bindparam("ids", expanding=True)))
    .order_by(holds.c.id)
    .with_for_update(of=holds)
)
_open_holds_of = (
    sa.select(accounts.c.high, accounts.c.low)
    .join(holds, holds.c.account == accounts.c.id)
    .join(_owner, _owner.c.id == holds.c.owner)
    .where(_owner.c.name == sa.bindparam("owner"), holds.c.is_open)
)
_open_holds = sa.select(
    sa.func.count(), sa.func.coalesce(sa.func.sum(accounts.c.high), 0), sa.func.coalesce(sa.func.sum(accounts.c.low), 0)
).select_from(sa.join(holds, accounts, holds.c.account == accounts.c.id))
_open_holds = _open_holds.where(holds.c.is_open)
_count_pending = sa.select(sa.func.count()).where(pending.c.state == sa.literal_column("'pending'"))
_conflicting_accounts = {
    "sqlite": sqlite.insert(accounts).on_conflict_do_nothing(),
    "postgresql": postgresql.insert(accounts).on_conflict_do_nothing(),
}
"""Two transactions may open the same account at once."""
_insert_postings = BulkInsert(
    postings,
    "posting_id", "kind", "source", "target", "high", "low", "posted_at", "lane", "number", "digest", "detail",
)  # fmt: skip
_insert_hold = holds.insert()
_insert_pending = pending.insert()
# A change, not a new balance: what an account receives needs no look at what it has.
_add = f"""UPDATE bank_accounts SET
    high = bank_accounts.high + given.high + (bank_accounts.low + given.low) / {LIMB},
    low = (bank_accounts.low + given.low) % {LIMB}
    FROM {{rows}} WHERE bank_accounts.id = given.id"""  # noqa: S608
# In the order of the accounts' rows, as everybody does it: nobody waits in a circle.
_lock_first = """WITH locked AS (
    SELECT given.* FROM {rows} JOIN bank_accounts ON bank_accounts.id = given.id
    ORDER BY bank_accounts.id FOR NO KEY UPDATE OF bank_accounts
) """
_add_to_balances = Bulk(
    _add,
    postgresql=_lock_first + _add.replace("{rows}", "locked AS given"),
    id="bigint",
    high="bigint",
    low="bigint",
)
_settle_pending = (
    pending.update()
    .where(pending.c.id == sa.bindparam("pending_id"))
    .values(state=sa.bindparam("new_state"), settled_at=sa.bindparam("new_settled_at"))
)
_select_pending = (
    sa.select(
        pending.c.id,
        pending.c.kind,
        _source.c.name.label("source"),
        _target.c.name.label("target"),
        pending.c.high,
        pending.c.low,
        pending.c.state,
        pending.c.made_at,
        pending.c.expires_at,
        pending.c.settled_at,
        pending.c.destination,
    )
    .join(_source, _source.c.id == pending.c.source)
    .join(_target, _target.c.id == pending.c.target)
)
_pending_with_id = _select_pending.where(pending.c.id == sa.bindparam("pending_id"))
_due = sa.select(pending.c.id).where(pending.c.state == "pending", pending.c.expires_at <= sa.bindparam("now"))
_select_due = _due.order_by(pending.c.expires_at).limit(sa.bindparam("most")).with_for_update(skip_locked=True)
_next_expiry = sa.select(sa.func.min(pending.c.expires_at)).where(pending.c.state == "pending")
_pending_of = _select_pending.where(_source.c.name == sa.bindparam("owner"), pending.c.state == "pending")
# One that nobody else is appending to: nobody ever waits here.
_free_lane = sa.select(lanes).order_by(lanes.c.id).limit(1).with_for_update(skip_locked=True)
_insert_lane = lanes.insert().values(number=0, digest=bytes(32)).returning(lanes.c.id)
_update_lane = (
    lanes.update()
    .where(lanes.c.id == sa.bindparam("lane_id"))
    .values(number=sa.bindparam("new_number"), digest=sa.bindparam("new_digest"))
)
_escrow = accounts.alias("escrow")
_select_openings = (
    sa.select(
        holds.c.id,
        holds.c.lane,
        holds.c.number,
        holds.c.digest,
        holds.c.account,
        holds.c.owner,
        _escrow.c.name.label("account_name"),
        _owner.c.name.label("owner_name"),
    )
    .join(_escrow, _escrow.c.id == holds.c.account)
    .join(_owner, _owner.c.id == holds.c.owner)
    .order_by(holds.c.lane, holds.c.number, holds.c.id)
)
_filled = sa.exists().where(postings.c.target == holds.c.account, postings.c.kind == PostingKind.HOLD.value)
_close_hold = holds.update().where(holds.c.id == sa.bindparam("hold_id")).values(is_open=False)


def split(units: int) -> tuple[int, int]:
    """(high, low) of an amount, negative ones included."""
    return divmod(units, LIMB)


async def load(
    tx: AsyncConnection,
    *,
    names: Iterable[str] = (),
    payees: Iterable[str] = (),
    hold_ids: Iterable[str] = (),
    with_owner: bool = False,
    pending_id: str | None = None,
    posting_ids: Collection[str] = (),
) -> Book:
    """The part of the ledger that an operation touches.

    Accounts that may give (`names`) are locked until the transaction ends, those that only receive (`payees`) are not.
    Holds bring their own accounts with them, and their owners' `with_owner`; a pending transfer brings its accounts.
    """
    wanted, receiving = set(names), set(payees)
    found_holds: list[Hold] = []
    found_pending: list[Pending] = []
    if pending_id is not None:
        one = await pending_transfer(tx, pending_id, lock=True)
        if one is not None:
            found_pending.append(one)
            wanted.add(one.account)
            receiving |= {one.source, one.target}
    for part in _parts(sorted(set(hold_ids))):
        for hold_id, owner, is_open in await tx.execute(_select_holds, {"ids": part}):
            hold = Hold(hold_id, owner, is_open)
            found_holds.append(hold)
            wanted |= {hold.account, hold.owner} if with_owner else {hold.account}
    found = [account for part in _parts(wanted) async for account in _accounts(tx, part, lock=True)]
    found += [account for part in _parts(receiving - wanted) async for account in _accounts(tx, part, lock=False)]
    # After the locks: what another transaction posted meanwhile is seen.
    known = [posting for part in _parts(posting_ids) async for posting in _postings(tx, part)]
    return Book(found, found_holds, known, found_pending)


async def save(tx: AsyncConnection, book: Book, now: float) -> None:
    """Write what the book changed: at most eight statements, however many postings."""
    if book.opened:
        rows = [_account_row(name, now) for name in sorted(account.name for account in book.opened)]
        await tx.execute(_conflicting_accounts[tx.dialect.name], rows)
        keys = await _keys(tx, [account.name for account in book.opened])
        for account in book.opened:
            account.key = keys[account.name]
    changes = _changes(book)
    if changes:
        await _add_to_balances.execute(tx, changes)
    empty = {one.hold for one in book.openings}
    filled = [_hold_row(book, hold) for hold in book.new_holds if hold.id not in empty]
    if filled:
        await tx.execute(_insert_hold, filled)
    if book.new_pending:
        await tx.execute(_insert_pending, [_pending_row(book, one) for one in book.new_pending])
    if book.settled_pending:
        rows = [
            {"pending_id": one.id, "new_state": one.state.value, "new_settled_at": one.settled_at}
            for one in book.settled_pending
        ]
        await tx.execute(_settle_pending, rows)
    if book.closed_holds:
        await tx.execute(_close_hold, [{"hold_id": hold.id} for hold in book.closed_holds])
    if book.postings or book.openings:
        await _append(tx, book, now)


async def _append(tx: AsyncConnection, book: Book, now: float) -> None:
    """Chain what is new to a lane and write it; last of all, so that the lane is free again soon."""
    lane = await _take_lane(tx)
    keys = {name: account.key for name, account in book.accounts.items()}
    if book.postings:
        await _insert_postings.execute(tx, [_posting_row(posting, keys, now, lane) for posting in book.postings])
    if book.openings:
        rows = [_hold_row(book, book.holds[one.hold]) | _place(lane, one) for one in book.openings]
        await tx.execute(_insert_hold, rows)
    await _leave_lane(tx, lane)


async def adopt(tx: AsyncConnection) -> int:
    """Give the postings and empty holds that are in no chain a place at the end of one; how many there were."""
    rows = (await tx.execute(_select_chained.where(postings.c.lane.is_(None)).order_by(postings.c.id))).all()
    empty = (await tx.execute(_select_openings.where(holds.c.lane.is_(None), ~_filled))).all()
    if rows or empty:
        lane = await _take_lane(tx)
        for row in rows:
            values = _place(lane, _posting_of_row(row), row.posted_at)
            await tx.execute(postings.update().where(postings.c.id == row.id).values(values))
        for row in empty:
            values = _place(lane, _opening_of_row(row))
            await tx.execute(holds.update().where(holds.c.id == row.id).values(values))
        await _leave_lane(tx, lane)
    return len(rows) + len(empty)


def _place(lane: Lane, entry: Posting | Opening, posted_at: float = 0.0) -> dict[str, Any]:
    """The columns that say where in the chain it comes."""
    number, digest = lane.append(entry, posted_at)
    return {"lane": lane.id, "number": number, "digest": digest}


async def _take_lane(tx: AsyncConnection) -> Lane:
    row = (await tx.execute(_free_lane)).first()
    if row is None:
        return Lane((await tx.execute(_insert_lane)).scalar_one())
    return Lane(row.id, row.number, row.digest)


async def _leave_lane(tx: AsyncConnection, lane: Lane) -> None:
    row = {"lane_id": lane.id, "new_number": lane.number, "new_digest": lane.digest}
    await tx.execute(_update_lane, row)


async def balances(tx: AsyncConnection, names: Sequence[str]) -> dict[str, int]:
    """Balances of the accounts that exist, read without locking them."""
    rows = [row for part in _parts(names) for row in await tx.execute(_select_balances, {"names": part})]
    return {row.name: row.high * LIMB + row.low for row in rows}


async def open_holds(tx: AsyncConnection, owner: str) -> list[int]:
    """What each open hold of an account still holds."""
    return [row.high * LIMB + row.low for row in await tx.execute(_open_holds_of, {"owner": owner})]


async def totals(tx: AsyncConnection) -> tuple[int, int, int]:
    """How many holds are open, the units in them, and how many transfers are pending."""
    held = await tx.execute(_open_holds)
    count, high, low = held.one()
    waiting: int = (await tx.execute(_count_pending)).scalar_one()
    return count, int(high) * LIMB + int(low), waiting


async def pending_transfer(tx: AsyncConnection, pending_id: str, *, lock: bool = False) -> Pending | None:
    query = _pending_with_id.with_for_update(of=pending) if lock else _pending_with_id
    row = (await tx.execute(query, {"pending_id": pending_id})).first()
    return None if row is None else _pending_of_row(row)


async def pending_of(tx: AsyncConnection, owner: str) -> list[Pending]:
    """The transfers of an account that wait."""
    return [_pending_of_row(row) for row in await tx.execute(_pending_of, {"owner": owner})]


async def due(tx: AsyncConnection, now: float, most: int) -> list[str]:
    """Ids of pending transfers whose time is over, locked; those that somebody else has locked are left to them."""
    return list((await tx.execute(_select_due, {"now": now, "most": most})).scalars())


async def next_expiry(tx: AsyncConnection) -> float | None:
    found: float | None = (await tx.execute(_next_expiry)).scalar_one()
    return found


async def all_accounts(tx: AsyncConnection) -> AsyncIterator[Account]:
    """Every account, in the order in which they were opened."""
    async for row in await tx.stream(sa.select(accounts).order_by(accounts.c.id)):
        yield Account(row.name, AccountKind(row.kind), row.high * LIMB + row.low, row.id)


async def some_accounts(tx: AsyncConnection, kinds: Collection[AccountKind], after: int, most: int) -> list[Account]:
    """Accounts of these kinds in the order in which they were opened, after the one with the key `after`."""
    query = sa.select(accounts).where(accounts.c.kind.in_([kind.value for kind in kinds]), accounts.c.id > after)
    rows = await tx.execute(query.order_by(accounts.c.id).limit(most))
    return [Account(row.name, AccountKind(row.kind), row.high * LIMB + row.low, row.id) for row in rows]


async def all_holds(tx: AsyncConnection) -> list[tuple[str, int, int, bool]]:
    """Every hold: its id, the numbers of its account and of its owner's, whether it is open."""
    return [(row.id, row.account, row.owner, row.is_open) for row in await tx.execute(sa.select(holds))]


async def all_openings(tx: AsyncConnection) -> list[tuple[Chained, int, int]]:
    """Every hold that was opened empty, in the order of the chain, with the numbers of its account and its owner's."""
    rows = await tx.execute(_select_openings.where(holds.c.lane.is_not(None)))
    return [
        (Chained(_opening_of_row(row), 0.0, row.lane, row.number, row.digest), row.account, row.owner) for row in rows
    ]


async def all_pending(tx: AsyncConnection) -> list[tuple[Pending, int]]:
    """Every pending transfer, settled ones too, and the number of its account."""
    rows = await tx.execute(_select_pending.add_columns(pending.c.account))
    return [(_pending_of_row(row), row.account) for row in rows]


async def all_lanes(tx: AsyncConnection) -> dict[int, Lane]:
    return {row.id: Lane(row.id, row.number, row.digest) for row in await tx.execute(sa.select(lanes))}


async def all_postings(tx: AsyncConnection, names: Mapping[int, str]) -> AsyncIterator[tuple[Chained, int, int]]:
    """Every posting in the order of the chain, with the numbers of its two accounts. `names` are those of accounts."""
    query = sa.select(postings).order_by(postings.c.lane, postings.c.number, postings.c.id)
    async for row in await tx.stream(query, execution_options={"yield_per": 2000}):
        source, target = names.get(row.source, f"number {row.source}"), names.get(row.target, f"number {row.target}")
        amount = row.high * LIMB + row.low
        posting = Posting(row.posting_id, PostingKind(row.kind), source, target, amount, row.detail)
        yield Chained(posting, row.posted_at, row.lane, row.number, row.digest), row.source, row.target


async def postings_of(
    tx: AsyncConnection, account: str, *, before: int | None, most: int
) -> list[tuple[int, Posting, float]]:
    """The newest postings of an account, the newest first: (row's number, posting, time). `before` is such a number."""
    key = (await _keys(tx, [account])).get(account)
    if key is None:
        return []
    query = _select_chained if before is None else _select_chained.where(postings.c.id < before)
    halves = [
        query.where(column == key).order_by(postings.c.id.desc()).limit(most)
        for column in (postings.c.source, postings.c.target)
    ]
    rows = sorted([row for half in halves for row in await tx.execute(half)], key=lambda row: -row.id)
    return [(row.id, _posting_of_row(row), row.posted_at) for row in rows[:most]]


async def net_after(tx: AsyncConnection, account: str, row_id: int) -> int:
    """What the postings of an account after the row of that number changed in all."""
    key = (await _keys(tx, [account])).get(account)
    net = 0
    for column, sign in ((postings.c.target, 1), (postings.c.source, -1)):
        query = sa.select(postings.c.high, postings.c.low).where(column == key, postings.c.id > row_id)
        async for row in await tx.stream(query, execution_options={"yield_per": 2000}):
            net += sign * (row.high * LIMB + row.low)
    return net


async def _accounts(tx: AsyncConnection, names: Sequence[str], *, lock: bool) -> AsyncIterator[Account]:
    for row in await tx.execute(_select_accounts if lock else _select_balances, {"names": names}):
        yield Account(row.name, AccountKind(row.kind), row.high * LIMB + row.low, row.id)


async def _postings(tx: AsyncConnection, ids: Sequence[str]) -> AsyncIterator[Posting]:
    for row in await tx.execute(_postings_with_id, {"ids": ids}):
        yield _posting_of_row(row)


def _posting_of_row(row: Any) -> Posting:
    amount = row.high * LIMB + row.low
    return Posting(row.posting_id, PostingKind(row.kind), row.source, row.target, amount, row.detail)


def _opening_of_row(row: Any) -> Opening:
    return Opening(row.id, row.account_name, row.owner_name)


def _pending_of_row(row: Any) -> Pending:
    return Pending(
        row.id, PostingKind(row.kind), row.source, row.target, row.high * LIMB + row.low, row.made_at, row.expires_at,
        PendingState(row.state), row.settled_at, row.destination,
    )  # fmt: skip


async def _keys(tx: AsyncConnection, names: Iterable[str]) -> dict[str, int]:
    rows = [row for part in _parts(names) for row in await tx.execute(_select_keys, {"names": part})]
    return {row.name: row.id for row in rows}


def _changes(book: Book) -> list[tuple[int, int, int]]:
    """(account's number, high, low)"""
    return [(book.accounts[name].key, *split(change)) for name, change in book.moved.items() if change]


def _account_row(name: str, now: float) -> dict[str, Any]:
    return {"name": name, "kind": kind_of(name).value, "high": 0, "low": 0, "opened_at": now}


def _hold_row(book: Book, hold: Hold) -> dict[str, Any]:
    keys = {"owner": book.accounts[hold.owner].key, "account": book.accounts[hold.account].key}
    return {"id": hold.id, "is_open": hold.is_open, **keys, "lane": None, "number": None, "digest": None}


def _pending_row(book: Book, one: Pending) -> dict[str, Any]:
    high, low = split(one.amount)
    return {
        "id": one.id,
        "kind": one.kind.value,
        "source": book.accounts[one.source].key,
        "target": book.accounts[one.target].key,
        "account": book.accounts[one.account].key,
        "high": high,
        "low": low,
        "state": one.state.value,
        "made_at": one.made_at,
        "expires_at": one.expires_at,
        "settled_at": one.settled_at,
        "destination": one.destination,
    }


def _posting_row(posting: Posting, keys: Mapping[str, int], posted_at: float, lane: Lane) -> tuple[Any, ...]:
    number, digest = lane.append(posting, posted_at)
    return (
        posting.id, posting.kind.value, keys[posting.source], keys[posting.target], *split(posting.amount), posted_at,
        lane.id, number, digest, posting.detail,
    )  # fmt: skip


def _parts(values: Iterable[str]) -> Iterator[list[str]]:
    """Databases limit the parameters of one statement."""
    rest = iter(values)
    while part := list(itertools.islice(rest, _IDS_PER_QUERY)):
        yield part
