"""Withdrawals on their way to the chain: what they are, how they may change, what they pay for gas. Pure.

    waiting ──► sent ──► done        a reorganisation deeper than the confirmations: done ──► sent
       └──────────┴────► failed

A withdrawal gets a nonce when it is sent first, and keeps it: whatever is sent again, with whatever fee, at most one
transaction of that nonce is ever in the chain. The money is put aside while it waits or is sent; `done` posts the
pending transfer, `failed` voids it.
"""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Mapping
from typing import Final

from orchestrator.bank.ethereum.transactions import Fees

MOST_IN_FLIGHT: Final = 16
"""sent and in no block yet; nodes keep few transactions of one address waiting"""
_RAISE: Final = (9, 8)
"""how much more a transaction must pay to take the place of another: nodes want a tenth"""
GWEI: Final = 10**9


class State(enum.StrEnum):
    WAITING = "waiting"
    SENT = "sent"
    DONE = "done"
    FAILED = "failed"


STEPS: Final[Mapping[State, frozenset[State]]] = {
    State.WAITING: frozenset({State.SENT, State.FAILED}),
    State.SENT: frozenset({State.DONE, State.FAILED}),
    State.DONE: frozenset({State.SENT}),
    State.FAILED: frozenset(),
}


@dataclasses.dataclass(frozen=True, slots=True)
class Attempt:
    """One signed transaction of a withdrawal. It is kept before it is sent."""

    number: int
    transaction: str
    """Its hash."""
    raw: bytes
    gas: int
    fees: Fees
    signed_at: float


@dataclasses.dataclass(frozen=True, slots=True)
class Flight:
    """A withdrawal: `amount` units of `source` go to `destination`, an address on the chain."""

    id: str
    """Of its pending transfer."""
    source: str
    destination: str
    amount: int
    state: State
    made_at: float
    nonce: int | None = None
    attempts: tuple[Attempt, ...] = ()
    """In order."""
    block: int | None = None
    """Where it is, once that is final."""
    transaction: str | None = None
    """The one that decided it."""
    reason: str | None = None
    """Why it failed."""

    @property
    def transfer_id(self) -> str:
        """As its client called it."""
        return self.id.removeprefix(f"{self.source}:")

    @property
    def last(self) -> Attempt:
        return self.attempts[-1]

    def validate(self) -> None:
        """Raise AssertionError when it cannot be as it is."""
        sent = self.nonce is not None
        assert sent or not self.attempts, f"withdrawal {self.id}: what is sent has a nonce"
        assert sent or self.state in (State.WAITING, State.FAILED), f"withdrawal {self.id} is {self.state} but unsent"
        assert not sent or self.state is not State.WAITING, f"withdrawal {self.id} is sent but waits"
        assert (self.reason is not None) == (self.state is State.FAILED), f"withdrawal {self.id} fails without reason"
        numbers = [one.number for one in self.attempts]
        assert numbers == list(range(1, len(numbers) + 1)), f"withdrawal {self.id} lacks an attempt"

    def story(self) -> list[tuple[float, str]]:
        """What happened to it, and when."""
        told = [(self.made_at, f"asked for, to {self.destination}")]
        told += [
            (one.signed_at, f"signed as {one.transaction}, nonce {self.nonce}, at most {one.fees.most / GWEI:g} gwei")
            for one in self.attempts
        ]
        return told


@dataclasses.dataclass(frozen=True, slots=True)
class Outcome:
    """How a withdrawal ended on the chain. `reason` is None when it was paid."""

    flight: Flight
    transaction: str | None
    block: int
    reason: str | None = None


def limited(fees: Fees, most: int) -> Fees:
    """Not above `most` wei per gas."""
    return Fees(min(fees.most, most), None if fees.tip is None else min(fees.tip, most))


def raised(before: Fees, now: Fees, most: int) -> Fees | None:
    """What a transaction pays that takes another's place: what is usual now, and enough more than before. None when
    that is more than `most`."""

    def more(amount: int) -> int:
        return amount * _RAISE[0] // _RAISE[1] + 1

    at_least = Fees(more(before.most), None if before.tip is None else more(before.tip))
    if at_least.most > most:
        return None
    if before.tip is None or now.tip is None or at_least.tip is None:  # a chain that changes stays with its first form
        return limited(Fees(max(at_least.most, now.most), at_least.tip), most)
    tip = max(at_least.tip, now.tip)
    return limited(Fees(max(at_least.most, now.most, tip), tip), most)
