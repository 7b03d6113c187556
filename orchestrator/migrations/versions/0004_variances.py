"""Jobs keep the variances of what their slices cost."""

import sqlalchemy as sa
from alembic import op

revision = "0004_variances"
down_revision = "0003_compute_groups"
branch_labels = None
depends_on = None

_COLUMNS = ("cpu_var", "wall_var", "gpu_var", "in_var", "out_var")


def upgrade() -> None:
    for name in _COLUMNS:
        op.add_column("jobs", sa.Column(name, sa.Float, nullable=False, server_default="0"))


def downgrade() -> None:
    for name in _COLUMNS:
        op.drop_column("jobs", name)
