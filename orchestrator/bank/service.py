"""The Bank: what the rest of the system calls. Each method works inside the caller's transaction.

A change of state and the payment for it are one transaction: the caller opens it, calls the Bank, writes its own rows,
and commits. When a method raises it has changed nothing; when the caller is cancelled or rolls back, nothing happened.
"""

from __future__ import annotations

import dataclasses
import time
import uuid
from collections.abc import Callable, Collection, Mapping, Sequence

from orchestrator.bank import auditing, ledger, store
from orchestrator.bank.auditing import Audit
from orchestrator.bank.chain import Lane, Posting
from orchestrator.bank.kinds import CHAIN_RESERVE, FEES, ISSUANCE, AccountKind, PostingKind
from orchestrator.bank.ledger import Account, Book, Payment, Wanted
from orchestrator.bank.pending import Pending, pending_id
from orchestrator.database import Transaction
from orchestrator.errors import OrchestratorError


@dataclasses.dataclass(frozen=True, slots=True)
class Line:
    """A posting as one of its accounts sees it."""

    key: int
    """Grows from posting to posting; says where the next part of a statement begins."""
    id: str
    kind: PostingKind
    other: str
    """The other account."""
    change: int
    """Units; negative where the account gave."""
    balance: int
    """Of the account, after it."""
    posted_at: float


@dataclasses.dataclass(frozen=True, slots=True)
class Moved:
    """What a transfer moved, and what its source had right after (now, when it was made before). Units."""

    amount: int
    balance: int


