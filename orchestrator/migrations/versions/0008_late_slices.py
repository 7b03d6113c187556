"""Slices may have two leases at once, when the first is late."""

import sqlalchemy as sa
from alembic import op

revision = "0008_late_slices"
down_revision = "0007_bank_chain"
branch_labels = None
depends_on = None

_KEY = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    op.add_column("slices", sa.Column("rival", _KEY, nullable=False, server_default="0"))
    op.add_column("leases", sa.Column("due_at", sa.Float))
    _index("ix_slices_out", ["job", "lease"], "state = 'leased'")
    _index("ix_slices_rival", ["rival"], "rival > 0")
    op.drop_index("ix_slices_leased", "slices")


def downgrade() -> None:
    _index("ix_slices_leased", ["lease"], "state = 'leased'")
    op.drop_index("ix_slices_rival", "slices")
    op.drop_index("ix_slices_out", "slices")
    op.drop_column("leases", "due_at")
    op.drop_column("slices", "rival")


def _index(name: str, columns: list[str], where: str) -> None:
    op.create_index(name, "slices", columns, sqlite_where=sa.text(where), postgresql_where=sa.text(where))
