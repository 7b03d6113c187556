"""What kinds of accounts and postings there are, and which may meet: an account says how low and how high it may go, a
posting between whom it moves money."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from typing import Final

from orchestrator.bank.amounts import MAX_AMOUNT

ISSUANCE: Final = "issuance"
"""The account that new money comes from."""
FEES: Final = "fees"
"""What the operator has taken."""
CHAIN_RESERVE: Final = "chain"
"""The other side of what lies on an outside chain: its balance is minus what the contract there holds for us."""
MAX_BALANCE: Final[int] = 9 * MAX_AMOUNT


class AccountKind(enum.StrEnum):
    ADDRESS = "address"
    """Named by its checksummed address."""
    ESCROW = "escrow"
    """Holds the money of one job."""
    PENDING = "pending"
    """Holds the money of one transfer that is not decided yet."""
    FEES = "fees"
    ISSUANCE = "issuance"
    CHAIN_RESERVE = "chain"

    @property
    def may_owe(self) -> bool:
        """Such an account is at or below zero, every other at or above."""
        return self in (AccountKind.ISSUANCE, AccountKind.CHAIN_RESERVE)

    def allows(self, balance: int) -> bool:
        return -MAX_BALANCE <= balance <= 0 if self.may_owe else 0 <= balance <= MAX_BALANCE


class PostingKind(enum.StrEnum):
    CREDIT = "credit"
    """The first money of an account, where accounts start with some."""
    ISSUE = "issue"
    """New money, by the operator."""
    TRANSFER = "transfer"
    RESERVE = "reserve"
    """The money of a pending transfer is put aside."""
    VOID = "void"
    """It goes back."""
    HOLD = "hold"
    PAYMENT = "payment"
    RELEASE = "release"
    FEE = "fee"
    PAYOUT = "payout"
    """Out of the fees, by the operator."""
    DEPOSIT = "deposit"
    """Came in from the outside chain."""
    WITHDRAWAL = "withdrawal"
    """Went out to it."""


_SINGLE: Mapping[str, AccountKind] = {
    ISSUANCE: AccountKind.ISSUANCE,
    FEES: AccountKind.FEES,
    CHAIN_RESERVE: AccountKind.CHAIN_RESERVE,
}
_PREFIXED: Mapping[str, AccountKind] = {"escrow": AccountKind.ESCROW, "pending": AccountKind.PENDING}

_Kinds = frozenset[AccountKind]
_PEOPLE: Final = frozenset({AccountKind.ADDRESS})
_ESCROW: Final = frozenset({AccountKind.ESCROW})
_PENDING: Final = frozenset({AccountKind.PENDING})
_FEES: Final = frozenset({AccountKind.FEES})
_ISSUANCE: Final = frozenset({AccountKind.ISSUANCE})
_CHAIN: Final = frozenset({AccountKind.CHAIN_RESERVE})

_BETWEEN: Mapping[PostingKind, tuple[_Kinds, _Kinds]] = {
    PostingKind.CREDIT: (_ISSUANCE, _PEOPLE),
    PostingKind.ISSUE: (_ISSUANCE, _PEOPLE),
    PostingKind.TRANSFER: (_PEOPLE | _PENDING, _PEOPLE),
    PostingKind.RESERVE: (_PEOPLE, _PENDING),
    PostingKind.VOID: (_PENDING, _PEOPLE),
    PostingKind.HOLD: (_PEOPLE, _ESCROW),
    PostingKind.PAYMENT: (_ESCROW, _PEOPLE | _FEES),
    PostingKind.RELEASE: (_ESCROW, _PEOPLE),
    PostingKind.FEE: (_PEOPLE, _FEES),
    PostingKind.PAYOUT: (_FEES, _PEOPLE),
    PostingKind.DEPOSIT: (_CHAIN, _PEOPLE),
    PostingKind.WITHDRAWAL: (_PENDING, _CHAIN),
}


def kind_of(account: str) -> AccountKind:
    """An account's name says what it is."""
    single = _SINGLE.get(account)
    if single is not None:
        return single
    prefix, colon, _ = account.partition(":")
    return _PREFIXED.get(prefix, AccountKind.ADDRESS) if colon else AccountKind.ADDRESS


def may_move(kind: PostingKind, source: AccountKind, target: AccountKind) -> bool:
    sources, targets = _BETWEEN[kind]
    return source in sources and target in targets
