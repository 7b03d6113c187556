"""The bank on a real database: what is stored, what the database itself refuses, and how the schema came to be."""

import asyncio
import hashlib
import json
import pathlib
import sqlite3
import unittest.mock
from collections.abc import AsyncIterator

import pytest
import sqlalchemy as sa

from orchestrator.bank import Bank, HoldClosed, IdReused, NotPending, Payment, Pending, PendingState, store
from orchestrator.bank.amounts import UNITS
from orchestrator.bank.chain import Lane, Posting
from orchestrator.bank.ethereum import store as chain_store
from orchestrator.bank.kinds import CHAIN_RESERVE, FEES, ISSUANCE, PostingKind
from orchestrator.database import Database, Transaction, check_url, metadata, sqlite_url
from orchestrator.errors import InvalidInput, NotEnoughFunds, NotFound
from orchestrator.migrations import running
from tests.postgres import PostgresServer

A, B, W = "0x" + "A" * 40, "0x" + "B" * 40, "0x" + "C" * 40


BEFORE_CHAINS = "0006_processes"
BEFORE_OPENINGS = "0021_peer_bans"


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[Database]:
    database = await Database.open(database_url)
    yield database
    await database.close()


@pytest.fixture
def bank() -> Bank:
    return Bank(clock=lambda: 1000.0)


