"""Stamps of requests are known to every process."""

import sqlalchemy as sa
from alembic import op

revision = "0020_stamps"
down_revision = "0019_owner_accounts"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "stamps",
        sa.Column("stamp", sa.Text, primary_key=True),
        sa.Column("used_by", sa.Text, nullable=False),
        sa.Column("stale_at", sa.Float, nullable=False, index=True),
    )


def downgrade() -> None:
    op.drop_table("stamps")
