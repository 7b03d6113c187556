"""The teller's operations on a real database, called as the protocol layer calls a service."""

import asyncio
import dataclasses
from collections.abc import AsyncIterator
from typing import Any

import pytest

from orchestrator.bank import Bank, IdReused
from orchestrator.bank.amounts import UNITS
from orchestrator.bank.teller import Teller
from orchestrator.database import Database
from orchestrator.errors import InvalidInput, NotEnoughFunds, NotFound, NotPermitted, OrchestratorError
from orchestrator.wallet.keys import PrivateKey

A, B = PrivateKey(b"\1" * 32).address, PrivateKey(b"\2" * 32).address


@dataclasses.dataclass(frozen=True)
class Asked:
    operation: str
    data: Any
    authorized: frozenset[str] = frozenset({A})


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[Database]:
    database = await Database.open(database_url)
    async with database.transaction() as tx:
        await Bank().open_account_with_credit(tx, A, 10 * UNITS)
        await Bank().hold(tx, hold_id="j", account=A, amount=UNITS)
        await Bank().hold(tx, hold_id="k", account=A, amount=UNITS // 2)
    yield database
    await database.close()


@pytest.fixture
def teller(database: Database) -> Teller:
    return Teller(Bank(), database)


async def test_transfer(teller: Teller) -> None:
    request = Asked("transfer@1", {"fromAccount": A.lower(), "toAccount": B, "amount": "1.25", "transferId": "t"})
    answer = await teller.handle(request)
    assert answer == {"transferId": "t", "fromAccount": A, "toAccount": B, "amount": "1.25", "balance": "7.25"}
    assert await teller.handle(request) == answer
    again = await teller.handle(Asked("transfer", {"fromAccount": A, "toAccount": B, "amount": 1.25}))
    assert (again["balance"], again["transferId"] != "t") == ("6", True)


async def test_transfers_at_once_share_a_transaction(database: Database) -> None:
    """Each is answered for itself, repeated ones and refused ones as well."""
    transactions: list[Any] = []

    class Counting(Bank):
        async def transfers(self, tx: Any, wanted: Any) -> Any:
            transactions.append(len(wanted))
            return await super().transfers(tx, wanted)

    teller = Teller(Counting(), database)
    asked = [
        Asked("transfer@1", {"fromAccount": A, "toAccount": B, "amount": amount, "transferId": name})
        for name, amount in (("1", "3"), ("2", "5"), ("2", "5"), ("3", "1"), ("2", "4"), ("4", "0.5"), ("5", "0.5"))
    ]
    answers = await asyncio.gather(*(teller.handle(one) for one in asked), return_exceptions=True)
    assert [one["balance"] if isinstance(one, dict) else type(one) for one in answers] == [
        "5.5", "0.5", "0.5", NotEnoughFunds, IdReused, "0", NotEnoughFunds
    ]  # fmt: skip
    assert transactions == [1, 6]
    async with database.snapshot() as tx:
        assert await Bank().balances(tx, [A, B]) == {A: 0, B: 17 * UNITS // 2}
        assert (await Bank().audit(tx)).problems == ()


async def test_who_gives_up_on_a_transfer_takes_no_other_along(database: Database) -> None:
    began = asyncio.Event()

    class Slow(Bank):
        async def transfers(self, tx: Any, wanted: Any) -> Any:
            if not began.is_set():
                began.set()
                await asyncio.Event().wait()
            return await super().transfers(tx, wanted)

    teller = Teller(Slow(), database)

    def ask(name: str) -> asyncio.Task[Any]:
        data = {"fromAccount": A, "toAccount": B, "amount": 1, "transferId": name}
        return asyncio.ensure_future(teller.handle(Asked("transfer@1", data)))

    first = ask("1")
    await began.wait()
    others = [ask(name) for name in "23"]
    first.cancel()
    assert [one["balance"] for one in await asyncio.gather(*others)] == ["7.5", "6.5"]
    assert first.cancelled() or first.done()


async def test_transfer_all(teller: Teller) -> None:
    data = {"fromAccount": A, "toAccount": B, "transferAll": True}
    assert (await teller.handle(Asked("transfer@1", data)))["amount"] == "8.5"
    with pytest.raises(NotEnoughFunds):
        await teller.handle(Asked("transfer@1", data))


async def test_transfer_credits_is_a_transfer_that_its_own_account_signs(teller: Teller) -> None:
    data = {"fromAccount": A, "toAccount": B, "signingSource": A, "amount": 1.25}
    answer = await teller.handle(Asked("transferCredits", data))
    assert (answer["amount"], answer["balance"]) == ("1.25", "7.25")
    with pytest.raises(NotPermitted, match=f"may not move the money of fromAccount {B}"):
        await teller.handle(Asked("transferCredits", {**data, "fromAccount": B}, frozenset({A, B})))


async def test_views(teller: Teller) -> None:
    both = frozenset({A, B})
    accounts = {"accounts": [{"address": A, "balance": "8.5"}, {"address": B, "balance": "0"}]}
    assert await teller.handle(Asked("viewAccounts", {"address": [A, B]}, both)) == accounts
    assert await teller.handle(Asked("viewAccounts", {"addresses": [A.lower(), B]}, both)) == accounts
    assert await teller.handle(Asked("viewAccounts", {"address": A})) == {"accounts": accounts["accounts"][:1]}
    assert await teller.handle(Asked("viewAccounts", {"addresses": []})) == {"accounts": []}
    escrow = {"num": 2, "total": "1.5"}
    assert await teller.handle(Asked("viewAccount", {"address": A})) == {
        "address": A,
        "balance": "8.5",
        "escrow": escrow,
    }


RESERVE = {"fromAccount": A, "toAccount": B, "amount": 1, "transferId": "r"}
REFUSED: list[tuple[str, Any, type[OrchestratorError], str]] = [
    ("transfer@1", {"fromAccount": B, "toAccount": A, "amount": "1"}, NotPermitted, f"fromAccount {B}"),
    ("viewAccounts", {"address": [A, B]}, NotPermitted, f"not signed by the key of address {B}"),
    ("viewAccount", {"address": B}, NotPermitted, "authorize it with its keystore"),
    ("transfer@1", {"fromAccount": A, "toAccount": B, "amount": "9"}, NotEnoughFunds, "has 8.5 DCC but 9 DCC"),
    ("transfer@1", {"fromAccount": A, "toAccount": B}, InvalidInput, "amount must be decimal text or a number"),
    ("transfer@1", {"fromAccount": A, "toAccount": B, "amount": "0"}, InvalidInput, "too small"),
    ("transfer@1", {"fromAccount": A, "toAccount": B, "amount": "-1"}, InvalidInput, "negative"),
    ("transfer@1", {"fromAccount": A, "toAccount": A, "amount": "1"}, InvalidInput, "the same account"),
    ("transfer@1", {"fromAccount": A, "toAccount": B, "amount": 1, "transferId": 7}, InvalidInput, "transferId"),
    ("transfer@1", {"fromAccount": A, "amount": "1"}, InvalidInput, "toAccount is missing"),
    ("transfer@1", {"fromAccount": A, "toAccount": "issuance", "amount": "1"}, InvalidInput, "'issuance' is not"),
    (
        "transfer@1",
        {"fromAccount": A, "toAccount": "0x" + A[2:].swapcase(), "amount": 1},
        InvalidInput,
        "Bad checksum",
    ),
    ("reserveTransfer", {**RESERVE, "expiresIn": 0}, InvalidInput, "seconds"),
    ("reserveTransfer", {**RESERVE, "toAccount": A}, InvalidInput, "not possible"),
    ("reserveTransfer", {**RESERVE, "amount": 9}, NotEnoughFunds, "has 8.5 DCC"),
    ("reserveTransfer", {**RESERVE, "transferId": None}, InvalidInput, "transferId is missing: give one of your own"),
    ("postTransfer", {"fromAccount": A}, InvalidInput, "transferId must be a string"),
    ("issueCredits", {"toAccount": A, "amount": 1}, NotPermitted, "of whom this Bank has none"),
    ("viewStatement", {"address": A, "limit": 0}, InvalidInput, "limit must be"),
    ("viewStatement", {"address": A, "before": "x"}, InvalidInput, "before must be"),
    ("transfer@2", {}, OrchestratorError, "knows no operation 'transfer@2'"),
    ("withdraw", {}, OrchestratorError, "knows no operation"),
    ("viewAccount", None, InvalidInput, "data must be an object"),
    ("viewAccount", {}, InvalidInput, "address is missing"),
    ("viewAccounts", {"addresses": [A] * 1001}, InvalidInput, "at most 1000"),
    ("viewAccounts", {"addresses": [[A]]}, InvalidInput, "must be a string"),
]


async def test_refused(teller: Teller, database: Database) -> None:
    for operation, data, error, says in REFUSED:
        with pytest.raises(error, match=says):
            await teller.handle(Asked(operation, data))
    async with database.snapshot() as tx:
        assert await Bank().balances(tx, [A, B]) == {A: 17 * UNITS // 2, B: 0}


async def test_transfers_in_two_steps(teller: Teller) -> None:
    reserve = {"fromAccount": A, "toAccount": B, "amount": "2", "transferId": "r", "expiresIn": 3600}
    made = await teller.handle(Asked("reserveTransfer", reserve))
    assert (made["state"], made["amount"], made["toAccount"]) == ("pending", "2", B)
    assert (await teller.handle(Asked("viewPending", {"address": A})))["pending"] == [made]
    by_both = frozenset({A, B})
    with pytest.raises(NotPermitted, match="fromAccount"):
        await teller.handle(Asked("postTransfer", {"fromAccount": A, "transferId": "r"}, frozenset({B})))
    with pytest.raises(NotPermitted, match="neither by"):
        await teller.handle(Asked("voidTransfer", {"fromAccount": A, "transferId": "r"}, frozenset()))
    with pytest.raises(NotFound):
        await teller.handle(Asked("voidTransfer", {"fromAccount": A, "transferId": "s"}))
    posted = await teller.handle(Asked("postTransfer", {"fromAccount": A, "transferId": "r"}))
    assert posted == {**made, "state": "posted"} == await teller.handle(Asked("reserveTransfer", reserve))
    await teller.handle(Asked("reserveTransfer", {**reserve, "transferId": "s", "expiresIn": None}))
    void = await teller.handle(Asked("voidTransfer", {"fromAccount": A, "transferId": "s"}, frozenset({B})))
    assert void["state"] == "void"
    both = await teller.handle(Asked("viewAccounts", {"addresses": [A, B]}, by_both))
    assert [one["balance"] for one in both["accounts"]] == ["6.5", "2"]


async def test_only_an_operator_makes_money(database: Database) -> None:
    teller = Teller(Bank(), database, operators=[B])
    issue = Asked("issueCredits", {"toAccount": A, "amount": "3", "transferId": "i"}, frozenset({B}))
    assert [(await teller.handle(issue))["isNew"] for _ in range(2)] == [True, False]
    for operation in ("issueCredits", "payOutFees"):
        with pytest.raises(InvalidInput, match="transferId is missing"):
            await teller.handle(Asked(operation, {"toAccount": A, "amount": 1}, frozenset({B})))
        with pytest.raises(NotPermitted, match=f"sign with the keystore of {B}"):
            await teller.handle(Asked(operation, {"toAccount": A, "amount": 1}))
    async with database.transaction() as tx:
        await Bank().charge(tx, fee_id="f", account=A, amount=UNITS)
    with pytest.raises(NotEnoughFunds):
        await teller.handle(Asked("payOutFees", {"toAccount": A, "amount": 2, "transferId": "p"}, frozenset({B})))
    answer = await teller.handle(Asked("payOutFees", {"toAccount": A, "amount": 1, "transferId": "p"}, frozenset({B})))
    assert answer["balance"] == "11.5"


async def test_statement(teller: Teller) -> None:
    for number in (1, 2):
        data = {"fromAccount": A, "toAccount": B, "amount": number, "transferId": str(number)}
        await teller.handle(Asked("transfer@1", data))
    first = await teller.handle(Asked("viewStatement", {"address": A, "limit": 2}))
    assert [(one["kind"], one["amount"], one["balance"], one["other"]) for one in first["lines"]] == [
        ("transfer", "-2", "5.5", B),
        ("transfer", "-1", "7.5", B),
    ]
    rest = await teller.handle(Asked("viewStatement", {"address": A, "before": first["next"]}))
    assert [(one["kind"], one["amount"], one["balance"]) for one in rest["lines"]] == [
        ("hold", "-0.5", "8.5"),
        ("hold", "-1", "9"),
        ("credit", "10", "10"),
    ]
    assert rest["next"] is None
    with pytest.raises(NotPermitted):
        await teller.handle(Asked("viewStatement", {"address": B}))


async def test_on_a_local_computer_accounts_start_with_credit(database: Database) -> None:
    teller = Teller(Bank(), database, initial_credit=3 * UNITS)
    request = Asked("viewAccounts", {"address": [B, B]}, frozenset({B}))
    for _ in range(2):
        assert (await teller.handle(request))["accounts"] == [{"address": B, "balance": "3"}] * 2
    async with database.snapshot() as tx:
        assert (await Bank().audit(tx)).problems == ()
