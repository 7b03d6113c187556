"""The bank: what a posting decides besides its amount is chained with it; withdrawals have a destination"""

import sqlalchemy as sa
from alembic import op

revision = "0014_bank_terms"
down_revision = "0013_numbers"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("bank_postings", sa.Column("detail", sa.Text))
    op.add_column("bank_pending", sa.Column("destination", sa.Text))
    if op.get_bind().dialect.name == "sqlite":
        _guard_postings()
    _guard_pending()


def _guard_postings() -> None:
    """PostgreSQL's guard looks at every column there is."""
    names = ("id", "posting_id", "kind", "source", "target", "high", "low", "posted_at", "detail")
    same = " AND ".join(f"NEW.{name} IS OLD.{name}" for name in names)
    op.execute("DROP TRIGGER bank_postings_no_update")
    op.execute(
        "CREATE TRIGGER bank_postings_no_update BEFORE UPDATE ON bank_postings"
        f" WHEN OLD.lane IS NOT NULL OR NOT ({same})"
        " BEGIN SELECT RAISE(ABORT, 'postings are never changed or deleted'); END"
    )


def _guard_pending() -> None:
    says = "a pending transfer changes only once, to posted or void"
    names = ("id", "kind", "source", "target", "account", "high", "low", "made_at", "expires_at", "destination")
    if op.get_bind().dialect.name == "sqlite":
        same = " AND ".join(f"NEW.{name} IS OLD.{name}" for name in names)
        op.execute("DROP TRIGGER bank_pending_once")
        op.execute(
            "CREATE TRIGGER bank_pending_once BEFORE UPDATE ON bank_pending"
            f" WHEN OLD.state <> 'pending' OR NOT ({same}) BEGIN SELECT RAISE(ABORT, '{says}'); END"
        )
        return
    changed = " OR ".join(f"NEW.{name} IS DISTINCT FROM OLD.{name}" for name in names)
    op.execute("DROP TRIGGER bank_pending_once ON bank_pending")
    op.execute(
        "CREATE TRIGGER bank_pending_once BEFORE UPDATE ON bank_pending FOR EACH ROW"
        f" WHEN (OLD.state <> 'pending' OR {changed}) EXECUTE FUNCTION bank_pending_refuse()"
    )


def downgrade() -> None:
    raise NotImplementedError("migrations go forward only")
