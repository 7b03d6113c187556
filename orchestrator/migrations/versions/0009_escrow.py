"""How far the hold of a job goes, and when its owner was last there."""

import sqlalchemy as sa
from alembic import op

revision = "0009_escrow"
down_revision = "0008_late_slices"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("jobs", sa.Column("funded", sa.BigInteger))
    op.add_column("jobs", sa.Column("heard_at", sa.Float, nullable=False, server_default="0"))


def downgrade() -> None:
    op.drop_column("jobs", "heard_at")
    op.drop_column("jobs", "funded")
