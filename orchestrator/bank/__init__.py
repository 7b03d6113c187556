"""The Bank: a ledger of integer amounts, holds for jobs, and the teller service."""

from orchestrator.bank.ledger import HoldClosed, IdReused, Payment
from orchestrator.bank.service import Audit, Bank

__all__ = ["Audit", "Bank", "HoldClosed", "IdReused", "Payment"]
