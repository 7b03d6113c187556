"""What owners got and who had trouble with which job outlive a process, and every process knows them."""

import sqlalchemy as sa
from alembic import op

revision = "0019_owner_accounts"
down_revision = "0018_programs"
branch_labels = None
depends_on = None

KEY = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    op.create_table(
        "owner_accounts",
        sa.Column("group_id", sa.Text, primary_key=True),
        sa.Column("owner", sa.Text, primary_key=True),
        sa.Column("done", sa.Float, nullable=False),
        sa.Column("grown_at", sa.Float, nullable=False, index=True),
    )
    op.create_table(
        "bans",
        sa.Column("job", KEY, primary_key=True),
        sa.Column("worker", sa.Text, primary_key=True),
        sa.Column("since", sa.Float, nullable=False, index=True),
        sa.Column("failures", sa.Integer, nullable=False),
        sa.Column("successes", sa.Integer, nullable=False),
        sa.Column("until", sa.Float, nullable=False),
    )


def downgrade() -> None:
    op.drop_table("bans")
    op.drop_table("owner_accounts")
