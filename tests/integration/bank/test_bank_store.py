"""The bank on a real database: what is stored, what the database itself refuses, and how the schema came to be."""

import pathlib
import sqlite3
from collections.abc import AsyncIterator

import pytest
import sqlalchemy as sa

from orchestrator.bank import Bank, HoldClosed, IdReused, Payment, store
from orchestrator.bank.amounts import UNITS
from orchestrator.database import Database, metadata
from orchestrator.errors import NotEnoughFunds, NotFound

A, B, W = "0x" + "A" * 40, "0x" + "B" * 40, "0x" + "C" * 40


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
    assert len(statements) <= 8


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


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
@pytest.mark.parametrize(
    ("statement", "says"),
    [
        ("UPDATE bank_postings SET low = 1", "never changed or deleted"),
        ("DELETE FROM bank_postings", "never changed or deleted"),
        (f"UPDATE bank_accounts SET high = -1 WHERE name = '{A}'", "not_below_zero"),
        ("UPDATE bank_accounts SET low = 1000000000000", "ck_bank_accounts_low"),
        ("UPDATE bank_accounts SET low = -1", "ck_bank_accounts_low"),
        ("INSERT INTO bank_postings SELECT 9, 'x', kind, source, target, 0, 0, 0 FROM bank_postings", "positive"),
        ("INSERT INTO bank_postings SELECT 9, 'x', kind, source, target, -1, 5, 0 FROM bank_postings", "positive"),
        ("INSERT INTO bank_postings SELECT 9, 'x', kind, source, source, 0, 1, 0 FROM bank_postings", "two_accounts"),
        ("INSERT INTO bank_postings SELECT 9, 'x', kind, source, 99, 0, 1, 0 FROM bank_postings", "FOREIGN KEY"),
        ("INSERT INTO bank_postings SELECT 9, posting_id, kind, source, target, 0, 1, 0 FROM bank_postings", "UNIQUE"),
    ],
)
async def test_the_database_itself_refuses(database: Database, bank: Bank, statement: str, says: str) -> None:
    async with database.transaction() as tx:
        await bank.open_account_with_credit(tx, A, UNITS)
    with pytest.raises(sa.exc.DBAPIError, match=says):
        async with database.transaction() as tx:
            await tx.exec_driver_sql(statement)


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


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
async def test_the_migration_makes_the_declared_tables(database: Database) -> None:
    tables = [store.accounts, store.postings, store.holds]
    query = (
        "SELECT type, name, sql FROM sqlite_master"
        " WHERE tbl_name LIKE 'bank_%' AND sql IS NOT NULL AND type <> 'trigger'"
    )
    async with database.snapshot() as tx:
        migrated = {(kind, name): " ".join(sql.split()) for kind, name, sql in await tx.exec_driver_sql(query)}
    engine = sa.create_engine("sqlite://")
    with engine.connect() as connection:
        metadata.create_all(connection, tables=tables)
        declared = {(kind, name): " ".join(sql.split()) for kind, name, sql in connection.exec_driver_sql(query)}
    engine.dispose()
    assert migrated == declared
    assert {name for kind, name in declared if kind == "table"} == {table.name for table in tables}
