"""Random operations on a bank, beside a model of a few lines; audited after every step.

The bank is the ledger alone, or the whole Bank over a real database (see who imports this).
"""

from __future__ import annotations

from collections.abc import Awaitable
from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from orchestrator.bank import HoldClosed, IdReused, NotPending, Payment, PendingState
from orchestrator.bank.kinds import CHAIN_RESERVE, FEES, ISSUANCE, PostingKind
from orchestrator.bank.store import LIMB
from orchestrator.errors import InvalidInput, NotEnoughFunds, NotFound, NotPermitted, OrchestratorError

PEOPLE = ["alice", "bob", "carol"]
people = st.sampled_from(PEOPLE)
holds = st.sampled_from(["h1", "h2"])
ids = st.sampled_from(["1", "2", "3", "4"])
# Few and small, so that repeated ids, exact balances and one unit too much all happen; and the border between the two
# columns of an amount.
amounts = st.sampled_from([1, 2, 3, 0, LIMB, LIMB + 1])
ENDS = [PostingKind.TRANSFER, PostingKind.TRANSFER, PostingKind.WITHDRAWAL]
payments = st.lists(st.tuples(ids, people, amounts), max_size=4)


class BankMachine(RuleBasedStateMachine):
    """A subclass opens the bank and what its operations work in, and runs what is asynchronous."""

    bank: Any
    tx: Any = None

    def __init__(self) -> None:
        super().__init__()
        self.now = 1000.0
        self.balances: dict[str, int] = dict.fromkeys([*PEOPLE, ISSUANCE, FEES, CHAIN_RESERVE], 0)
        self.held: dict[str, int] = {}
        self.owners: dict[str, str] = {}
        self.closed: set[str] = set()
        self.done: dict[Any, Any] = {}
        self.pending: dict[tuple[str, str], list[Any]] = {}
        """(source, id): target, amount, end of its time, state"""

    def open(self) -> None:
        raise NotImplementedError

    def check(self) -> None:
        """What the database has to say about what was written."""

    def run_async(self, awaitable: Awaitable[Any]) -> Any:
        raise NotImplementedError

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
        self.open()
        self.credit("alice", 5)
        self.hold("h1", "alice", 2)
        self.credit("bob", LIMB + 2)

    def move(self, source: str, target: str, amount: int) -> None:
        self.balances[source] -= amount
        self.balances[target] += amount

    @rule(account=people, amount=amounts)
    def credit(self, account: str, amount: int) -> None:
        new = amount > 0 and ("credit", account) not in self.done
        if new:
            self.done["credit", account] = amount
            self.move(ISSUANCE, account, amount)
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

    @rule(kind=st.sampled_from(["issue", "fee", "payout", "deposit"]), given_id=ids, account=people, amount=amounts)
    def by_the_operator(self, kind: str, given_id: str, account: str, amount: int) -> None:
        source, target = {
            "issue": (ISSUANCE, account),
            "fee": (account, FEES),
            "payout": (FEES, account),
            "deposit": (CHAIN_RESERVE, account),
        }[kind]
        method = {"issue": "issue", "fee": "charge", "payout": "pay_out", "deposit": "deposit"}[kind]
        call = getattr(self.bank, method)(self.tx, **{f"{kind}_id": given_id, "account": account, "amount": amount})
        known = self.done.get((kind, given_id))
        if known is not None:
            self.expect(
                call, None if known == (account, amount) else IdReused, False if known == (account, amount) else None
            )
        elif amount == 0:
            self.expect(call, InvalidInput)
        elif source in (account, FEES) and amount > self.balances[source]:
            self.expect(call, NotEnoughFunds)
        else:
            self.done[kind, given_id] = (account, amount)
            self.move(source, target, amount)
            self.expect(call, None, True)

    @rule(
        transfer_id=ids, source=people, payee=st.sampled_from([*PEOPLE, CHAIN_RESERVE]), amount=st.none() | amounts,
        expires_in=st.sampled_from([None, 1, 3]),
    )  # fmt: skip
    def reserve(self, transfer_id: str, source: str, payee: str, amount: int | None, expires_in: int | None) -> None:
        call = self.bank.reserve(
            self.tx, transfer_id=transfer_id, source=source, target=payee, amount=amount, expires_in=expires_in
        )
        known = self.pending.get((source, transfer_id))
        if source == payee:
            self.expect(call, InvalidInput)
        elif known is not None:
            self.expect(call, None if known[0] == payee and amount in (None, known[1]) else IdReused)
        elif amount == 0:
            self.expect(call, InvalidInput)
        elif self.balances[source] == 0 or (amount or 0) > self.balances[source]:
            self.expect(call, NotEnoughFunds)
        else:
            amount = amount or self.balances[source]
            end = None if expires_in is None else self.now + expires_in
            self.pending[source, transfer_id] = [payee, amount, end, PendingState.PENDING]
            self.balances[source] -= amount
            self.expect(call, None)

    @rule(transfer_id=ids, source=people, kind=st.sampled_from(ENDS))
    def post_pending(self, transfer_id: str, source: str, kind: PostingKind) -> None:
        call = self.bank.post_pending(self.tx, source=source, transfer_id=transfer_id, kind=kind)
        known = self.pending.get((source, transfer_id))
        if known is None:
            self.expect(call, NotFound)
            return
        payee, amount, end, state = known
        if kind is not _kind_to(payee):
            self.expect(call, NotPermitted)
        elif state is PendingState.VOID or (state is PendingState.PENDING and end is not None and self.now >= end):
            self.expect(call, NotPending)
        elif state is PendingState.PENDING and payee == CHAIN_RESERVE and self.balances[payee] + amount > 0:
            self.expect(call, InvalidInput)
        else:
            if state is PendingState.PENDING:
                known[3] = PendingState.POSTED
                self.balances[payee] += amount
            self.expect(call, None)

    @rule(transfer_id=ids, source=people, kind=st.sampled_from(ENDS))
    def void_pending(self, transfer_id: str, source: str, kind: PostingKind) -> None:
        call = self.bank.void_pending(self.tx, source=source, transfer_id=transfer_id, kind=kind)
        known = self.pending.get((source, transfer_id))
        if known is None:
            self.expect(call, NotFound)
        elif kind is not _kind_to(known[0]):
            self.expect(call, NotPermitted)
        elif known[3] is PendingState.POSTED:
            self.expect(call, NotPending)
        else:
            if known[3] is PendingState.PENDING:
                known[3] = PendingState.VOID
                self.balances[source] += known[1]
            self.expect(call, None)

    @precondition(lambda self: bool(self.pending))
    @rule(data=st.data(), posts=st.booleans(), seconds=st.sampled_from([0, 0, 1, 3]))
    def settle_one_that_is_there(self, data: st.DataObject, posts: bool, seconds: int) -> None:
        self.now += seconds
        source, transfer_id = data.draw(st.sampled_from(sorted(self.pending)))
        settle = self.post_pending if posts else self.void_pending
        settle(transfer_id, source, _kind_to(self.pending[source, transfer_id][0]))

    @rule(seconds=st.sampled_from([1, 2]), sweeps=st.booleans())
    def time_passes(self, seconds: int, sweeps: bool) -> None:
        self.now += seconds
        if not sweeps:
            return
        over = [
            (source, known)
            for (source, _), known in self.pending.items()
            if known[3] is PendingState.PENDING and known[2] is not None and self.now >= known[2]
        ]
        for source, known in over:
            known[3] = PendingState.VOID
            self.balances[source] += known[1]
        self.expect(self.bank.expire(self.tx), None, len(over))

    @invariant()
    def the_books_agree(self) -> None:
        if self.tx is None:
            return
        assert self.run_async(self.bank.balances(self.tx, list(self.balances))) == self.balances
        assert {hold_id: self.run_async(self.bank.held(self.tx, hold_id)) for hold_id in self.held} == self.held
        audit = self.run_async(self.bank.audit(self.tx))
        assert audit.problems == ()
        waiting = [known[1] for known in self.pending.values() if known[3] is PendingState.PENDING]
        assert sum(self.balances.values()) + sum(self.held.values()) + sum(waiting) == 0
        assert (audit.issued, audit.reserve) == (-self.balances[ISSUANCE], -self.balances[CHAIN_RESERVE])
        assert audit.open_holds == len(self.held) - len(self.closed)
        assert audit.pending == len(waiting)
        self.check()


def _kind_to(payee: str) -> PostingKind:
    return PostingKind.WITHDRAWAL if payee == CHAIN_RESERVE else PostingKind.TRANSFER
