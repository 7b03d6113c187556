"""The bank's ledger: accounts, postings, holds"""

import sqlalchemy as sa
from alembic import op

revision = "0001_bank"
down_revision = None
branch_labels = None
depends_on = None

_key = sa.BigInteger().with_variant(sa.Integer, "sqlite")


def upgrade() -> None:
    op.create_table(
        "bank_accounts",
        sa.Column("id", _key, primary_key=True),
        sa.Column("name", sa.Text, nullable=False, unique=True),
        sa.Column("kind", sa.Text, nullable=False),
        sa.Column("high", sa.BigInteger, nullable=False),
        sa.Column("low", sa.BigInteger, nullable=False),
        sa.Column("opened_at", sa.Float, nullable=False),
        sa.CheckConstraint("low BETWEEN 0 AND 999999999999", name="ck_bank_accounts_low"),
        sa.CheckConstraint("high >= 0 OR kind = 'issuance'", name="ck_bank_accounts_not_below_zero"),
    )
    op.create_table(
        "bank_postings",
        sa.Column("id", _key, primary_key=True),
        sa.Column("posting_id", sa.Text, nullable=False, unique=True),
        sa.Column("kind", sa.Text, nullable=False),
        sa.Column("source", sa.BigInteger, sa.ForeignKey("bank_accounts.id"), nullable=False),
        sa.Column("target", sa.BigInteger, sa.ForeignKey("bank_accounts.id"), nullable=False),
        sa.Column("high", sa.BigInteger, nullable=False),
        sa.Column("low", sa.BigInteger, nullable=False),
        sa.Column("posted_at", sa.Float, nullable=False),
        sa.CheckConstraint("low BETWEEN 0 AND 999999999999", name="ck_bank_postings_low"),
        sa.CheckConstraint("high >= 0 AND high + low > 0", name="ck_bank_postings_positive"),
        sa.CheckConstraint("source <> target", name="ck_bank_postings_two_accounts"),
    )
    op.create_table(
        "bank_holds",
        sa.Column("id", sa.Text, primary_key=True),
        sa.Column("owner", sa.BigInteger, sa.ForeignKey("bank_accounts.id"), nullable=False, index=True),
        sa.Column("account", sa.BigInteger, sa.ForeignKey("bank_accounts.id"), nullable=False, unique=True),
        sa.Column("is_open", sa.Boolean, nullable=False),
    )
    if op.get_bind().dialect.name == "sqlite":
        for action in ("UPDATE", "DELETE"):
            op.execute(
                f"CREATE TRIGGER bank_postings_no_{action.lower()} BEFORE {action} ON bank_postings"
                " BEGIN SELECT RAISE(ABORT, 'postings are never changed or deleted'); END"
            )


def downgrade() -> None:
    for table in ("bank_holds", "bank_postings", "bank_accounts"):
        op.drop_table(table)
