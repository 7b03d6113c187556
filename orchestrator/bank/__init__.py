"""The Bank: a ledger of integer amounts, holds for jobs, transfers in two steps, and the teller service."""

from orchestrator.bank.auditing import Audit
from orchestrator.bank.ledger import HoldClosed, IdReused, Payment
from orchestrator.bank.pending import NotPending, Pending, PendingState
from orchestrator.bank.service import Bank

__all__ = ["Audit", "Bank", "HoldClosed", "IdReused", "NotPending", "Payment", "Pending", "PendingState"]
