"""What follows for the ledger from what a chain says. Pure.

A block counts once `confirmations` blocks lie from it to the head, itself included. Everything up to there is carried
over in order, range by range, and the last block of a range is kept with its hash: so the ledger always says what the
contract said at one block.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable

from orchestrator.bank.ethereum.abi import NOBODY, Transfer

MOST_BLOCKS = 1000
"""asked for at once; public endpoints refuse more"""


@dataclasses.dataclass(frozen=True, slots=True)
class Cursor:
    """The last block that was carried over. `hash` is empty before the first."""

    number: int
    hash: str


@dataclasses.dataclass(frozen=True, slots=True)
class Deposit:
    id: str
    account: str
    amount: int


def next_range(cursor: Cursor, head: int, confirmations: int) -> tuple[int, int] | None:
    """First and last block to carry over now."""
    first = cursor.number + 1
    last = min(head - confirmations + 1, first + MOST_BLOCKS - 1)
    return (first, last) if last >= first else None


def rewound(cursor: Cursor, confirmations: int, start: int) -> int:
    """The block to go back to when the kept one is no longer in the chain. What was credited is not credited again."""
    return max(start - 1, cursor.number - max(2 * confirmations, 1))


def deposits(transfers: Iterable[Transfer], bank: str) -> list[Deposit]:
    """Whom to credit for what came to the Bank: who sent it; what was made there is the Bank's own.

    The id outlives a reorganisation: the transaction, and which of its transfers to the Bank it was. (The place in the
    block's log changes when the transaction moves to another block.)
    """
    found: list[Deposit] = []
    seen: dict[str, int] = {}
    for one in sorted(transfers, key=lambda one: (one.block, one.log_index)):
        if one.target != bank or one.source == bank:
            continue
        place = seen[one.transaction] = seen.get(one.transaction, -1) + 1
        if one.amount:
            account = bank if one.source == NOBODY else one.source
            found.append(Deposit(f"{one.transaction}:{place}", account, one.amount))
    return found
