"""Ended jobs know when what they left was dropped."""

import sqlalchemy as sa
from alembic import op

revision = "0011_retention"
down_revision = "0010_market"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("jobs", sa.Column("events_dropped_at", sa.Float))
    op.add_column("jobs", sa.Column("dropped_at", sa.Float))
    op.create_index("ix_jobs_ended_at", "jobs", ["ended_at"])


def downgrade() -> None:
    op.drop_index("ix_jobs_ended_at", "jobs")
    op.drop_column("jobs", "dropped_at")
    op.drop_column("jobs", "events_dropped_at")
