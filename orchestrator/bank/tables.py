"""The ledger's tables.

Amounts. A 64-bit integer ends at 9.2 DCC, SQLite has nothing wider, and its NUMERIC turns into floating point. So an
amount is two integers, `high` × 10^12 + `low` with 0 ≤ `low` < 10^12: both databases can compare them (the CHECK that
no balance goes below zero is `high >= 0`) and add to them, which they cannot do with text.

What the database itself refuses: a balance beyond what its account allows, a posting that is changed or deleted, a
pending transfer that changes once it is settled, and a commit after which all accounts would not sum to zero (see the
migrations: a deferred constraint trigger on PostgreSQL, a deferred foreign key on SQLite).
"""

from __future__ import annotations

import sqlalchemy as sa

from orchestrator.database import metadata

LIMB = 10**12

_key = sa.BigInteger().with_variant(sa.Integer, "sqlite")
"""SQLite numbers rows by itself only in a column of type INTEGER."""
_LOW = f"low BETWEEN 0 AND {LIMB - 1}"
_OWING = "kind IN ('issuance', 'chain')"
_MOST = 9 * 10**18

accounts = sa.Table(
    "bank_accounts",
    metadata,
    sa.Column("id", _key, primary_key=True),
    sa.Column("name", sa.Text, nullable=False, unique=True),
    sa.Column("kind", sa.Text, nullable=False),
    sa.Column("high", sa.BigInteger, nullable=False),
    sa.Column("low", sa.BigInteger, nullable=False),
    sa.Column("opened_at", sa.Float, nullable=False),
    sa.CheckConstraint(_LOW, name="ck_bank_accounts_low"),
    sa.CheckConstraint(f"high >= 0 OR {_OWING}", name="ck_bank_accounts_not_below_zero"),
    sa.CheckConstraint(f"NOT ({_OWING}) OR high < 0 OR (high = 0 AND low = 0)", name="ck_bank_accounts_not_above_zero"),
    sa.CheckConstraint(f"high BETWEEN {-_MOST} AND {_MOST}", name="ck_bank_accounts_most"),
)

postings = sa.Table(
    "bank_postings",
    metadata,
    sa.Column("id", _key, primary_key=True),
    sa.Column("posting_id", sa.Text, nullable=False, unique=True),
    sa.Column("kind", sa.Text, nullable=False),
    sa.Column("source", sa.BigInteger, sa.ForeignKey("bank_accounts.id"), nullable=False),
    sa.Column("target", sa.BigInteger, sa.ForeignKey("bank_accounts.id"), nullable=False),
    sa.Column("high", sa.BigInteger, nullable=False),
    sa.Column("low", sa.BigInteger, nullable=False),
    sa.Column("posted_at", sa.Float, nullable=False),
    # Null only where a version without chains posted.
    sa.Column("lane", sa.BigInteger),
    sa.Column("number", sa.BigInteger),
    sa.Column("digest", sa.LargeBinary),
    sa.Column("detail", sa.Text),
    sa.CheckConstraint(_LOW, name="ck_bank_postings_low"),
    sa.CheckConstraint("high >= 0 AND high + low > 0", name="ck_bank_postings_positive"),
    sa.CheckConstraint("source <> target", name="ck_bank_postings_two_accounts"),
    sa.CheckConstraint("digest IS NULL OR length(digest) = 32", name="ck_bank_postings_digest"),
    sa.UniqueConstraint("lane", "number", name="uq_bank_postings_chain"),
    sa.Index("ix_bank_postings_source", "source", "id"),
    sa.Index("ix_bank_postings_target", "target", "id"),
)
"""Rows are never changed or deleted; triggers refuse it."""

lanes = sa.Table(
    "bank_lanes",
    metadata,
    sa.Column("id", _key, primary_key=True),
    sa.Column("number", sa.BigInteger, nullable=False),
    sa.Column("digest", sa.LargeBinary, nullable=False),
)
"""Where each lane of the chain of postings ends."""

pending = sa.Table(
    "bank_pending",
    metadata,
    sa.Column("id", sa.Text, primary_key=True),
    sa.Column("kind", sa.Text, nullable=False),
    sa.Column("source", sa.BigInteger, sa.ForeignKey("bank_accounts.id"), nullable=False, index=True),
    sa.Column("target", sa.BigInteger, sa.ForeignKey("bank_accounts.id"), nullable=False),
    sa.Column("account", sa.BigInteger, sa.ForeignKey("bank_accounts.id"), nullable=False, unique=True),
    sa.Column("high", sa.BigInteger, nullable=False),
    sa.Column("low", sa.BigInteger, nullable=False),
    sa.Column("state", sa.Text, nullable=False),
    sa.Column("made_at", sa.Float, nullable=False),
    sa.Column("expires_at", sa.Float),
    sa.Column("settled_at", sa.Float),
    sa.Column("destination", sa.Text),
    sa.CheckConstraint(_LOW, name="ck_bank_pending_low"),
    sa.CheckConstraint("high >= 0 AND high + low > 0", name="ck_bank_pending_positive"),
    sa.CheckConstraint("state IN ('pending', 'posted', 'void')", name="ck_bank_pending_state"),
    sa.CheckConstraint("(state = 'pending') = (settled_at IS NULL)", name="ck_bank_pending_settled"),
)
sa.Index(
    "ix_bank_pending_due",
    pending.c.expires_at,
    sqlite_where=pending.c.state == sa.literal_column("'pending'"),
    postgresql_where=pending.c.state == sa.literal_column("'pending'"),
)

holds = sa.Table(
    "bank_holds",
    metadata,
    sa.Column("id", sa.Text, primary_key=True),
    sa.Column("owner", sa.BigInteger, sa.ForeignKey("bank_accounts.id"), nullable=False, index=True),
    sa.Column("account", sa.BigInteger, sa.ForeignKey("bank_accounts.id"), nullable=False, unique=True),
    sa.Column("is_open", sa.Boolean, nullable=False),
    # Its own place in the chain, where it was opened empty.
    sa.Column("lane", sa.BigInteger),
    sa.Column("number", sa.BigInteger),
    sa.Column("digest", sa.LargeBinary),
    sa.Index("uq_bank_holds_chain", "lane", "number", unique=True),
)
sa.Index("ix_bank_holds_open", holds.c.account, sqlite_where=sa.text("is_open = 1"), postgresql_where=holds.c.is_open)
