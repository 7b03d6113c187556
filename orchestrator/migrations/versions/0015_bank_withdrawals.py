"""Withdrawals to a chain: on their way, every transaction that was signed for them, and the nonces"""

import sqlalchemy as sa
from alembic import op

revision = "0015_bank_withdrawals"
down_revision = "0014_bank_terms"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "bank_withdrawals",
        sa.Column("id", sa.Text, sa.ForeignKey("bank_pending.id"), primary_key=True),
        sa.Column("place", sa.Text, nullable=False),
        sa.Column("state", sa.Text, nullable=False),
        sa.Column("made_at", sa.Float, nullable=False),
        sa.Column("sender", sa.Text),
        sa.Column("nonce", sa.BigInteger),
        sa.Column("block", sa.BigInteger),
        sa.Column("txhash", sa.Text),
        sa.Column("reason", sa.Text),
        sa.UniqueConstraint("sender", "nonce", name="uq_bank_withdrawals_nonce"),
        sa.CheckConstraint("state IN ('waiting', 'sent', 'done', 'failed')", name="ck_bank_withdrawals_state"),
        sa.CheckConstraint("state IN ('waiting', 'failed') OR nonce IS NOT NULL", name="ck_bank_withdrawals_sent"),
    )
    where = sa.text("state IN ('waiting', 'sent')")
    op.create_index(
        "ix_bank_withdrawals_open", "bank_withdrawals", ["place"], sqlite_where=where, postgresql_where=where
    )
    op.create_table(
        "bank_withdrawal_attempts",
        sa.Column("withdrawal", sa.Text, sa.ForeignKey("bank_withdrawals.id"), primary_key=True),
        sa.Column("number", sa.Integer, primary_key=True),
        sa.Column("txhash", sa.Text, nullable=False, unique=True),
        sa.Column("raw", sa.LargeBinary, nullable=False),
        sa.Column("gas", sa.BigInteger, nullable=False),
        sa.Column("most_fee", sa.BigInteger, nullable=False),
        sa.Column("tip", sa.BigInteger),
        sa.Column("signed_at", sa.Float, nullable=False),
    )
    op.create_table(
        "bank_chain_senders",
        sa.Column("id", sa.Text, primary_key=True),
        sa.Column("next_nonce", sa.BigInteger, nullable=False),
    )
    op.create_index(
        "ix_bank_holds_open",
        "bank_holds",
        ["account"],
        sqlite_where=sa.text("is_open = 1"),
        postgresql_where=sa.text("is_open"),
    )


def downgrade() -> None:
    op.drop_index("ix_bank_holds_open", "bank_holds")
    for table in ("bank_chain_senders", "bank_withdrawal_attempts", "bank_withdrawals"):
        op.drop_table(table)