async def test_the_life_of_a_job(database: Database, bank: Bank) -> None:
    async with database.transaction() as tx:
        assert await bank.open_account_with_credit(tx, A, 1000 * UNITS)
        assert not await bank.open_account_with_credit(tx, A, 1000 * UNITS)
        assert await bank.hold(tx, hold_id="j", account=A, amount=100 * UNITS + 1)
        assert not await bank.hold(tx, hold_id="j", account=A, amount=100 * UNITS + 1)
        assert await bank.open_holds(tx, A) == (1, 100 * UNITS + 1)
    async with database.transaction() as tx:
        payments = [Payment(str(i), W, UNITS // 10) for i in range(700)]
        assert await bank.pay(tx, hold_id="j", payments=payments) == 70 * UNITS
        assert await bank.pay(tx, hold_id="j", payments=payments) == 0
        assert await bank.add_to_hold(tx, hold_id="j", amount=5, transfer_id="t")
        assert not await bank.add_to_hold(tx, hold_id="j", amount=5, transfer_id="t")
        assert await bank.add_to_hold(tx, hold_id="j", amount=1)
        assert await bank.add_to_hold(tx, hold_id="j", amount=1)
        assert await bank.held(tx, "j") == 30 * UNITS + 8
    async with database.transaction() as tx:
        assert await bank.release(tx, "j") == 30 * UNITS + 8
        assert await bank.release(tx, "j") == 0
        with pytest.raises(HoldClosed):
            await bank.pay(tx, hold_id="j", payments=[Payment("new", W, 1)])
    async with database.snapshot() as tx:
        assert await bank.balances(tx, [A, W, B]) == {A: 930 * UNITS, W: 70 * UNITS, B: 0}
        assert await bank.open_holds(tx, A) == (0, 0)
        audit = await bank.audit(tx)
    assert audit.problems == ()
    assert (audit.issued, audit.open_holds, audit.postings) == (1000 * UNITS, 0, 706)


async def test_what_is_refused_leaves_no_trace(database: Database, bank: Bank) -> None:
    async with database.transaction() as tx:
        await bank.open_account_with_credit(tx, A, 10)
        await bank.hold(tx, hold_id="j", account=A, amount=5)
    async with database.transaction() as tx:
        with pytest.raises(NotEnoughFunds):
            await bank.hold(tx, hold_id="k", account=A, amount=6)
        with pytest.raises(NotEnoughFunds):
            await bank.pay(tx, hold_id="j", payments=[Payment("1", W, 3), Payment("2", B, 3)])
        with pytest.raises(IdReused):
            await bank.hold(tx, hold_id="j", account=B, amount=5)
        with pytest.raises(NotFound):
            await bank.release(tx, "k")
        with pytest.raises(NotEnoughFunds):
            await bank.transfer(tx, transfer_id="t", source=B, target=A, amount=1)
    async with database.snapshot() as tx:
        assert await bank.balances(tx, [A, W, B]) == {A: 5, W: 0, B: 0}
        audit = await bank.audit(tx)
        assert (audit.problems, audit.accounts, audit.postings) == ((), 3, 2)


async def test_a_transaction_that_fails_takes_its_payments_back(database: Database, bank: Bank) -> None:
    async with database.transaction() as tx:
        await bank.open_account_with_credit(tx, A, 10)
        await bank.hold(tx, hold_id="j", account=A, amount=5)
    with pytest.raises(ZeroDivisionError):
        async with database.transaction() as tx:
            await bank.pay(tx, hold_id="j", payments=[Payment("1", W, 3)])
            raise ZeroDivisionError
    async with database.transaction() as tx:
        assert await bank.balance(tx, W) == 0
        assert await bank.pay(tx, hold_id="j", payments=[Payment("1", W, 3)]) == 3


async def test_payments_take_few_statements_however_many_they_are(database: Database, bank: Bank) -> None:
    async with database.transaction() as tx:
        await bank.open_account_with_credit(tx, A, 10**6)
        await bank.hold(tx, hold_id="j", account=A, amount=10**6)
    statements: list[str] = []

    def count(_connection: object, _cursor: object, statement: str, *_rest: object) -> None:
        statements.append(statement)

    async with database.transaction() as tx:
        sa.event.listen(tx.sync_connection, "before_cursor_execute", count)
        await bank.pay(tx, hold_id="j", payments=[Payment(str(i), f"0x{i % 50:040}", 1) for i in range(200)])
        sa.event.remove(tx.sync_connection, "before_cursor_execute", count)
    assert len(statements) <= 10


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
async def test_the_audit_finds_what_was_changed_by_hand(database: Database, bank: Bank, tmp_path: pathlib.Path) -> None:
    async with database.transaction() as tx:
        await bank.open_account_with_credit(tx, A, 7 * UNITS)
        await bank.hold(tx, hold_id="j", account=A, amount=UNITS)
        await bank.hold(tx, hold_id="k", account=A, amount=UNITS)
    with sqlite3.connect(tmp_path / "database.sqlite") as raw:
        raw.execute("UPDATE bank_accounts SET low = low + 1 WHERE name = ?", (A,))
        raw.execute("UPDATE bank_holds SET is_open = 0 WHERE id = 'j'")
        raw.execute("DELETE FROM bank_holds WHERE id = 'k'")
    raw.close()
    async with database.snapshot() as tx:
        problems = (await bank.audit(tx)).problems
    assert problems[0] == f"account {A} says 5.000000000000000001 DCC, its postings 5 DCC"
    assert problems[1] == "all accounts together hold 0.000000000000000001 DCC, not 0"
    assert problems[2] == "hold j is released but holds 1 DCC"
    assert "belongs to no hold" in problems[3]
    assert len(problems) == 4


POSTED = "INSERT INTO bank_postings (id, posting_id, kind, source, target, high, low, posted_at) SELECT"


REFUSED = [
    ("UPDATE bank_postings SET low = 1", "never changed or deleted"),
    ("UPDATE bank_postings SET lane = 9", "never changed or deleted"),
    ("DELETE FROM bank_postings WHERE kind = 'credit'", "never changed or deleted"),
    (f"UPDATE bank_accounts SET high = -1 WHERE name = '{A}'", "not_below_zero"),
    ("UPDATE bank_accounts SET high = 1, low = 0 WHERE name = 'issuance'", "not_above_zero"),
    ("UPDATE bank_accounts SET high = 9000000000000000001", "(ck_bank_accounts_most|out of range)"),
    ("UPDATE bank_accounts SET low = 1000000000000", "ck_bank_accounts_low"),
    ("UPDATE bank_accounts SET low = -1", "ck_bank_accounts_low"),
    (f"UPDATE bank_accounts SET low = low - 1 WHERE name = '{B}'", "(?i)(sum to -1 and not to zero|foreign key)"),
    (f"UPDATE bank_accounts SET high = high - 1 WHERE name = '{A}'", "(?i)(sum to -1000000000000 |foreign key)"),
    ("INSERT INTO bank_accounts VALUES (99, 'x', 'address', 0, 1, 0)", "(?i)(sum to 1 |foreign key)"),
    ("INSERT INTO bank_accounts VALUES (99, 'x', 'address', -1, 1, 0)", "not_below_zero"),
    (f"{POSTED} 99, 'x', kind, source, target, 0, 0, 0 FROM bank_postings WHERE kind = 'credit'", "positive"),
    (f"{POSTED} 99, 'x', kind, source, target, -1, 5, 0 FROM bank_postings WHERE kind = 'credit'", "positive"),
    (f"{POSTED} 99, 'x', kind, source, source, 0, 1, 0 FROM bank_postings WHERE kind = 'credit'", "two_accounts"),
    (f"{POSTED} 99, 'x', kind, source, 999, 0, 1, 0 FROM bank_postings WHERE kind = 'credit'", "(?i)foreign key"),
    (f"{POSTED} 99, posting_id, kind, source, target, 0, 1, 0 FROM bank_postings WHERE kind = 'credit'", "(?i)unique"),
    ("UPDATE bank_pending SET state = 'posted', settled_at = 1 WHERE state = 'void'", "changes only once"),
    ("UPDATE bank_pending SET target = source WHERE state = 'pending'", "changes only once"),
    ("UPDATE bank_pending SET state = 'gone' WHERE state = 'pending'", "ck_bank_pending_s"),
    ("UPDATE bank_pending SET state = 'void' WHERE state = 'pending'", "ck_bank_pending_settled"),
    ("DELETE FROM bank_pending", "changes only once"),
]


async def test_the_database_itself_refuses(database: Database, bank: Bank) -> None:
    async with database.transaction() as tx:
        await bank.open_account_with_credit(tx, A, UNITS)
        await bank.issue(tx, issue_id="1", account=B, amount=5)
        for name in "pv":
            await bank.reserve(tx, transfer_id=name, source=A, target=B, amount=1)
        await bank.void_pending(tx, source=A, transfer_id="v")
    for statement, says in REFUSED:
        with pytest.raises(sa.exc.DBAPIError, match=says):
            async with database.transaction() as tx:
                await tx.exec_driver_sql(statement)
    async with database.snapshot() as tx:
        assert (await bank.audit(tx)).problems == ()


@pytest.mark.parametrize("database_url", ["postgres"], indirect=True)
async def test_postgresql_empties_no_table_of_postings(database: Database) -> None:
    with pytest.raises(sa.exc.DBAPIError, match="never changed or deleted"):
        async with database.transaction() as tx:
            await tx.exec_driver_sql("TRUNCATE bank_postings CASCADE")


async def test_amounts_beyond_64_bits(database: Database, bank: Bank) -> None:
    amount = 10**12 * UNITS
    async with database.transaction() as tx:
        for account in (A, B, W):
            await bank.open_account_with_credit(tx, account, amount)
        # The turnover of an account passes what one 64-bit sum can hold.
        for i in range(24):
            await bank.transfer(tx, transfer_id=str(i), source=(A, B)[i % 2], target=(B, A)[i % 2], amount=amount - 1)
        await bank.transfer(tx, transfer_id="last", source=A, target=W, amount=amount)
    async with database.snapshot() as tx:
        assert await bank.balances(tx, [A, B, W]) == {A: 0, B: amount, W: 2 * amount}
        assert (await bank.audit(tx)).problems == ()


async def test_many_accounts_at_once(database: Database, bank: Bank) -> None:
    names = [f"0x{i:040}" for i in range(1200)]
    async with database.transaction() as tx:
        await bank.open_account_with_credit(tx, A, 10**6)
        await bank.hold(tx, hold_id="j", account=A, amount=10**6)
        await bank.pay(tx, hold_id="j", payments=[Payment(name, name, 1) for name in names])
        assert set((await bank.balances(tx, names)).values()) == {1}


async def test_a_transfer_in_two_steps(database: Database) -> None:
    now = 1000.0
    bank = Bank(clock=lambda: now)
    async with database.transaction() as tx:
        await bank.open_account_with_credit(tx, A, 10)
        for name, amount, expires_in in (("t", 4, 10.0), ("u", 3, 10.0), ("w", 2, None)):
            made = await bank.reserve(tx, transfer_id=name, source=A, target=B, amount=amount, expires_in=expires_in)
            assert (made.state, made.amount) == (PendingState.PENDING, amount)
        assert (await bank.balances(tx, [A, B])) == {A: 1, B: 0}
        with pytest.raises(NotEnoughFunds):
            await bank.reserve(tx, transfer_id="x", source=A, target=B, amount=2)
        with pytest.raises(IdReused):
            await bank.reserve(tx, transfer_id="t", source=A, target=W, amount=4)
        with pytest.raises(InvalidInput):
            await bank.reserve(tx, transfer_id="y", source=A, target="issuance", amount=1)
    async with database.transaction() as tx:
        assert sorted(one.amount for one in await bank.pending_of(tx, A)) == [2, 3, 4]
        for _ in range(2):
            assert (await bank.post_pending(tx, source=A, transfer_id="t")).state is PendingState.POSTED
        with pytest.raises(NotPending):
            await bank.void_pending(tx, source=A, transfer_id="t")
        assert await bank.next_expiry(tx) == 1010.0
        assert await bank.expire(tx) == 0
        assert (await bank.balances(tx, [A, B])) == {A: 1, B: 4}
    now = 1010.0
    async with database.transaction() as tx:
        with pytest.raises(NotPending):
            await bank.post_pending(tx, source=A, transfer_id="u")
        assert (await bank.expire(tx), await bank.expire(tx), await bank.next_expiry(tx)) == (1, 0, None)
        with pytest.raises(NotPending):
            await bank.post_pending(tx, source=A, transfer_id="u")
        again = await bank.reserve(tx, transfer_id="u", source=A, target=B, amount=3)
        assert (again.state, again.settled_at) == (PendingState.VOID, 1010.0)
        assert (await bank.void_pending(tx, source=A, transfer_id="w")).state is PendingState.VOID
        with pytest.raises(NotFound):
            await bank.void_pending(tx, source=A, transfer_id="z")
        everything = await bank.reserve(tx, transfer_id="all", source=A, target=B, amount=None)
        assert everything.amount == 6
    async with database.snapshot() as tx:
        assert (await bank.balances(tx, [A, B])) == {A: 0, B: 4}
        audit = await bank.audit(tx)
    assert (audit.problems, audit.pending) == ((), 1)


async def test_accounts_of_the_system(database: Database, bank: Bank) -> None:
    out = PostingKind.WITHDRAWAL
    async with database.transaction() as tx:
        assert await bank.issue(tx, issue_id="1", account=A, amount=10)
        assert not await bank.issue(tx, issue_id="1", account=A, amount=10)
        with pytest.raises(IdReused):
            await bank.issue(tx, issue_id="1", account=A, amount=11)
        assert await bank.charge(tx, fee_id="1", account=A, amount=3)
        assert await bank.pay_out(tx, payout_id="1", account=B, amount=2)
        with pytest.raises(NotEnoughFunds):
            await bank.pay_out(tx, payout_id="2", account=B, amount=2)
        assert await bank.deposit(tx, deposit_id="0xabc:0", account=B, amount=5)
        await bank.reserve(tx, transfer_id="out", source=B, target=CHAIN_RESERVE, amount=4)
        with pytest.raises(InvalidInput):
            await bank.transfer(tx, transfer_id="t", source=B, target=CHAIN_RESERVE, amount=1)
        assert await bank.balance(tx, CHAIN_RESERVE) == -5
        await bank.post_pending(tx, source=B, transfer_id="out", kind=out)
        await bank.reserve(tx, transfer_id="more", source=B, target=CHAIN_RESERVE, amount=2)
        with pytest.raises(InvalidInput, match="cannot get back more"):
            await bank.post_pending(tx, source=B, transfer_id="more", kind=out)
        await bank.void_pending(tx, source=B, transfer_id="more", kind=out)
        expected = {A: 7, B: 3, FEES: 1, ISSUANCE: -10, CHAIN_RESERVE: -1}
        assert await bank.balances(tx, list(expected)) == expected
    async with database.snapshot() as tx:
        audit = await bank.audit(tx)
    assert (audit.problems, audit.issued, audit.reserve) == ((), 10, 1)


async def test_what_two_create_at_once_exists_once(database: Database, bank: Bank) -> None:
    """Both transactions pay an account that does not exist yet, and both give it an id that the other uses too."""
    async with database.transaction() as tx:
        for name in (A, B):
            await bank.issue(tx, issue_id=name, account=name, amount=100)

    async def pay(number: int) -> None:
        async with database.transaction() as tx:
            source = (A, B)[number % 2]
            await bank.transfer(tx, transfer_id=str(number // 4), source=source, target=W, amount=1)

    async with asyncio.TaskGroup() as group:
        for number in range(40):
            group.create_task(pay(number))
    async with database.snapshot() as tx:
        assert await bank.balances(tx, [A, B, W]) == {A: 90, B: 90, W: 20}
        assert (await bank.audit(tx)).problems == ()


@pytest.mark.parametrize("database_url", ["postgres"], indirect=True)
async def test_transactions_at_once_append_to_lanes_of_their_own(database: Database, bank: Bank) -> None:
    """None waits for the other's commit; afterwards a lane is used again."""
    async with database.transaction() as tx:
        for name in (A, B):
            await bank.issue(tx, issue_id=name, account=name, amount=100)
    async with database.transaction() as first, database.transaction() as second, asyncio.timeout(10):
        for _ in range(2):
            await bank.transfer(first, transfer_id=f"{_}", source=A, target="0x1", amount=1)
            await bank.transfer(second, transfer_id=f"{_}", source=B, target="0x2", amount=1)
    async with database.transaction() as tx:
        await bank.transfer(tx, transfer_id="last", source=A, target="0x1", amount=1)
    async with database.snapshot() as tx:
        audit = await bank.audit(tx)
    assert audit.problems == ()
    assert [lane.number for lane in audit.lanes] == [5, 2]


TAMPERED = [
    ("UPDATE bank_postings SET low = low + 1 WHERE number = 3", "'transfer:{A}:2' (number 3 of lane 1) is not what"),
    ("UPDATE bank_postings SET target = source, source = target WHERE number = 3", "number 3 of lane 1) is not what"),
    ("UPDATE bank_postings SET posted_at = 1 WHERE number = 3", "number 3 of lane 1) is not what"),
    ("UPDATE bank_postings SET posting_id = 'transfer:x' WHERE number = 3", "'transfer:x' (number 3 of lane 1) is not"),
    ("UPDATE bank_accounts SET name = 'escrow:z' WHERE name = '{W}'", "'transfer:{A}:1' (number 2 of lane 1) is not"),
    ("DELETE FROM bank_postings WHERE number = 3", "(number 4 of lane 1) follows number 2: what was between"),
    ("DELETE FROM bank_postings WHERE number = 6", "lane 1 should end with number 6, but ends with 5"),
    (
        "UPDATE bank_postings SET number = CASE number WHEN 3 THEN 40 ELSE 3 END WHERE number IN (3, 4);"
        "UPDATE bank_postings SET number = 4 WHERE number = 40",
        "'transfer:{A}:3' (number 3 of lane 1) is not what",
    ),
    (POSTED + " 99, 'x', kind, source, target, 0, 1, 0 FROM bank_postings WHERE number = 3", "'x' is in no chain"),
]


async def test_the_audit_names_the_first_posting_that_was_tampered_with(database: Database, bank: Bank) -> None:
    async with database.transaction() as tx:
        await bank.issue(tx, issue_id="1", account=A, amount=100)
        for number in range(1, 6):
            await bank.transfer(tx, transfer_id=str(number), source=A, target=W, amount=number)
    async with database.transaction() as tx:
        await _disarm(tx)
    async with database.snapshot() as tx:
        assert (await bank.audit(tx)).problems == ()
    for statements, says in TAMPERED:
        with pytest.raises(ZeroDivisionError):
            async with database.transaction() as tx:
                for statement in statements.format(A=A, W=W).split(";"):
                    await tx.exec_driver_sql(statement)
                problems = (await bank.audit(tx)).problems
                assert says.format(A=A) in problems[0], statements
                raise ZeroDivisionError  # the next one finds it as it was


async def test_a_chain_that_was_computed_anew_does_not_end_as_it_was_noted(database: Database, bank: Bank) -> None:
    async with database.transaction() as tx:
        await bank.issue(tx, issue_id="1", account=A, amount=100)
        await bank.transfer(tx, transfer_id="1", source=A, target=W, amount=1)
    async with database.snapshot() as tx:
        noted = (await bank.audit(tx)).lanes
    async with database.transaction() as tx:
        await bank.transfer(tx, transfer_id="2", source=A, target=W, amount=1)
    async with database.snapshot() as tx:
        assert (await bank.audit(tx, noted)).problems == ()
    async with database.transaction() as tx:
        await _disarm(tx)
        await tx.exec_driver_sql("UPDATE bank_postings SET posted_at = 1, lane = NULL, number = NULL")
        await tx.exec_driver_sql("DELETE FROM bank_lanes")
        await tx.execute(store.lanes.insert().values(id=1, number=0, digest=bytes(32)))
        assert await bank.adopt(tx) == 3
    async with database.snapshot() as tx:
        assert (await bank.audit(tx)).problems == ()
        (problem,) = (await bank.audit(tx, noted)).problems
    assert "(number 2 of lane 1) has another hash than was noted before" in problem


MEANT = [
    ("UPDATE bank_holds SET owner = {W} WHERE id = 'j'", "hold j says that 0xC{C} is its owner, the chain 0xA{A}"),
    (
        "UPDATE bank_holds SET owner = {W} WHERE id = 'over'",
        "hold over says that 0xC{C} is its owner, the chain 0xA{A}",
    ),
    ("UPDATE bank_pending SET target = {W} WHERE id = '{a}:open'", 'says ["transfer","0xC{C}",null,null], the chain'),
    (
        "UPDATE bank_pending SET expires_at = 1 WHERE id = '{a}:open'",
        'says ["transfer","0xB{B}","1.0",null], the chain',
    ),
    (
        "UPDATE bank_pending SET destination = 'x' WHERE id = '{a}:open'",
        'null,"x"], the chain ["transfer","0xB{B}",null',
    ),
    (
        "UPDATE bank_pending SET source = {W} WHERE id = '{a}:open'",
        "does not say what was put aside for it, and by whom",
    ),
    ("UPDATE bank_pending SET target = {W} WHERE id = '{a}:done'", 'says ["transfer","0xC{C}",null,null], the chain'),
    ("UPDATE bank_pending SET state = 'void' WHERE id = '{a}:done'", "is void, but that is not how it ended"),
    ("UPDATE bank_pending SET state = 'posted' WHERE id = '{a}:gone'", "is posted, but that is not how it ended"),
    (
        "UPDATE bank_pending SET target = {W} WHERE id = '{a}:open';"
        "UPDATE bank_postings SET detail = replace(detail, '0xB', '0xC') WHERE posting_id = 'reserve:{a}:open'",
        "posting 'reserve:{a}:open' (number 4 of lane 1) is not what was chained",
    ),
    (
        "UPDATE bank_postings SET detail = NULL WHERE posting_id = 'reserve:{a}:open'",
        "posting 'reserve:{a}:open' (number 4 of lane 1) is not what was chained",
    ),
]


async def test_whom_money_is_meant_for_and_whose_it_is_are_in_the_chain(database: Database, bank: Bank) -> None:
    async with database.transaction() as tx:
        await bank.issue(tx, issue_id="1", account=A, amount=100)
        for hold in ("j", "over"):
            await bank.hold(tx, hold_id=hold, account=A, amount=10)
        for name in ("open", "done", "gone"):
            await bank.reserve(tx, transfer_id=name, source=A, target=B, amount=5)
        await bank.post_pending(tx, source=A, transfer_id="done")
        await bank.void_pending(tx, source=A, transfer_id="gone")
        await bank.release(tx, "over")
        await bank.transfer(tx, transfer_id="w", source=A, target=W, amount=1)
    async with database.transaction() as tx:
        await _disarm(tx)
        assert (await bank.audit(tx)).problems == ()
    words = {"A": "A" * 39, "B": "B" * 39, "C": "C" * 39, "a": A}
    whose = f"(SELECT id FROM bank_accounts WHERE name = '{W}')"
    for statements, says in MEANT:
        with pytest.raises(ZeroDivisionError):
            async with database.transaction() as tx:
                for statement in statements.format(W=whose, **words).split(";"):
                    await tx.exec_driver_sql(statement)
                problems = (await bank.audit(tx)).problems
                assert says.format(**words) in problems[0], statements
                raise ZeroDivisionError  # the next one finds it as it was


async def test_what_an_elder_version_put_aside_has_no_terms_and_is_right(database: Database, bank: Bank) -> None:
    """It runs beside this one while that is installed, and hashes as it always did."""
    async with database.transaction() as tx:
        await bank.issue(tx, issue_id="1", account=A, amount=100)
        with unittest.mock.patch.object(Pending, "terms", None):
            await bank.reserve(tx, transfer_id="elder", source=A, target=B, amount=5)
        await bank.reserve(tx, transfer_id="new", source=A, target=B, amount=5)
        assert (await bank.audit(tx)).problems == ()
        await bank.post_pending(tx, source=A, transfer_id="elder")
        assert (await bank.audit(tx)).problems == ()
        (digest,) = (await tx.execute(sa.select(store.postings.c.digest).where(store.postings.c.number == 2))).scalars()
    first, second = Lane(1), Posting(f"reserve:{A}:elder", PostingKind.RESERVE, A, f"pending:{A}:elder", 5)
    first.append(Posting("issue:1", PostingKind.ISSUE, ISSUANCE, A, 100), 1000.0)
    text = json.dumps([1, 2, second.id, "reserve", second.source, second.target, "5", "1000.0"], separators=(",", ":"))
    assert digest == hashlib.sha256(first.digest + text.encode()).digest(), "the hash of versions before"


EMPTY = [
    (
        "UPDATE bank_holds SET owner = {W} WHERE id = 'j'",
        "the opening of hold 'j' (number 2 of lane 1) is not what was",
    ),
    ("UPDATE bank_holds SET owner = {W} WHERE id = 'gone'", "the opening of hold 'gone' (number 3 of lane 1) is not"),
    ("UPDATE bank_holds SET id = 'x' WHERE id = 'j'", "the opening of hold 'x' (number 2 of lane 1) is not what was"),
    (
        "UPDATE bank_holds SET owner = {W} WHERE id = 'filled'",
        "the opening of hold 'filled' (number 4 of lane 1) is not what was chained",
    ),
    ("DELETE FROM bank_holds WHERE id = 'j'", "the opening of hold 'gone' (number 3 of lane 1) follows number 1"),
    ("DELETE FROM bank_holds WHERE id = 'last'", "lane 1 should end with number 6, but ends with 5"),
    (
        "UPDATE bank_holds SET owner = {W}, lane = NULL, number = NULL, digest = NULL WHERE id = 'last'",
        "lane 1 should end with number 6, but ends with 5",
    ),
    (
        "UPDATE bank_lanes SET number = 5, digest = (SELECT digest FROM bank_postings WHERE number = 5);"
        "UPDATE bank_holds SET owner = {W}, lane = NULL, number = NULL, digest = NULL WHERE id = 'last'",
        "hold last is in no chain: nothing proves that 0xC{C} is its owner",
    ),
]


async def test_whose_an_empty_hold_is_stands_in_the_chain(database: Database, bank: Bank) -> None:
    async with database.transaction() as tx:
        await bank.issue(tx, issue_id="1", account=A, amount=100)
        for hold in ("j", "gone", "filled"):
            assert await bank.hold(tx, hold_id=hold, account=A, amount=0)
        assert not await bank.hold(tx, hold_id="j", account=A, amount=0)
        with pytest.raises(IdReused):
            await bank.hold(tx, hold_id="j", account=B, amount=0)
        await bank.release(tx, "gone")
        await bank.add_to_hold(tx, hold_id="filled", amount=5)
        await bank.hold(tx, hold_id="last", account=B, amount=0)
        await bank.open_account_with_credit(tx, W, 0)
    async with database.transaction() as tx:
        await _disarm(tx)
        audit = await bank.audit(tx)
        assert (audit.problems, audit.postings, [lane.number for lane in audit.lanes]) == ((), 2, [6])
    whose = f"(SELECT id FROM bank_accounts WHERE name = '{W}')"
    for statements, says in EMPTY:
        with pytest.raises(ZeroDivisionError):
            async with database.transaction() as tx:
                for statement in statements.format(W=whose).split(";"):
                    await tx.exec_driver_sql(statement)
                problems = (await bank.audit(tx)).problems
                assert says.format(C="C" * 39) in problems[0], (statements, problems)
                raise ZeroDivisionError  # the next one finds it as it was


@pytest.mark.parametrize("kind", ["sqlite", "postgres"])
async def test_elder_empty_holds_are_chained_by_the_migration(
    kind: str, bank: Bank, tmp_path: pathlib.Path, postgres_server: PostgresServer
) -> None:
    url = sqlite_url(tmp_path / "elder.sqlite") if kind == "sqlite" else postgres_server.create(migrated=False)
    await asyncio.to_thread(running.upgrade, check_url(url), BEFORE_OPENINGS)
    database = await Database.open(url, migrate=False)

    async def as_an_elder_version(hold: str, owner: str) -> None:
        async with database.transaction() as tx:
            for name, its in ((owner, "address"), (f"escrow:{hold}", "escrow")):
                await tx.exec_driver_sql(
                    f"INSERT INTO bank_accounts (name, kind, high, low, opened_at) VALUES ('{name}', '{its}', 0, 0, 0)"
                )
            number = "(SELECT id FROM bank_accounts WHERE name = '{}')"
            await tx.exec_driver_sql(
                "INSERT INTO bank_holds (id, owner, account, is_open) VALUES"
                f" ('{hold}', {number.format(owner)}, {number.format(f'escrow:{hold}')}, true)"
            )

    await as_an_elder_version("j", A)
    await database.close()
    database = await Database.open(url)
    async with database.transaction() as tx:
        audit = await bank.audit(tx)
        assert (audit.problems, [lane.number for lane in audit.lanes]) == ((), [1])
        await bank.issue(tx, issue_id="1", account=A, amount=100)
        await bank.add_to_hold(tx, hold_id="j", amount=5)
    await as_an_elder_version("late", B)  # a process of the version before, at work at the same time
    async with database.transaction() as tx:
        (problem,) = (await bank.audit(tx)).problems
        assert problem == f"hold late is in no chain: nothing proves that {B} is its owner"
        assert await bank.adopt(tx) == 1
        assert await bank.adopt(tx) == 0
        assert (await bank.audit(tx)).problems == ()
    async with database.transaction() as tx:
        await tx.exec_driver_sql("UPDATE bank_holds SET owner = (SELECT owner FROM bank_holds WHERE id = 'j')")
        assert "'late' (number 4 of lane 1) is not what was chained" in str((await bank.audit(tx)).problems)
    await database.close()


def database_is_sqlite(tx: Transaction) -> bool:
    return tx.dialect.name == "sqlite"


async def _disarm(tx: Transaction) -> None:
    """What somebody with the database's own rights can do."""
    if database_is_sqlite(tx):
        names = await tx.exec_driver_sql("SELECT name FROM sqlite_master WHERE type = 'trigger' AND name LIKE 'bank_%'")
        for (name,) in names.all():
            await tx.exec_driver_sql(f"DROP TRIGGER {name}")
        return
    for table in ("bank_postings", "bank_accounts", "bank_pending"):
        await tx.exec_driver_sql(f"ALTER TABLE {table} DISABLE TRIGGER USER")


@pytest.mark.parametrize("kind", ["sqlite", "postgres"])
async def test_elder_postings_are_chained_by_the_migration(
    kind: str, bank: Bank, tmp_path: pathlib.Path, postgres_server: PostgresServer
) -> None:
    url = sqlite_url(tmp_path / "elder.sqlite") if kind == "sqlite" else postgres_server.create(migrated=False)
    await asyncio.to_thread(running.upgrade, check_url(url), BEFORE_CHAINS)
    database = await Database.open(url, migrate=False)
    async with database.transaction() as tx:
        for row in (
            f"1, '{A}', 'address', 2, 0, 0",
            f"2, '{B}', 'address', 1, 5, 0",
            "3, 'issuance', 'issuance', -4, 999999999995, 0",
        ):
            await tx.exec_driver_sql(f"INSERT INTO bank_accounts (id, name, kind, high, low, opened_at) VALUES ({row})")
        for row in ("1, 'credit:a', 'credit', 3, 1, 3, 5, 1700000000.1234567", "2, 't', 'transfer', 1, 2, 1, 5, 2e9"):
            await tx.exec_driver_sql(
                f"INSERT INTO bank_postings (id, posting_id, kind, source, target, high, low, posted_at) VALUES ({row})"
            )
    await database.close()
    database = await Database.open(url)
    async with database.snapshot() as tx:
        audit = await bank.audit(tx)
    assert (audit.problems, [lane.number for lane in audit.lanes], audit.postings) == ((), [2], 2)
    async with database.transaction() as tx:  # a process of the version before, at work at the same time
        await tx.exec_driver_sql(f"{POSTED} 9, 'late', kind, source, target, 0, 1, 0 FROM bank_postings WHERE id = 2")
        await tx.exec_driver_sql("UPDATE bank_accounts SET high = 1, low = 999999999999 WHERE id = 1")
        await tx.exec_driver_sql("UPDATE bank_accounts SET low = 6 WHERE id = 2")
    async with database.transaction() as tx:
        (problem,) = (await bank.audit(tx)).problems
        assert problem.startswith("posting 'late' is in no chain")
        assert await bank.adopt(tx) == 1
        assert (await bank.audit(tx)).problems == ()
    await database.close()


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
async def test_the_migration_makes_the_declared_tables(database: Database) -> None:
    tables = [store.accounts, store.postings, store.holds, store.lanes, store.pending]
    tables += [chain_store.cursors, chain_store.withdrawals, chain_store.attempts, chain_store.senders]
    query = (
        "SELECT type, name, sql FROM sqlite_master"
        " WHERE tbl_name LIKE 'bank_%' AND tbl_name NOT IN ('bank_sum', 'bank_zero')"
        " AND sql IS NOT NULL AND type <> 'trigger'"
    )
    async with database.snapshot() as tx:
        migrated = {(kind, name): _clauses(sql) for kind, name, sql in await tx.exec_driver_sql(query)}
    engine = sa.create_engine("sqlite://")
    with engine.connect() as connection:
        metadata.create_all(connection, tables=tables)
        declared = {(kind, name): _clauses(sql) for kind, name, sql in connection.exec_driver_sql(query)}
    engine.dispose()
    assert migrated == declared
    assert {name for kind, name in declared if kind == "table"} == {table.name for table in tables}


def _clauses(sql: str) -> list[str]:
    """Columns and constraints, in whatever order: a table that was altered has them in another."""
    return sorted(part.strip(" )") for part in " ".join(sql.replace('"', "").split()).split(","))
