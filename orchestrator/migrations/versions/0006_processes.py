"""What processes that share a database know of each other; sessions that outlive a process."""

import sqlalchemy as sa
from alembic import op

revision = "0006_processes"
down_revision = "0005_lease_requests"
branch_labels = None
depends_on = None


def upgrade() -> None:
    unlogged = ["UNLOGGED"] if op.get_context().dialect.name == "postgresql" else []
    op.create_table(
        "processes",
        sa.Column("id", sa.Text, primary_key=True),
        sa.Column("place", sa.Text, nullable=False),
        sa.Column("version", sa.Text, nullable=False),
        sa.Column("started_at", sa.Float, nullable=False),
        sa.Column("seen_at", sa.Float, nullable=False),
    )
    op.create_table(
        "sessions",
        sa.Column("dcpsid", sa.Text, primary_key=True),
        sa.Column("process", sa.Text, nullable=False),
        sa.Column("service", sa.Text, nullable=False),
        sa.Column("peer", sa.Text, nullable=False),
        sa.Column("token", sa.Text, nullable=False),
        sa.Column("message_id", sa.Text, nullable=False),
        sa.Column("nonce", sa.Text, nullable=False),
        sa.Column("at", sa.Float, nullable=False),
        prefixes=unlogged,
    )
    op.create_table(
        "present_workers",
        sa.Column("worker", sa.Text, primary_key=True),
        sa.Column("process", sa.Text, nullable=False),
        sa.Column("seen", sa.Text, nullable=False),
        sa.Column("at", sa.Float, nullable=False, index=True),
        prefixes=unlogged,
    )
    op.create_table(
        "facts",
        sa.Column("name", sa.Text, primary_key=True),
        sa.Column("value", sa.Text, nullable=False),
    )


def downgrade() -> None:
    for table in ("facts", "present_workers", "sessions", "processes"):
        op.drop_table(table)
