"""The Bank: a ledger of integer amounts, holds for jobs, and the teller service."""
