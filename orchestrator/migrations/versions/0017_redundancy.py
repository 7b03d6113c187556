"""Results on which several workers must agree, and what owners think of workers."""

import sqlalchemy as sa
from alembic import op

revision = "0017_redundancy"
down_revision = "0016_input_characters"
branch_labels = None
depends_on = None

_KEY = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    op.add_column("jobs", sa.Column("copies", sa.Integer, nullable=False, server_default="1"))
    op.add_column("jobs", sa.Column("paid", sa.BigInteger, nullable=False, server_default="0"))
    op.add_column("jobs", sa.Column("doubted", sa.BigInteger, nullable=False, server_default="0"))
    op.add_column("slices", sa.Column("opinions", sa.Integer, nullable=False, server_default="0"))
    op.create_table(
        "slice_opinions",
        sa.Column("job", _KEY, primary_key=True),
        sa.Column("number", sa.BigInteger, primary_key=True),
        sa.Column("lease", _KEY, primary_key=True),
        sa.Column("place", sa.Integer, nullable=False),
        sa.Column("worker", sa.Text, nullable=False),
        sa.Column("identity", sa.Text, nullable=False),
        sa.Column("payee", sa.Text),
        sa.Column("digest", sa.Text, nullable=False),
        sa.Column("uri", sa.Text),
        sa.Column("fee_account", sa.Text),
        sa.Column("fee_rate", sa.Text),
        sa.Column("state", sa.Text, nullable=False),
        sa.Column("given_at", sa.Float, nullable=False),
        sqlite_with_rowid=False,
    )
    op.create_index(
        "ix_opinions_pending",
        "slice_opinions",
        ["job"],
        sqlite_where=sa.text("state = 'pending'"),
        postgresql_where=sa.text("state = 'pending'"),
    )
    op.create_table(
        "worker_trust",
        sa.Column("owner", sa.Text, primary_key=True),
        sa.Column("identity", sa.Text, primary_key=True),
        sa.Column("points", sa.Integer, nullable=False),
        sa.Column("agreed", sa.BigInteger, nullable=False),
        sa.Column("wrong", sa.BigInteger, nullable=False),
        sa.Column("changed_at", sa.Float, nullable=False, index=True),
        sqlite_with_rowid=False,
    )


def downgrade() -> None:
    op.drop_table("worker_trust")
    op.drop_table("slice_opinions")
    op.drop_column("slices", "opinions")
    for column in ("doubted", "paid", "copies"):
        op.drop_column("jobs", column)
