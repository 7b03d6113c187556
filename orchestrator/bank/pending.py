"""Transfers in two steps: the money is reserved first, then the transfer is posted, or void and the money goes back.

What is reserved lies in an account of its own, so it cannot be spent twice. A pending transfer changes once, to one of
its two ends, and never again.
"""

from __future__ import annotations

import dataclasses
import enum
import json

from orchestrator.bank.kinds import PostingKind
from orchestrator.errors import Fault, OrchestratorError


class PendingState(enum.StrEnum):
    PENDING = "pending"
    POSTED = "posted"
    VOID = "void"


class NotPending(OrchestratorError):
    """The transfer was posted, or is void, and cannot become the other; or its time was over. Nothing was moved."""

    code = "ENOTPENDING"
    fault = Fault.USER


@dataclasses.dataclass(slots=True)
class Pending:
    """`amount` of `source` waits to go to `target`, or back."""

    id: str
    """`pending_id` of the account and the id that the client made."""
    kind: PostingKind
    """Of the posting that ends it well: a transfer or a withdrawal."""
    source: str
    target: str
    amount: int
    made_at: float
    expires_at: float | None = None
    """Seconds since 1970; None: it waits for ever."""
    state: PendingState = PendingState.PENDING
    settled_at: float | None = None
    destination: str | None = None
    """Where a withdrawal goes on the outside chain: an address there."""

    @property
    def terms(self) -> str:
        """What was agreed besides payer and amount. It goes into the chain of hashes with the posting that puts the
        money aside, so nobody can send it elsewhere, or earlier, and not be found out."""
        expires_at = None if self.expires_at is None else repr(float(self.expires_at))
        return json.dumps([self.kind.value, self.target, expires_at, self.destination], separators=(",", ":"))

    @property
    def account(self) -> str:
        return pending_account(self.id)

    def is_over(self, now: float) -> bool:
        """Whether its time has come while it was still pending."""
        return self.state is PendingState.PENDING and self.expires_at is not None and now >= self.expires_at


def pending_id(source: str, transfer_id: str) -> str:
    """Ids that clients make count per account."""
    return f"{source}:{transfer_id}"


def pending_account(pending: str) -> str:
    return f"pending:{pending}"


def reserve_posting_id(pending: str) -> str:
    return f"reserve:{pending}"


def posted_posting_id(pending: str) -> str:
    return f"posted:{pending}"


def void_posting_id(pending: str) -> str:
    return f"void:{pending}"
