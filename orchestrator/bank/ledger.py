"""The rules of the ledger, without a database: accounts, postings, and holds for jobs.

A *posting* moves an amount from one account to another, so the sum of all accounts is zero by construction: what
people own, the issuance account owes. Postings are never changed or deleted; a balance is only their running sum.

A *hold* (escrow) is an account of its own, filled from its owner's account when a job is deployed. Whoever computes
is paid out of it; what is left goes back when it is released.

`Book` holds the few accounts that one transaction touches. It checks everything before it changes anything, so a
refused operation leaves it as it was.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence

from orchestrator.bank.amounts import MAX_AMOUNT, format_amount
from orchestrator.bank.chain import Opening, Posting
from orchestrator.bank.kinds import (
    CHAIN_RESERVE,
    FEES,
    ISSUANCE,
    MAX_BALANCE,
    AccountKind,
    PostingKind,
    kind_of,
    may_move,
)
from orchestrator.bank.pending import (
    NotPending,
    Pending,
    PendingState,
    posted_posting_id,
    reserve_posting_id,
    void_posting_id,
)
from orchestrator.errors import Fault, InvalidInput, NotEnoughFunds, NotFound, NotPermitted, OrchestratorError

__all__ = ["CHAIN_RESERVE", "FEES", "ISSUANCE", "MAX_BALANCE", "AccountKind", "Posting", "PostingKind"]

MAX_ID = 200


class IdReused(OrchestratorError):
    """A transfer or hold id that stands for something else already. Nothing was moved."""

    code = "EDUP"
    fault = Fault.USER


class HoldClosed(OrchestratorError):
    """The hold was released: its money went back, and nothing can be paid out of it or added to it."""

    code = "EHOLDCLOSED"


@dataclasses.dataclass(slots=True)
class Account:
    name: str
    kind: AccountKind
    balance: int = 0
    key: int = 0
    """The store's number of it; 0 when it is not stored yet."""

    @property
    def may_owe(self) -> bool:
        return self.kind.may_owe


@dataclasses.dataclass(slots=True)
class Hold:
    id: str
    owner: str
    """The account that paid and gets the rest back."""
    is_open: bool = True

    @property
    def account(self) -> str:
        return escrow_account(self.id)


@dataclasses.dataclass(frozen=True, slots=True)
class Payment:
    """One payment out of a hold. `transfer_id` is unique within the hold; the same one again pays nothing."""

    transfer_id: str
    payee: str
    amount: int


@dataclasses.dataclass(frozen=True, slots=True)
class Wanted:
    """A transfer that somebody asks for: everything there is, when `amount` is None."""

    transfer_id: str
    source: str
    target: str
    amount: int | None


def escrow_account(hold_id: str) -> str:
    return f"escrow:{hold_id}"


def hold_posting_id(hold_id: str) -> str:
    return f"hold:{hold_id}"


def top_up_posting_id(hold_id: str, transfer_id: str) -> str:
    return f"topup:{hold_id}:{transfer_id}"


def payment_posting_id(hold_id: str, transfer_id: str) -> str:
    return f"payment:{hold_id}:{transfer_id}"


def part_release_posting_id(hold_id: str, transfer_id: str) -> str:
    return f"part-release:{hold_id}:{transfer_id}"


def release_posting_id(hold_id: str) -> str:
    return f"release:{hold_id}"


def credit_posting_id(account: str) -> str:
    return f"credit:{account}"


def transfer_posting_id(source: str, transfer_id: str) -> str:
    """Ids made by a client count per account, so that nobody can use up the ids of another, or ours."""
    return f"transfer:{source}:{transfer_id}"


