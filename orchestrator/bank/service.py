"""The Bank: what the rest of the system calls. Each method works inside the caller's transaction.

A change of state and the payment for it are one transaction: the caller opens it, calls the Bank, writes its own rows,
and commits. When a method raises it has changed nothing; when the caller is cancelled or rolls back, nothing happened.
"""

from __future__ import annotations

import dataclasses
import time
import uuid
from collections.abc import Callable, Sequence

from orchestrator.bank import ledger, store
from orchestrator.bank.amounts import format_amount
from orchestrator.bank.ledger import AccountKind, Book, Payment, Posting
from orchestrator.database import Transaction


@dataclasses.dataclass(frozen=True)
class Audit:
    """What a recomputation of the whole ledger found."""

    accounts: int
    postings: int
    open_holds: int
    issued: int
    """Units of all money in the accounts of people and jobs."""
    problems: tuple[str, ...]
    """Empty when every balance is the sum of its postings and every rule holds."""


class Bank:
    """Stateless: any number of them may work on one database. `clock` gives seconds since 1970, for the records."""

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock

    async def hold(self, tx: Transaction, *, hold_id: str, account: str, amount: int) -> bool:
        """Put `amount` units of an account aside for a job. False when this very hold exists already.

        Raises `NotEnoughFunds` (`info`: `needed` and `available`, decimal DCC), or `IdReused` when a hold of that id
        has another owner or amount.
        """
        names = (account, ledger.escrow_account(hold_id))
        book = await store.load(tx, names=names, hold_id=hold_id, posting_ids=[ledger.hold_posting_id(hold_id)])
        made = book.hold(hold_id, account, amount)
        await self._save(tx, book)
        return made

    async def add_to_hold(self, tx: Transaction, *, hold_id: str, amount: int, transfer_id: str | None = None) -> bool:
        """Put more aside, from the hold's owner. With a `transfer_id` it happens once; False when it had.

        Raises `NotEnoughFunds`, `NotFound`, `HoldClosed`, `IdReused`.
        """
        transfer_id = transfer_id if transfer_id is not None else uuid.uuid4().hex
        posting_ids = [ledger.top_up_posting_id(hold_id, transfer_id)]
        book = await store.load(tx, hold_id=hold_id, with_owner=True, posting_ids=posting_ids)
        added = book.add_to_hold(hold_id, transfer_id, amount)
        await self._save(tx, book)
        return added

    async def pay(self, tx: Transaction, *, hold_id: str, payments: Sequence[Payment]) -> int:
        """Pay out of a hold, all or none: eight statements, however many payments. Returns the units that moved now.

        A payment whose `transfer_id` was paid out of this hold before is left out, as is one of 0.
        Raises `NotEnoughFunds` when the hold holds less, `NotFound`, `HoldClosed`, `IdReused`.
        """
        names = {payment.payee for payment in payments}
        prefix = ledger.payment_posting_id(hold_id, "")
        posting_ids = {prefix + payment.transfer_id for payment in payments}
        book = await store.load(tx, names=names, hold_id=hold_id, posting_ids=posting_ids)
        paid = book.pay(hold_id, payments)
        await self._save(tx, book)
        return paid

    async def release(self, tx: Transaction, hold_id: str) -> int:
        """Give what is left of a hold back to its owner and close it for good. Returns the units; 0 the second time.

        Raises `NotFound`.
        """
        book = await store.load(tx, hold_id=hold_id, with_owner=True)
        rest = book.release(hold_id)
        await self._save(tx, book)
        return rest

    async def transfer(
        self, tx: Transaction, *, transfer_id: str, source: str, target: str, amount: int | None
    ) -> Posting:
        """Move an amount between two accounts, everything when it is None. The same id again: what was moved then.

        The caller has checked that `source` agreed. Raises `NotEnoughFunds`, `IdReused`, `InvalidInput`.
        """
        posting_ids = [ledger.transfer_posting_id(source, transfer_id)]
        book = await store.load(tx, names=(source, target), posting_ids=posting_ids)
        posting = book.transfer(transfer_id, source, target, amount)
        await self._save(tx, book)
        return posting

    async def open_account_with_credit(self, tx: Transaction, account: str, credit: int) -> bool:
        """Give an account `credit` new units the first time it is seen. False ever after.

        "Seen" means by this method: an account that was paid before gets its credit too.
        """
        names = (account, ledger.ISSUANCE)
        book = await store.load(tx, names=names, posting_ids=[ledger.credit_posting_id(account)])
        given = book.credit(account, credit)
        await self._save(tx, book)
        return given

    async def balance(self, tx: Transaction, account: str) -> int:
        """Units; 0 for an account that nobody opened."""
        return (await self.balances(tx, [account]))[account]

    async def balances(self, tx: Transaction, accounts: Sequence[str]) -> dict[str, int]:
        """Units of each account."""
        found = await store.balances(tx, accounts)
        return {account: found.get(account, 0) for account in accounts}

    async def held(self, tx: Transaction, hold_id: str) -> int:
        """Units that a hold still holds; 0 when it is released or unknown."""
        return await self.balance(tx, ledger.escrow_account(hold_id))

    async def open_holds(self, tx: Transaction, account: str) -> tuple[int, int]:
        """How many holds of an account are open, and the units in them."""
        amounts = await store.open_holds(tx, account)
        return len(amounts), sum(amounts)

    async def audit(self, tx: Transaction) -> Audit:
        """Recompute every balance from the postings and check every rule; reads the whole ledger, changes nothing.

        Run it in a snapshot, so that it sees one moment.
        """
        expected, count = await store.posted(tx)
        problems: list[str] = []
        kinds: dict[int, AccountKind] = {}
        balances: dict[int, int] = {}
        async for key, account in store.all_accounts(tx):
            kinds[key], balances[key] = account.kind, account.balance
            sum_of_postings = expected.pop(key, 0)
            if account.balance != sum_of_postings:
                problems.append(
                    f"account {account.name} says {format_amount(account.balance)} DCC,"
                    f" its postings {format_amount(sum_of_postings)} DCC"
                )
            if account.balance < 0 and not account.may_owe:
                problems.append(f"account {account.name} is below zero: {format_amount(account.balance)} DCC")
        problems.extend(f"postings name account number {key}, which does not exist" for key in expected)
        if sum(balances.values()) != 0:
            problems.append(f"all accounts together hold {format_amount(sum(balances.values()))} DCC, not 0")
        escrows = {key for key, kind in kinds.items() if kind is AccountKind.ESCROW}
        open_holds = 0
        for hold_id, key, is_open in await store.all_holds(tx):
            open_holds += is_open
            if key not in escrows:
                problems.append(f"hold {hold_id} has no escrow account of its own")
            elif not is_open and balances[key] != 0:
                problems.append(f"hold {hold_id} is released but holds {format_amount(balances[key])} DCC")
            escrows.discard(key)
        problems.extend(f"escrow account number {key} belongs to no hold" for key in sorted(escrows))
        issued = -sum(balance for key, balance in balances.items() if kinds[key] is AccountKind.ISSUANCE)
        return Audit(len(kinds), count, open_holds, issued, tuple(problems))

    async def _save(self, tx: Transaction, book: Book) -> None:
        await store.save(tx, book, self._clock())
