"""How far the ledger has followed a chain."""

import sqlalchemy as sa
from alembic import op

revision = "0012_bank_ethereum"
down_revision = "0011_retention"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "bank_chain_cursors",
        sa.Column("id", sa.Text, primary_key=True),
        sa.Column("number", sa.BigInteger, nullable=False),
        sa.Column("block_hash", sa.Text, nullable=False),
    )


def downgrade() -> None:
    op.drop_table("bank_chain_cursors")
