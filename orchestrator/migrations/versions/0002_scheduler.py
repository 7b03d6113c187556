"""Tables of the Scheduler."""

import sqlalchemy as sa
from alembic import op

revision = "0002_scheduler"
down_revision = "0001_bank"
branch_labels = None
depends_on = None

_KEY = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    op.create_table(
        "jobs",
        sa.Column("key", _KEY, primary_key=True, autoincrement=True),
        sa.Column("id", sa.Text, nullable=False, unique=True),
        sa.Column("owner", sa.Text, nullable=False, index=True),
        sa.Column("payment_account", sa.Text, nullable=False),
        sa.Column("status", sa.Text, nullable=False),
        sa.Column("spec", sa.Text, nullable=False),
        sa.Column("input_set", sa.Text),
        sa.Column("closed", sa.Boolean, nullable=False),
        sa.Column("admitted", sa.Boolean, nullable=False),
        sa.Column("local_exec", sa.Boolean, nullable=False),
        sa.Column("slice_price", sa.Text, nullable=False),
        sa.Column("estimation_slices", sa.Integer),
        sa.Column("total", sa.BigInteger, nullable=False),
        *(
            sa.Column(name, sa.BigInteger, nullable=False, server_default="0")
            for name in ("cursor", "ready", "leased", "accepted", "failed", "measured")
        ),
        *(
            sa.Column(name, sa.Float, nullable=False, server_default="0")
            for name in ("cpu_ms", "wall_ms", "gpu_ms", "in_bytes", "out_bytes")
        ),
        sa.Column("pile_digest", sa.Text),
        sa.Column("stop_code", sa.Text),
        sa.Column("stop_reason", sa.Text),
        sa.Column("last_error", sa.Text),
        sa.Column("created_at", sa.Float, nullable=False),
        sa.Column("served_at", sa.Float, nullable=False, server_default="0"),
        sa.Column("ended_at", sa.Float),
    )
    op.create_index("ix_jobs_status", "jobs", ["status"])
    op.create_table(
        "job_groups",
        sa.Column("job", _KEY, sa.ForeignKey("jobs.key", ondelete="CASCADE"), primary_key=True),
        sa.Column("group_id", sa.Text, primary_key=True),
    )
    op.create_table(
        "slice_inputs",
        sa.Column("job", _KEY, primary_key=True),
        sa.Column("number", sa.BigInteger, primary_key=True),
        sa.Column("uri", sa.Text, nullable=False),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "slices",
        sa.Column("job", _KEY, primary_key=True),
        sa.Column("number", sa.BigInteger, primary_key=True),
        sa.Column("state", sa.Text, nullable=False),
        sa.Column("lease", _KEY, nullable=False),
        sa.Column("failures", sa.Integer, nullable=False, server_default="0"),
        sa.Column("losses", sa.Integer, nullable=False, server_default="0"),
        sa.Column("ready_at", sa.Float),
        sqlite_with_rowid=False,
    )
    for name, columns, state in (
        ("ix_slices_ready", ["job", "number"], "ready"),
        ("ix_slices_leased", ["lease"], "leased"),
    ):
        where = sa.text(f"state = '{state}'")
        op.create_index(name, "slices", columns, sqlite_where=where, postgresql_where=where)
    op.create_table(
        "slice_results",
        sa.Column("job", _KEY, primary_key=True),
        sa.Column("number", sa.BigInteger, primary_key=True),
        sa.Column("uri", sa.Text, nullable=False),
        sa.Column("lease", _KEY, nullable=False),
        sa.Column("accepted_at", sa.Float, nullable=False),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "slice_failures",
        sa.Column("job", _KEY, primary_key=True),
        sa.Column("number", sa.BigInteger, primary_key=True),
        sa.Column("worker", sa.Text, primary_key=True),
        sa.Column("reason", sa.Text, nullable=False),
        sa.Column("failed_at", sa.Float, nullable=False),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "leases",
        sa.Column("id", _KEY, primary_key=True, autoincrement=False),
        sa.Column("token", sa.Text, nullable=False),
        sa.Column("worker", sa.Text, nullable=False, index=True),
        sa.Column("peer", sa.Text, nullable=False),
        sa.Column("payment_address", sa.Text),
        sa.Column("jobs", sa.Text, nullable=False),
        sa.Column("opened_at", sa.Float, nullable=False),
        sa.Column("expires_at", sa.Float, nullable=False, index=True),
        sa.Column("ended", sa.Boolean, nullable=False),
    )
    op.create_table(
        "events",
        sa.Column("id", _KEY, primary_key=True, autoincrement=False),
        sa.Column("job", _KEY, nullable=False),
        sa.Column("label", sa.Text, nullable=False),
        sa.Column("number", sa.BigInteger),
        sa.Column("body", sa.Text),
    )
    op.create_index("ix_events_queue", "events", ["job", "label", "id"])
    op.create_table(
        "counters",
        sa.Column("name", sa.Text, primary_key=True),
        sa.Column("value", sa.BigInteger, nullable=False),
    )


def downgrade() -> None:
    for table in (
        "counters",
        "events",
        "leases",
        "slice_failures",
        "slice_results",
        "slices",
        "slice_inputs",
        "job_groups",
        "jobs",
    ):
        op.drop_table(table)
