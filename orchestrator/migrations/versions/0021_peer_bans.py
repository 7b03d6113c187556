"""Banned addresses and identities are known to every process, and to the operator."""

import sqlalchemy as sa
from alembic import op

revision = "0021_peer_bans"
down_revision = "0020_stamps"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "peer_bans",
        sa.Column("subject", sa.Text, primary_key=True),
        sa.Column("since", sa.Float, nullable=False),
        sa.Column("until", sa.Float, nullable=False),
        sa.Column("reason", sa.Text, nullable=False),
        sa.Column("changed_at", sa.Float, nullable=False, index=True),
    )


def downgrade() -> None:
    op.drop_table("peer_bans")