class Book:
    """Accounts, holds, and the postings known under the ids that are about to be used.

    The caller loads what an operation names (accounts that do not exist yet are opened here) and afterwards stores
    `postings`, `opened`, `moved`, `new_holds`, `openings`, `closed_holds`, `new_pending` and `settled_pending`.
    """

    def __init__(
        self,
        accounts: Iterable[Account] = (),
        holds: Iterable[Hold] = (),
        known: Iterable[Posting] = (),
        pending: Iterable[Pending] = (),
    ) -> None:
        self.accounts = {account.name: account for account in accounts}
        self.holds = {hold.id: hold for hold in holds}
        self.pending = {one.id: one for one in pending}
        self._known = {posting.id: posting for posting in known}
        self.postings: list[Posting] = []
        """Made here, in order."""
        self.opened: list[Account] = []
        self.moved: dict[str, int] = {}
        """By how much each account has changed here."""
        self.new_holds: list[Hold] = []
        self.openings: list[Opening] = []
        """Of those of the new holds that are empty: no posting says whose they are."""
        self.closed_holds: list[Hold] = []
        self.new_pending: list[Pending] = []
        self.settled_pending: list[Pending] = []

    def balance(self, name: str) -> int:
        account = self.accounts.get(name)
        return account.balance if account is not None else 0

    def credit(self, name: str, amount: int) -> bool:
        """Give an account its first money, once. False when it had it, whatever the amount was then."""
        posting_id = credit_posting_id(name)
        if amount == 0:
            self._account(name)
            return False
        if posting_id in self._known:
            return False
        self._post([Posting(posting_id, PostingKind.CREDIT, ISSUANCE, name, amount)])
        return True

    def transfer(self, transfer_id: str, source: str, target: str, amount: int | None) -> Posting:
        """Move an amount, or all there is when None. The same id again returns what was posted then.

        Raises `NotEnoughFunds`, `IdReused`, and `InvalidInput` for a transfer of nothing or to oneself.
        """
        check_id(transfer_id, "transfer id")
        posting_id = transfer_posting_id(source, transfer_id)
        known = self._known.get(posting_id)
        if known is not None:
            if known.target != target or amount not in (None, known.amount):
                raise IdReused(f"transfer id {transfer_id!r} stands for another transfer")
            return known
        if amount is None:
            amount = self.balance(source)
            if amount == 0:
                raise _not_enough(source, 1, 0)
        posting = Posting(posting_id, PostingKind.TRANSFER, source, target, amount)
        self._post([posting])
        return posting

    def move(self, posting: Posting) -> bool:
        """One posting of a kind that needs nothing else (issue, fee, payout, deposit). False when it was made before.

        Raises `NotEnoughFunds`, `IdReused`, `InvalidInput`.
        """
        return self._post_once(posting)

    def reserve(self, pending: Pending) -> bool:
        """Put the money of a pending transfer aside. False when that very transfer was made before, whatever became of
        it since.

        Raises `NotEnoughFunds`, `IdReused`, `InvalidInput`.
        """
        check_id(pending.id, "transfer id")
        if not may_move(pending.kind, AccountKind.PENDING, kind_of(pending.target)) or pending.target == pending.source:
            raise InvalidInput(f"{pending.kind} from {pending.source} to {pending.target} is not possible")
        known = self.pending.get(pending.id)
        if known is not None:
            if any(
                getattr(known, name) != getattr(pending, name) for name in ("kind", "target", "amount", "destination")
            ):
                raise IdReused(f"pending transfer {pending.id!r} exists with another kind, target or amount")
            return False
        aside = (pending.source, pending.account, pending.amount, pending.terms)
        self._post([Posting(reserve_posting_id(pending.id), PostingKind.RESERVE, *aside)])
        self._account(pending.target)
        self.pending[pending.id] = pending
        self.new_pending.append(pending)
        return True

    def post_pending(self, pending_id: str, now: float, kind: PostingKind | None = None) -> bool:
        """Carry a pending transfer out. False when it was before.

        Raises `NotFound`, `NotPending` when it is void or its time is over, and `NotPermitted` when it is of another
        `kind`.
        """
        pending = self._pending(pending_id, kind)
        if pending.state is PendingState.POSTED:
            return False
        if pending.state is PendingState.VOID or pending.is_over(now):
            raise NotPending(f"pending transfer {pending_id!r} is void: its money went back, or is about to")
        self._settle(pending, PendingState.POSTED, now)
        return True

    def void_pending(self, pending_id: str, now: float, kind: PostingKind | None = None) -> bool:
        """Give the money of a pending transfer back. False when it was before.

        Raises `NotFound`, `NotPending` when it was posted, and `NotPermitted` when it is of another `kind`.
        """
        pending = self._pending(pending_id, kind)
        if pending.state is PendingState.VOID:
            return False
        if pending.state is PendingState.POSTED:
            raise NotPending(f"pending transfer {pending_id!r} was posted")
        self._settle(pending, PendingState.VOID, now)
        return True

    def _settle(self, pending: Pending, state: PendingState, now: float) -> None:
        if state is PendingState.POSTED:
            posting_id, kind, target = posted_posting_id(pending.id), pending.kind, pending.target
        else:
            posting_id, kind, target = void_posting_id(pending.id), PostingKind.VOID, pending.source
        self._post([Posting(posting_id, kind, pending.account, target, pending.amount)])
        pending.state, pending.settled_at = state, now
        self.settled_pending.append(pending)

    def _pending(self, pending_id: str, kind: PostingKind | None) -> Pending:
        pending = self.pending.get(pending_id)
        if pending is None:
            raise NotFound(f"no pending transfer {pending_id!r}")
        if kind not in (None, pending.kind):
            raise NotPermitted(f"pending transfer {pending_id!r} is a {pending.kind}, not a {kind}")
        return pending

    def hold(self, hold_id: str, owner: str, amount: int) -> bool:
        """Put an amount (0 is allowed) aside. False when the same hold exists.

        Raises `NotEnoughFunds`, or `IdReused` for the same id with another owner or amount.
        """
        check_id(hold_id, "hold id")
        _check_amount(amount, at_least=0)
        posting = Posting(hold_posting_id(hold_id), PostingKind.HOLD, owner, escrow_account(hold_id), amount)
        existing = self.holds.get(hold_id)
        if existing is not None:
            known = self._known.get(posting.id)
            if existing.owner != owner or (known.amount if known else 0) != amount:
                raise IdReused(f"hold {hold_id!r} exists with another owner or amount")
            return False
        if self.balance(owner) < amount:
            raise _not_enough(owner, amount, self.balance(owner))
        hold = self.holds[hold_id] = Hold(hold_id, owner)
        self.new_holds.append(hold)
        self._account(owner)
        self._account(hold.account)
        if amount:
            self._post([posting])
        else:
            self.openings.append(Opening(hold_id, hold.account, owner))
        return True

    def add_to_hold(self, hold_id: str, transfer_id: str, amount: int) -> bool:
        """Put more aside, from the hold's owner. False when this `transfer_id` did it already."""
        check_id(transfer_id, "transfer id")
        hold = self._open_hold(hold_id)
        posting_id = top_up_posting_id(hold_id, transfer_id)
        return self._post_once(Posting(posting_id, PostingKind.HOLD, hold.owner, hold.account, amount))

    def pay(self, hold_id: str, payments: Sequence[Payment]) -> int:
        """Pay all of them, or none; returns how much went out now.

        Payments made before under the same id, and payments of 0, do nothing. Raises `NotEnoughFunds` when the hold
        does not hold what is to be paid, `HoldClosed`, `IdReused`.
        """
        hold = self._hold(hold_id)
        source, prefix, total = hold.account, payment_posting_id(hold_id, ""), 0
        batch: dict[str, Posting] = {}
        for payment in payments:
            check_id(payment.transfer_id, "transfer id")
            posting = Posting(prefix + payment.transfer_id, PostingKind.PAYMENT, source, payment.payee, payment.amount)
            known = self._known.get(posting.id) or batch.get(posting.id)
            if known is not None:
                _same(known, posting)
            elif payment.amount != 0:
                batch[posting.id] = posting
                total += payment.amount
        if batch and not hold.is_open:
            raise _closed(hold_id)
        self._post(list(batch.values()))
        return total

    def release_part(self, hold_id: str, transfer_id: str, amount: int) -> bool:
        """Give an amount back to the hold's owner; the hold stays open. False when this `transfer_id` did it already.

        Raises `NotEnoughFunds` when the hold does not hold that much, `HoldClosed`, `IdReused`.
        """
        check_id(transfer_id, "transfer id")
        hold = self._open_hold(hold_id)
        posting_id = part_release_posting_id(hold_id, transfer_id)
        return self._post_once(Posting(posting_id, PostingKind.RELEASE, hold.account, hold.owner, amount))

    def release(self, hold_id: str) -> int:
        """Give the rest back to the hold's owner and close it; returns how much. Closed already: 0."""
        hold = self._hold(hold_id)
        if not hold.is_open:
            return 0
        rest = self.balance(hold.account)
        if rest:
            posting_id = release_posting_id(hold_id)
            self._post([Posting(posting_id, PostingKind.RELEASE, hold.account, hold.owner, rest)])
        hold.is_open = False
        self.closed_holds.append(hold)
        return rest

    def validate(self) -> None:
        """Raise AssertionError when an invariant is broken (the sum only where all accounts are loaded)."""
        for account in self.accounts.values():
            assert account.kind.allows(account.balance), f"{account.name} may not have {account.balance}"
        for hold in self.holds.values():
            assert hold.is_open or self.balance(hold.account) == 0, f"hold {hold.id} is closed but not empty"
        for one in self.pending.values():
            expected = one.amount if one.state is PendingState.PENDING else 0
            assert self.balance(one.account) == expected, (
                f"pending transfer {one.id} is {one.state} but holds otherwise"
            )

    def _post_once(self, posting: Posting) -> bool:
        known = self._known.get(posting.id)
        if known is not None:
            _same(known, posting)
            return False
        self._post([posting])
        return True

    def _post(self, postings: Sequence[Posting]) -> None:
        """Move the amounts, all or none."""
        moved: dict[str, int] = {}
        for posting in postings:
            _check_amount(posting.amount, at_least=1)
            if posting.source == posting.target:
                raise InvalidInput(f"source and target are the same account: {posting.source}")
            if not may_move(posting.kind, kind_of(posting.source), kind_of(posting.target)):
                raise InvalidInput(f"{posting.kind} from {posting.source} to {posting.target} is not possible")
            moved[posting.source] = moved.get(posting.source, 0) - posting.amount
            moved[posting.target] = moved.get(posting.target, 0) + posting.amount
        for name, amount in moved.items():
            self._check_balance(name, amount)
        for name, amount in moved.items():
            self._account(name).balance += amount
            self.moved[name] = self.moved.get(name, 0) + amount
        for posting in postings:
            self._known[posting.id] = posting
        self.postings.extend(postings)

    def _check_balance(self, name: str, change: int) -> None:
        balance, kind = self.balance(name), kind_of(name)
        if kind.allows(balance + change):
            return
        if kind.may_owe and change > 0:
            raise InvalidInput(
                f"account {name} cannot get back more than the {format_amount(-balance)} DCC that it gave"
            )
        if change < 0 and not kind.may_owe:
            raise _not_enough(name, -change, balance)
        raise InvalidInput(f"account {name} cannot hold more than {format_amount(MAX_BALANCE)} DCC")

    def _account(self, name: str) -> Account:
        account = self.accounts.get(name)
        if account is None:
            account = self.accounts[name] = Account(name, kind_of(name))
            self.opened.append(account)
        return account

    def _hold(self, hold_id: str) -> Hold:
        hold = self.holds.get(hold_id)
        if hold is None:
            raise NotFound(f"no hold {hold_id!r}")
        return hold

    def _open_hold(self, hold_id: str) -> Hold:
        hold = self._hold(hold_id)
        if not hold.is_open:
            raise _closed(hold_id)
        return hold


def check_id(text: str, what: str) -> None:
    """Ids are text of 1 to 200 printable characters. Raises `InvalidInput`."""
    if not 0 < len(text) <= MAX_ID or not text.isprintable():
        raise InvalidInput(f"{what} must have 1 to {MAX_ID} printable characters")


def _closed(hold_id: str) -> HoldClosed:
    return HoldClosed(f"hold {hold_id!r} was released")


def _same(known: Posting, posting: Posting) -> None:
    if known != posting:
        raise IdReused(f"posting {posting.id!r} was made with another amount or account")


def _check_amount(amount: int, *, at_least: int) -> None:
    if amount < at_least:
        raise InvalidInput(f"amount {format_amount(amount)} DCC is too small: it must be {'more than ' * at_least}0")
    if amount > MAX_AMOUNT:
        raise InvalidInput(f"amount {format_amount(amount)} DCC is too large: at most {format_amount(MAX_AMOUNT)}")


def _not_enough(account: str, needed: int, available: int) -> NotEnoughFunds:
    return NotEnoughFunds(
        f"account {account} has {format_amount(available)} DCC but {format_amount(needed)} DCC are needed",
        info={"account": account, "needed": format_amount(needed), "available": format_amount(available)},
    )
