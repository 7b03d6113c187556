"""Code and arguments of jobs may lie outside their rows, once every process knows that."""

import sqlalchemy as sa
from alembic import op

revision = "0018_programs"
down_revision = "0017_redundancy"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("processes", sa.Column("level", sa.Integer))
    op.create_table(
        "blob_intents",
        sa.Column("job", sa.Text, primary_key=True),
        sa.Column("token", sa.Text, nullable=False),
        sa.Column("begun_at", sa.Float, nullable=False),
    )


def downgrade() -> None:
    op.drop_table("blob_intents")
    op.drop_column("processes", "level")
