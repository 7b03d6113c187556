"""What users ask of withdrawals: to make one, to see theirs, to take one back that was not sent yet."""

from __future__ import annotations

from typing import Any

from orchestrator.bank.amounts import format_amount
from orchestrator.bank.ethereum import store
from orchestrator.bank.ethereum.abi import NOBODY
from orchestrator.bank.ethereum.flights import Flight, State
from orchestrator.bank.ethereum.watch import Place
from orchestrator.bank.kinds import CHAIN_RESERVE, PostingKind
from orchestrator.bank.pending import NotPending, pending_id
from orchestrator.bank.service import Bank
from orchestrator.database import Transaction
from orchestrator.errors import Fault, InvalidInput, NotFound, OrchestratorError

MOST_SHOWN = 1000
TAKEN_BACK = "taken back by its payer"


class ReserveTooLow(OrchestratorError):
    """The Bank has less on the chain than is asked for. Nothing was put aside."""

    code = "ENORESERVE"
    fault = Fault.USER


class Withdrawals:
    """Each method works inside the caller's transaction. `minimum` in units."""

    def __init__(self, bank: Bank, place: Place, minimum: int) -> None:
        self._bank = bank
        self._place = place
        self.minimum = minimum

    async def request(
        self, tx: Transaction, *, transfer_id: str, source: str, destination: str, amount: int | None
    ) -> Flight:
        """Put the money aside (everything when `amount` is None); it is sent soon. The same id again: how it stands.

        The caller has checked that `source` agreed; `destination` is a checksummed address. Raises `InvalidInput`,
        `NotEnoughFunds`, `ReserveTooLow`, `IdReused`.
        """
        if destination in (NOBODY, self._place.contract, self._place.bank):
            raise InvalidInput(
                f"toAddress {destination} cannot be paid: it is the zero address, the contract's, or the Bank's own;"
                " give one whose key you have"
            )
        # One at a time, and none while the chain is carried over: what is promised is what the reserve has.
        await store.locked_cursor(tx, self._place.key, self._place.start)
        known = await store.flight(tx, pending_id(source, transfer_id))
        free = -await self._bank.balance(tx, CHAIN_RESERVE) - await store.promised(tx)
        made = await self._bank.reserve(
            tx, transfer_id=transfer_id, source=source, target=CHAIN_RESERVE, amount=amount, destination=destination
        )
        if known is not None:
            return known
        if made.amount < self.minimum:
            least = format_amount(self.minimum)
            raise InvalidInput(f"amount {format_amount(made.amount)} DCC is too small: withdraw at least {least} DCC")
        if made.amount > free:
            available = format_amount(max(free, 0))
            raise ReserveTooLow(
                f"amount {format_amount(made.amount)} DCC is more than the {available} DCC that the Bank has on the"
                " chain beside what it owes others there: withdraw less, or later",
                info={"available": available},
            )
        await store.add(tx, self._place.key, made)
        added = await store.flight(tx, made.id)
        assert added is not None
        return added

    async def cancel(self, tx: Transaction, *, source: str, transfer_id: str) -> Flight:
        """Take one back that was not sent yet; again: nothing. Raises `NotFound`, and `NotPending` once it was sent."""
        key = pending_id(source, transfer_id)
        found = await store.flight(tx, key, lock=True)
        if found is None:
            raise NotFound(f"account {source} has no withdrawal {transfer_id!r}")
        if found.state is State.FAILED:
            return found
        if found.state is not State.WAITING:
            raise NotPending(f"withdrawal {transfer_id!r} is {found.state}: only one that waits can be taken back")
        await give_back(tx, self._bank, found, TAKEN_BACK)
        taken = await store.flight(tx, key)
        assert taken is not None
        return taken

    async def of(self, tx: Transaction, account: str) -> list[Flight]:
        """The newest first."""
        return await store.flights_of(tx, account, only_open=False, most=MOST_SHOWN)


async def give_back(tx: Transaction, bank: Bank, one: Flight, reason: str) -> None:
    """End a withdrawal that was never sent. Its row is locked."""
    kind = PostingKind.WITHDRAWAL
    await bank.void_pending(tx, source=one.source, transfer_id=one.transfer_id, kind=kind)
    await store.fail(tx, one, reason)


def answer(one: Flight) -> dict[str, Any]:
    """A withdrawal as its owner sees it. `transaction` is the newest, or the one that decided it."""
    transaction = one.transaction or (one.last.transaction if one.attempts else None)
    return {
        "transferId": one.transfer_id,
        "fromAccount": one.source,
        "toAddress": one.destination,
        "amount": format_amount(one.amount),
        "state": one.state.value,
        "transaction": transaction,
        "nonce": one.nonce,
        "attempts": len(one.attempts),
        "block": one.block,
        "reason": one.reason,
        "madeAt": one.made_at,
    }