class Bank:
    """Stateless: any number of them may work on one database. `clock` gives seconds since 1970, for the records."""

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock

    async def hold(self, tx: Transaction, *, hold_id: str, account: str, amount: int) -> bool:
        """Put `amount` units of an account aside for a job. False when this very hold exists already.

        Raises `NotEnoughFunds` (`info`: `needed` and `available`, decimal DCC), or `IdReused` when a hold of that id
        has another owner or amount.
        """
        # The account first: of two that make the same hold at once, the second sees it.
        names = (account, ledger.escrow_account(hold_id))
        book = await store.load(tx, names=names, hold_ids=[hold_id], posting_ids=[ledger.hold_posting_id(hold_id)])
        made = book.hold(hold_id, account, amount)
        await self._save(tx, book)
        return made

    async def add_to_hold(self, tx: Transaction, *, hold_id: str, amount: int, transfer_id: str | None = None) -> bool:
        """Put more aside, from the hold's owner. With a `transfer_id` it happens once; False when it had.

        Raises `NotEnoughFunds`, `NotFound`, `HoldClosed`, `IdReused`.
        """
        transfer_id = transfer_id if transfer_id is not None else uuid.uuid4().hex
        posting_ids = [ledger.top_up_posting_id(hold_id, transfer_id)]
        book = await store.load(tx, hold_ids=[hold_id], with_owner=True, posting_ids=posting_ids)
        added = book.add_to_hold(hold_id, transfer_id, amount)
        await self._save(tx, book)
        return added

    async def pay(self, tx: Transaction, *, hold_id: str, payments: Sequence[Payment]) -> int:
        """Pay out of a hold; see `pay_all`."""
        return await self.pay_all(tx, {hold_id: payments})

    async def pay_all(self, tx: Transaction, due: Mapping[str, Sequence[Payment]]) -> int:
        """Pay out of holds, all or none: ten statements, however many holds and payments. Returns the units that moved
        now.

        A payment whose `transfer_id` was paid out of its hold before is left out, as is one of 0.
        Raises `NotEnoughFunds` when a hold holds less, `NotFound`, `HoldClosed`, `IdReused`.
        """
        names, posting_ids = set(), set()
        for hold_id, payments in due.items():
            prefix = ledger.payment_posting_id(hold_id, "")
            for payment in payments:
                names.add(payment.payee)
                posting_ids.add(prefix + payment.transfer_id)
        book = await store.load(tx, payees=names, hold_ids=due, posting_ids=posting_ids)
        paid = sum(book.pay(hold_id, payments) for hold_id, payments in due.items())
        await self._save(tx, book)
        return paid

    async def release_part(self, tx: Transaction, *, hold_id: str, amount: int, transfer_id: str) -> bool:
        """Give an amount of a hold back to its owner; the hold stays open. Happens once; False when it had.

        Raises `NotEnoughFunds`, `NotFound`, `HoldClosed`, `IdReused`.
        """
        posting_ids = [ledger.part_release_posting_id(hold_id, transfer_id)]
        book = await store.load(tx, hold_ids=[hold_id], with_owner=True, posting_ids=posting_ids)
        given = book.release_part(hold_id, transfer_id, amount)
        await self._save(tx, book)
        return given

    async def release(self, tx: Transaction, hold_id: str) -> int:
        """Give what is left of a hold back to its owner and close it for good. Returns the units; 0 the second time.

        Raises `NotFound`.
        """
        book = await store.load(tx, hold_ids=[hold_id], with_owner=True)
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

    async def transfers(self, tx: Transaction, wanted: Sequence[Wanted]) -> list[Moved | OrchestratorError]:
        """Many transfers in their order, with as many statements as one.

        One that is refused, as `transfer` would refuse it, is answered by its error and stops no other.
        """
        names = {name for one in wanted for name in (one.source, one.target)}
        posting_ids = {ledger.transfer_posting_id(one.source, one.transfer_id) for one in wanted}
        book = await store.load(tx, names=names, posting_ids=posting_ids)
        outcomes: list[Moved | OrchestratorError] = []
        for one in wanted:
            try:
                posting = book.transfer(one.transfer_id, one.source, one.target, one.amount)
                outcomes.append(Moved(posting.amount, book.balance(one.source)))
            except OrchestratorError as error:
                outcomes.append(error)
        await self._save(tx, book)
        return outcomes

    async def open_account_with_credit(self, tx: Transaction, account: str, credit: int) -> bool:
        """Give an account `credit` new units the first time it is seen. False ever after.

        "Seen" means by this method: an account that was paid before gets its credit too.
        """
        book = await store.load(tx, names=(account, ISSUANCE), posting_ids=[ledger.credit_posting_id(account)])
        given = book.credit(account, credit)
        await self._save(tx, book)
        return given

    async def issue(self, tx: Transaction, *, issue_id: str, account: str, amount: int) -> bool:
        """Make new money for an account. The same id again: False. Raises `IdReused`, `InvalidInput`."""
        return await self._move(tx, issue_id, Posting("", PostingKind.ISSUE, ISSUANCE, account, amount))

    async def charge(self, tx: Transaction, *, fee_id: str, account: str, amount: int) -> bool:
        """A fee, from an account to the operator's fees. The same id again: False.

        Raises `NotEnoughFunds`, `IdReused`, `InvalidInput`.
        """
        return await self._move(tx, fee_id, Posting("", PostingKind.FEE, account, FEES, amount))

    async def pay_out(self, tx: Transaction, *, payout_id: str, account: str, amount: int) -> bool:
        """From the operator's fees to an account. The same id again: False.

        Raises `NotEnoughFunds`, `IdReused`, `InvalidInput`.
        """
        return await self._move(tx, payout_id, Posting("", PostingKind.PAYOUT, FEES, account, amount))

    async def deposit(self, tx: Transaction, *, deposit_id: str, account: str, amount: int) -> bool:
        """What came in from an outside chain. The same id again: False. Raises `IdReused`, `InvalidInput`.

        A withdrawal is a pending transfer (`reserve` with a destination): posted once it is final there.
        """
        return await self._move(tx, deposit_id, Posting("", PostingKind.DEPOSIT, CHAIN_RESERVE, account, amount))

    async def reserve(
        self,
        tx: Transaction,
        *,
        transfer_id: str,
        source: str,
        target: str,
        amount: int | None,
        expires_in: float | None = None,
        destination: str | None = None,
    ) -> Pending:
        """The first step of a transfer in two: put the amount (everything when None) aside.

        To the chain reserve it is a withdrawal, to an address there. After `expires_in` seconds (None: never) it can
        only become void. Made before with the same id: what it is now. Ids of pending transfers are apart from those of
        others.

        Raises `NotEnoughFunds`, `IdReused`, `InvalidInput`.
        """
        ledger.check_id(transfer_id, "transfer id")
        key = pending_id(source, transfer_id)
        book = await store.load(tx, names=(source,), payees=(target,))
        known = await store.pending_transfer(tx, key)  # after the lock: of two at once, the second sees the first's
        if known is not None:
            book.pending[key] = known
        if amount is None:
            amount = known.amount if known is not None else max(book.balance(source), 1)
        kind = PostingKind.WITHDRAWAL if target == CHAIN_RESERVE else PostingKind.TRANSFER
        now = self._clock()
        expires_at = None if expires_in is None else now + expires_in
        book.reserve(Pending(key, kind, source, target, amount, now, expires_at, destination=destination))
        await self._save(tx, book)
        return book.pending[key]

    async def post_pending(
        self, tx: Transaction, *, source: str, transfer_id: str, kind: PostingKind = PostingKind.TRANSFER
    ) -> Pending:
        """Carry a pending transfer out; again: nothing.

        Raises `NotFound`, `NotPending` (void, or too late), `NotPermitted` when it is of another kind: about a
        withdrawal the chain decides, and nobody who asks for it.
        """
        key = pending_id(source, transfer_id)
        book = await store.load(tx, pending_id=key)
        book.post_pending(key, self._clock(), kind)
        await self._save(tx, book)
        return book.pending[key]

    async def void_pending(
        self, tx: Transaction, *, source: str, transfer_id: str, kind: PostingKind = PostingKind.TRANSFER
    ) -> Pending:
        """Give the money of a pending transfer back; again: nothing.

        Raises `NotFound`, `NotPending` (posted), `NotPermitted` when it is of another kind.
        """
        key = pending_id(source, transfer_id)
        book = await store.load(tx, pending_id=key)
        book.void_pending(key, self._clock(), kind)
        await self._save(tx, book)
        return book.pending[key]

    async def pending_transfer(self, tx: Transaction, *, source: str, transfer_id: str) -> Pending | None:
        return await store.pending_transfer(tx, pending_id(source, transfer_id))

    async def pending_of(self, tx: Transaction, account: str) -> list[Pending]:
        """What of an account waits to be posted or void."""
        return await store.pending_of(tx, account)

    async def expire(self, tx: Transaction, most: int = 100) -> int:
        """Make pending transfers void whose time is over; how many. Several processes may do so at once."""
        now = self._clock()
        over = await store.due(tx, now, most)
        for key in over:
            book = await store.load(tx, pending_id=key)
            book.void_pending(key, now)
            await self._save(tx, book)
        return len(over)

    async def next_expiry(self, tx: Transaction) -> float | None:
        """When the next pending transfer expires, seconds since 1970."""
        return await store.next_expiry(tx)

    async def balance(self, tx: Transaction, account: str) -> int:
        """Units; 0 for an account that nobody opened."""
        return (await self.balances(tx, [account]))[account]

    async def balances(self, tx: Transaction, accounts: Sequence[str]) -> dict[str, int]:
        """Units of each account."""
        found = await store.balances(tx, accounts)
        return {account: found.get(account, 0) for account in accounts}

    async def accounts(
        self, tx: Transaction, kinds: Collection[AccountKind], *, after: int = 0, most: int = 1000
    ) -> list[Account]:
        """Accounts of these kinds as they were opened, after the one with the key `after`."""
        return await store.some_accounts(tx, kinds, after, most)

    async def statement(
        self,
        tx: Transaction,
        account: str,
        *,
        before: int | None = None,
        most: int = 100,
    ) -> list[Line]:
        """The newest postings of an account, or the newest before a line, the newest first.

        Costs as much as the account has postings that are newer. Run it in a snapshot.
        """
        found = await store.postings_of(tx, account, before=before, most=most)
        if not found:
            return []
        balance = await self.balance(tx, account) - await store.net_after(tx, account, found[0][0])
        lines = []
        for key, posting, posted_at in found:
            gave = posting.source == account
            other, change = (posting.target, -posting.amount) if gave else (posting.source, posting.amount)
            lines.append(Line(key, posting.id, posting.kind, other, change, balance, posted_at))
            balance -= change
        return lines

    async def held(self, tx: Transaction, hold_id: str) -> int:
        """Units that a hold still holds; 0 when it is released or unknown."""
        return await self.balance(tx, ledger.escrow_account(hold_id))

    async def open_holds(self, tx: Transaction, account: str) -> tuple[int, int]:
        """How many holds of an account are open, and the units in them."""
        amounts = await store.open_holds(tx, account)
        return len(amounts), sum(amounts)

    async def totals(self, tx: Transaction) -> tuple[int, int, int]:
        """How many holds are open, the units in them, and how many transfers are pending."""
        return await store.totals(tx)

    async def audit(self, tx: Transaction, noted: Sequence[Lane] = ()) -> Audit:
        """Recompute everything from the postings; see `auditing`. Run it in a snapshot, so that it sees one moment."""
        return await auditing.audit(tx, noted)

    async def adopt(self, tx: Transaction) -> int:
        """Chain the postings and empty holds that an elder version made without; how many there were."""
        return await store.adopt(tx)

    async def _move(self, tx: Transaction, given_id: str, posting: Posting) -> bool:
        ledger.check_id(given_id, f"{posting.kind} id")
        posting = dataclasses.replace(posting, id=f"{posting.kind}:{given_id}")
        book = await store.load(tx, names=(posting.source, posting.target), posting_ids=[posting.id])
        moved = book.move(posting)
        await self._save(tx, book)
        return moved

    async def _save(self, tx: Transaction, book: Book) -> None:
        await store.save(tx, book, self._clock())
