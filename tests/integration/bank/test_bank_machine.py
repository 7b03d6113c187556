"""Random operations on the bank over real SQLite, beside a model of a few lines; audited after every step."""

from __future__ import annotations

import asyncio
import contextlib
import pathlib
import tempfile
from collections.abc import Awaitable
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from orchestrator.bank import Bank, HoldClosed, IdReused, Payment
from orchestrator.bank.store import LIMB
from orchestrator.database import Database, sqlite_url
from orchestrator.errors import InvalidInput, NotEnoughFunds, NotFound, OrchestratorError

PEOPLE = ["alice", "bob", "carol"]
people = st.sampled_from(PEOPLE)
holds = st.sampled_from(["h1", "h2"])
ids = st.sampled_from(["1", "2", "3", "4"])
# Few and small, so that repeated ids, exact balances and one unit too much all happen; and the border between the two
# columns of an amount.
amounts = st.sampled_from([1, 2, 3, 0, LIMB, LIMB + 1])
payments = st.lists(st.tuples(ids, people, amounts), max_size=4)


class BankMachine(RuleBasedStateMachine):
    """Every example works inside one transaction, which is rolled back at its end."""

    loop: asyncio.Runner
    database: Database

    def __init__(self) -> None:
        super().__init__()
        self.bank = Bank(clock=lambda: 0.0)
        self.stack = contextlib.AsyncExitStack()
        self.tx: Any = None
        self.balances: dict[str, int] = dict.fromkeys(PEOPLE, 0)
        self.held: dict[str, int] = {}
        self.owners: dict[str, str] = {}
        self.closed: set[str] = set()
        self.done: dict[Any, Any] = {}

    def run_async(self, awaitable: Awaitable[Any]) -> Any:
        async def wait() -> Any:
            return await awaitable

        return self.loop.run(wait())

    def expect(self, awaitable: Awaitable[Any], error: type[OrchestratorError] | None, result: Any = None) -> None:
        """The operation must raise exactly that error, or return that result."""
        try:
            found = self.run_async(awaitable)
        except OrchestratorError as raised:
            assert type(raised) is error, f"raised {raised!r}, expected {error}"
        else:
            assert error is None, f"returned {found!r}, expected {error}"
            assert result is None or found == result

    @initialize()
    def start(self) -> None:
        self.tx = self.run_async(self.stack.enter_async_context(self.database.snapshot()))
        self.credit("alice", 5)
        self.hold("h1", "alice", 2)
        self.credit("bob", LIMB + 2)

    def teardown(self) -> None:
        self.run_async(self.stack.aclose())

    @rule(account=people, amount=amounts)
    def credit(self, account: str, amount: int) -> None:
        new = amount > 0 and ("credit", account) not in self.done
        if new:
            self.done["credit", account] = amount
            self.balances[account] += amount
        self.expect(self.bank.open_account_with_credit(self.tx, account, amount), None, new)

    @rule(transfer_id=ids, source=people, payee=people, amount=st.none() | amounts)
    def transfer(self, transfer_id: str, source: str, payee: str, amount: int | None) -> None:
        error: type[OrchestratorError] | None = None
        known = self.done.get(("transfer", source, transfer_id))
        if known is not None:
            error = None if known[0] == payee and amount in (None, known[1]) else IdReused
        else:
            moved = self.balances[source] if amount is None else amount
            if amount is None and moved == 0:
                error = NotEnoughFunds
            elif moved == 0 or source == payee:
                error = InvalidInput
            elif moved > self.balances[source]:
                error = NotEnoughFunds
            else:
                self.done["transfer", source, transfer_id] = (payee, moved)
                self.balances[source] -= moved
                self.balances[payee] += moved
        call = self.bank.transfer(self.tx, transfer_id=transfer_id, source=source, target=payee, amount=amount)
        self.expect(call, error)

    @rule(hold_id=holds, account=people, amount=amounts)
    def hold(self, hold_id: str, account: str, amount: int) -> None:
        call = self.bank.hold(self.tx, hold_id=hold_id, account=account, amount=amount)
        if hold_id in self.held:
            same = self.done["hold", hold_id] == (account, amount)
            self.expect(call, None if same else IdReused, False if same else None)
        elif amount > self.balances[account]:
            self.expect(call, NotEnoughFunds)
        else:
            self.done["hold", hold_id] = (account, amount)
            self.owners[hold_id] = account
            self.held[hold_id] = amount
            self.balances[account] -= amount
            self.expect(call, None, True)

    @rule(hold_id=holds, transfer_id=ids, amount=amounts)
    def add_to_hold(self, hold_id: str, transfer_id: str, amount: int) -> None:
        call = self.bank.add_to_hold(self.tx, hold_id=hold_id, amount=amount, transfer_id=transfer_id)
        key = ("add", hold_id, transfer_id)
        if hold_id not in self.held:
            self.expect(call, NotFound)
        elif hold_id in self.closed:
            self.expect(call, HoldClosed)
        elif key in self.done:
            same = self.done[key] == amount
            self.expect(call, None if same else IdReused, False if same else None)
        elif amount == 0:
            self.expect(call, InvalidInput)
        elif amount > self.balances[self.owners[hold_id]]:
            self.expect(call, NotEnoughFunds)
        else:
            self.done[key] = amount
            self.balances[self.owners[hold_id]] -= amount
            self.held[hold_id] += amount
            self.expect(call, None, True)

    @rule(hold_id=holds, wanted=payments)
    def pay(self, hold_id: str, wanted: list[tuple[str, str, int]]) -> None:
        call = self.bank.pay(self.tx, hold_id=hold_id, payments=[Payment(*one) for one in wanted])
        if hold_id not in self.held:
            self.expect(call, NotFound)
            return
        new: dict[str, tuple[str, int]] = {}
        for transfer_id, payee, amount in wanted:
            known = self.done.get(("pay", hold_id, transfer_id)) or new.get(transfer_id)
            if known is not None and known != (payee, amount):
                self.expect(call, IdReused)
                return
            if known is None and amount > 0:
                new[transfer_id] = (payee, amount)
        total = sum(amount for _, amount in new.values())
        if new and hold_id in self.closed:
            self.expect(call, HoldClosed)
        elif total > self.held[hold_id]:
            self.expect(call, NotEnoughFunds)
        else:
            for transfer_id, (payee, amount) in new.items():
                self.done["pay", hold_id, transfer_id] = (payee, amount)
                self.balances[payee] += amount
                self.held[hold_id] -= amount
            self.expect(call, None, total)

    @rule(hold_id=holds)
    def release(self, hold_id: str) -> None:
        call = self.bank.release(self.tx, hold_id)
        if hold_id not in self.held:
            self.expect(call, NotFound)
            return
        rest = self.held[hold_id]
        self.held[hold_id] = 0
        self.closed.add(hold_id)
        self.balances[self.owners[hold_id]] += rest
        self.expect(call, None, rest)

    @invariant()
    def the_books_agree(self) -> None:
        if self.tx is None:
            return
        assert self.run_async(self.bank.balances(self.tx, PEOPLE)) == self.balances
        assert {hold_id: self.run_async(self.bank.held(self.tx, hold_id)) for hold_id in self.held} == self.held
        audit = self.run_async(self.bank.audit(self.tx))
        assert audit.problems == ()
        assert audit.issued == sum(self.balances.values()) + sum(self.held.values())
        assert audit.open_holds == len(self.held) - len(self.closed)


def test_random_operations_keep_the_books() -> None:
    with tempfile.TemporaryDirectory() as folder, asyncio.Runner() as loop:
        BankMachine.loop = loop
        BankMachine.database = loop.run(Database.open(sqlite_url(pathlib.Path(folder) / "bank.db")))
        try:
            machine_settings = settings(
                max_examples=30,
                stateful_step_count=20,
                deadline=None,
                suppress_health_check=[HealthCheck.too_slow],
            )
            run_state_machine_as_test(BankMachine, settings=machine_settings)
        finally:
            loop.run(BankMachine.database.close())
