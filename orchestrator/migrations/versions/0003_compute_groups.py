"""Compute groups, and what they take of the wages of a lease."""

import sqlalchemy as sa
from alembic import op

revision = "0003_compute_groups"
down_revision = "0002_scheduler"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "compute_groups",
        sa.Column("id", sa.Text, primary_key=True),
        sa.Column("owner", sa.Text, nullable=False, index=True),
        sa.Column("join_key", sa.Text, unique=True),
        sa.Column("join_hash", sa.Text),
        sa.Column("join_address", sa.Text),
        sa.Column("terms", sa.Text, nullable=False),
        sa.Column("created_at", sa.Float, nullable=False),
    )
    op.create_index("ix_job_groups_group", "job_groups", ["group_id"])
    op.add_column("leases", sa.Column("commissions", sa.Text))


def downgrade() -> None:
    op.drop_column("leases", "commissions")
    op.drop_index("ix_job_groups_group", "job_groups")
    op.drop_table("compute_groups")
