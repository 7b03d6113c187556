"""A lease knows the request that it answered, so that a worker which lost the answer can name it."""

import sqlalchemy as sa
from alembic import op

revision = "0005_lease_requests"
down_revision = "0004_variances"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("leases", sa.Column("request", sa.Text))
