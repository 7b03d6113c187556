"""Jobs know how much their owner has sent for them."""

import sqlalchemy as sa
from alembic import op

revision = "0016_input_characters"
down_revision = "0015_bank_withdrawals"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("jobs", sa.Column("input_characters", sa.BigInteger, nullable=False, server_default="0"))


def downgrade() -> None:
    op.drop_column("jobs", "input_characters")
