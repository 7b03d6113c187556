"""The ledger alone, driven at random (see `tests.bank_machine`)."""

from __future__ import annotations

import types
from collections.abc import Awaitable, Sequence
from typing import Any

from hypothesis import settings
from hypothesis.stateful import run_state_machine_as_test

from orchestrator.bank.kinds import CHAIN_RESERVE, FEES, ISSUANCE, PostingKind
from orchestrator.bank.ledger import Book, Payment, Posting, check_id, escrow_account
from orchestrator.bank.pending import Pending, PendingState, pending_id
from tests.bank_machine import BankMachine


class PureBank:
    """One book for ever, with the Bank's methods."""

    def __init__(self, machine: BankMachine) -> None:
        self.machine = machine
        self.book = Book()

    async def hold(self, _tx: Any, *, hold_id: str, account: str, amount: int) -> bool:
        return self.book.hold(hold_id, account, amount)

    async def add_to_hold(self, _tx: Any, *, hold_id: str, amount: int, transfer_id: str) -> bool:
        return self.book.add_to_hold(hold_id, transfer_id, amount)

    async def pay(self, _tx: Any, *, hold_id: str, payments: Sequence[Payment]) -> int:
        return self.book.pay(hold_id, payments)

    async def release(self, _tx: Any, hold_id: str) -> int:
        return self.book.release(hold_id)

    async def transfer(self, _tx: Any, *, transfer_id: str, source: str, target: str, amount: int | None) -> Posting:
        return self.book.transfer(transfer_id, source, target, amount)

    async def open_account_with_credit(self, _tx: Any, account: str, credit: int) -> bool:
        return self.book.credit(account, credit)

    async def issue(self, _tx: Any, *, issue_id: str, account: str, amount: int) -> bool:
        return self.book.move(Posting(f"issue:{issue_id}", PostingKind.ISSUE, ISSUANCE, account, amount))

    async def charge(self, _tx: Any, *, fee_id: str, account: str, amount: int) -> bool:
        return self.book.move(Posting(f"fee:{fee_id}", PostingKind.FEE, account, FEES, amount))

    async def pay_out(self, _tx: Any, *, payout_id: str, account: str, amount: int) -> bool:
        return self.book.move(Posting(f"payout:{payout_id}", PostingKind.PAYOUT, FEES, account, amount))

    async def deposit(self, _tx: Any, *, deposit_id: str, account: str, amount: int) -> bool:
        return self.book.move(Posting(f"deposit:{deposit_id}", PostingKind.DEPOSIT, CHAIN_RESERVE, account, amount))

    async def reserve(
        self, _tx: Any, *, transfer_id: str, source: str, target: str, amount: int | None, expires_in: float | None
    ) -> None:
        check_id(transfer_id, "transfer id")
        key, now = pending_id(source, transfer_id), self.machine.now
        known = self.book.pending.get(key)
        if amount is None:
            amount = known.amount if known is not None else max(self.book.balance(source), 1)
        kind = PostingKind.WITHDRAWAL if target == CHAIN_RESERVE else PostingKind.TRANSFER
        end = None if expires_in is None else now + expires_in
        self.book.reserve(Pending(key, kind, source, target, amount, now, end))

    async def post_pending(self, _tx: Any, *, source: str, transfer_id: str, kind: PostingKind) -> bool:
        return self.book.post_pending(pending_id(source, transfer_id), self.machine.now, kind)

    async def void_pending(self, _tx: Any, *, source: str, transfer_id: str, kind: PostingKind) -> bool:
        return self.book.void_pending(pending_id(source, transfer_id), self.machine.now, kind)

    async def expire(self, _tx: Any) -> int:
        over = [one.id for one in self.book.pending.values() if one.is_over(self.machine.now)]
        return sum(self.book.void_pending(key, self.machine.now) for key in over)

    async def balances(self, _tx: Any, accounts: Sequence[str]) -> dict[str, int]:
        return {name: self.book.balance(name) for name in accounts}

    async def held(self, _tx: Any, hold_id: str) -> int:
        return self.book.balance(escrow_account(hold_id))

    async def audit(self, _tx: Any) -> Any:
        self.book.validate()
        assert sum(account.balance for account in self.book.accounts.values()) == 0
        sums: dict[str, int] = {}
        for posting in self.book.postings:
            sums[posting.source] = sums.get(posting.source, 0) - posting.amount
            sums[posting.target] = sums.get(posting.target, 0) + posting.amount
        assert {name: value for name, value in sums.items() if value} == {
            account.name: account.balance for account in self.book.accounts.values() if account.balance
        }
        return types.SimpleNamespace(
            problems=(),
            issued=-self.book.balance(ISSUANCE),
            reserve=-self.book.balance(CHAIN_RESERVE),
            open_holds=sum(hold.is_open for hold in self.book.holds.values()),
            pending=sum(one.state is PendingState.PENDING for one in self.book.pending.values()),
        )


class OnBook(BankMachine):
    def open(self) -> None:
        self.bank, self.tx = PureBank(self), object()

    def run_async(self, awaitable: Awaitable[Any]) -> Any:
        """None of it ever waits."""
        steps = awaitable.__await__()
        try:
            next(steps)
        except StopIteration as done:
            return done.value
        raise AssertionError("a pure ledger waits for something")


def test_random_operations_keep_the_books() -> None:
    run_state_machine_as_test(OnBook, settings=settings(max_examples=60, stateful_step_count=40, deadline=None))
