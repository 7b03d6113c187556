"""What work was recently paid."""

import sqlalchemy as sa
from alembic import op

revision = "0010_market"
down_revision = "0009_escrow"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "market",
        sa.Column("step", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("work_s", sa.Float, nullable=False),
        sa.Column("counted_at", sa.Float, nullable=False),
    )


def downgrade() -> None:
    op.drop_table("market")
