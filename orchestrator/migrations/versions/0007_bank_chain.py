"""The bank: a chain of hashes over all postings, transfers in two steps, and a sum of zero that the database checks"""

import hashlib
import json

import sqlalchemy as sa
from alembic import op

revision = "0007_bank_chain"
down_revision = "0006_processes"
branch_labels = None
depends_on = None

_key = sa.BigInteger().with_variant(sa.Integer, "sqlite")
_LIMB = 10**12
_OWING = "kind IN ('issuance', 'chain')"
_LOW = f"low BETWEEN 0 AND {_LIMB - 1}"
_MOST = 9 * 10**18
_ROWS = 5000


def upgrade() -> None:
    _accounts()
    _postings()
    _lanes()
    _pending()
    _guard_postings()
    _guard_pending()
    _guard_sum()


def _accounts() -> None:
    before = sa.Table(
        "bank_accounts",
        sa.MetaData(),
        sa.Column("id", _key, primary_key=True),
        sa.Column("name", sa.Text, nullable=False, unique=True),
        sa.Column("kind", sa.Text, nullable=False),
        sa.Column("high", sa.BigInteger, nullable=False),
        sa.Column("low", sa.BigInteger, nullable=False),
        sa.Column("opened_at", sa.Float, nullable=False),
        sa.CheckConstraint(_LOW, name="ck_bank_accounts_low"),
        sa.CheckConstraint("high >= 0 OR kind = 'issuance'", name="ck_bank_accounts_not_below_zero"),
    )
    with op.batch_alter_table("bank_accounts", copy_from=before) as batch:
        batch.drop_constraint("ck_bank_accounts_not_below_zero", type_="check")
        batch.create_check_constraint("ck_bank_accounts_not_below_zero", sa.text(f"high >= 0 OR {_OWING}"))
        batch.create_check_constraint(
            "ck_bank_accounts_not_above_zero", sa.text(f"NOT ({_OWING}) OR high < 0 OR (high = 0 AND low = 0)")
        )
        batch.create_check_constraint("ck_bank_accounts_most", sa.text(f"high BETWEEN {-_MOST} AND {_MOST}"))


def _postings() -> None:
    before = sa.Table(
        "bank_postings",
        sa.MetaData(),
        sa.Column("id", _key, primary_key=True),
        sa.Column("posting_id", sa.Text, nullable=False, unique=True),
        sa.Column("kind", sa.Text, nullable=False),
        sa.Column("source", sa.BigInteger, sa.ForeignKey("bank_accounts.id"), nullable=False),
        sa.Column("target", sa.BigInteger, sa.ForeignKey("bank_accounts.id"), nullable=False),
        sa.Column("high", sa.BigInteger, nullable=False),
        sa.Column("low", sa.BigInteger, nullable=False),
        sa.Column("posted_at", sa.Float, nullable=False),
        sa.CheckConstraint(_LOW, name="ck_bank_postings_low"),
        sa.CheckConstraint("high >= 0 AND high + low > 0", name="ck_bank_postings_positive"),
        sa.CheckConstraint("source <> target", name="ck_bank_postings_two_accounts"),
    )
    # On SQLite the table is made anew, and the triggers of the elder one go with it.
    with op.batch_alter_table("bank_postings", copy_from=before) as batch:
        batch.add_column(sa.Column("lane", sa.BigInteger))
        batch.add_column(sa.Column("number", sa.BigInteger))
        batch.add_column(sa.Column("digest", sa.LargeBinary))
        batch.create_check_constraint("ck_bank_postings_digest", sa.text("digest IS NULL OR length(digest) = 32"))
        batch.create_unique_constraint("uq_bank_postings_chain", ["lane", "number"])
    op.create_index("ix_bank_postings_source", "bank_postings", ["source", "id"])
    op.create_index("ix_bank_postings_target", "bank_postings", ["target", "id"])


def _lanes() -> None:
    """All postings so far become the first lane."""
    lanes = op.create_table(
        "bank_lanes",
        sa.Column("id", _key, primary_key=True),
        sa.Column("number", sa.BigInteger, nullable=False),
        sa.Column("digest", sa.LargeBinary, nullable=False),
    )
    connection = op.get_bind()
    number, digest, after = 0, bytes(32), 0
    query = sa.text(
        "SELECT p.id, p.posting_id, p.kind, s.name, t.name, p.high, p.low, p.posted_at FROM bank_postings p"
        " JOIN bank_accounts s ON s.id = p.source JOIN bank_accounts t ON t.id = p.target"
        " WHERE p.id > :after ORDER BY p.id LIMIT :most"
    )
    update = sa.text("UPDATE bank_postings SET lane = 1, number = :number, digest = :digest WHERE id = :id")
    while rows := connection.execute(query, {"after": after, "most": _ROWS}).all():
        changes = []
        for row_id, posting_id, kind, source, target, high, low, posted_at in rows:
            number += 1
            amount = str(high * _LIMB + low)
            content = [1, number, posting_id, kind, source, target, amount, repr(float(posted_at))]
            text = json.dumps(content, separators=(",", ":"))
            digest = hashlib.sha256(digest + text.encode()).digest()
            changes.append({"number": number, "digest": digest, "id": row_id})
            after = row_id
        connection.execute(update, changes)
    if number:
        # Without the id, so that the next lane gets the next one.
        connection.execute(lanes.insert().values(number=number, digest=digest))


def _pending() -> None:
    op.create_table(
        "bank_pending",
        sa.Column("id", sa.Text, primary_key=True),
        sa.Column("kind", sa.Text, nullable=False),
        sa.Column("source", sa.BigInteger, sa.ForeignKey("bank_accounts.id"), nullable=False),
        sa.Column("target", sa.BigInteger, sa.ForeignKey("bank_accounts.id"), nullable=False),
        sa.Column("account", sa.BigInteger, sa.ForeignKey("bank_accounts.id"), nullable=False, unique=True),
        sa.Column("high", sa.BigInteger, nullable=False),
        sa.Column("low", sa.BigInteger, nullable=False),
        sa.Column("state", sa.Text, nullable=False),
        sa.Column("made_at", sa.Float, nullable=False),
        sa.Column("expires_at", sa.Float),
        sa.Column("settled_at", sa.Float),
        sa.CheckConstraint(_LOW, name="ck_bank_pending_low"),
        sa.CheckConstraint("high >= 0 AND high + low > 0", name="ck_bank_pending_positive"),
        sa.CheckConstraint("state IN ('pending', 'posted', 'void')", name="ck_bank_pending_state"),
        sa.CheckConstraint("(state = 'pending') = (settled_at IS NULL)", name="ck_bank_pending_settled"),
    )
    op.create_index("ix_bank_pending_source", "bank_pending", ["source"])
    where = sa.text("state = 'pending'")
    op.create_index("ix_bank_pending_due", "bank_pending", ["expires_at"], sqlite_where=where, postgresql_where=where)


def _is_sqlite() -> bool:
    return op.get_bind().dialect.name == "sqlite"


def _guard_postings() -> None:
    """Only a posting that is in no chain may be given its place."""
    says = "postings are never changed or deleted"
    if _is_sqlite():
        same = " AND ".join(
            f"NEW.{name} IS OLD.{name}"
            for name in ("id", "posting_id", "kind", "source", "target", "high", "low", "posted_at")
        )
        op.execute(
            "CREATE TRIGGER bank_postings_no_update BEFORE UPDATE ON bank_postings"
            f" WHEN OLD.lane IS NOT NULL OR NOT ({same}) BEGIN SELECT RAISE(ABORT, '{says}'); END"
        )
        op.execute(
            "CREATE TRIGGER bank_postings_no_delete BEFORE DELETE ON bank_postings"
            f" BEGIN SELECT RAISE(ABORT, '{says}'); END"
        )
        return
    op.execute(
        "CREATE FUNCTION bank_postings_refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN"
        f" RAISE EXCEPTION '{says}' USING ERRCODE = 'integrity_constraint_violation'; END $$"
    )
    placed = "ARRAY['lane', 'number', 'digest']"
    op.execute(
        "CREATE TRIGGER bank_postings_no_update BEFORE UPDATE ON bank_postings FOR EACH ROW"
        f" WHEN (OLD.lane IS NOT NULL OR to_jsonb(NEW) - {placed} <> to_jsonb(OLD) - {placed})"
        " EXECUTE FUNCTION bank_postings_refuse()"
    )
    op.execute(
        "CREATE TRIGGER bank_postings_no_delete BEFORE DELETE ON bank_postings FOR EACH ROW"
        " EXECUTE FUNCTION bank_postings_refuse()"
    )
    op.execute(
        "CREATE TRIGGER bank_postings_no_truncate BEFORE TRUNCATE ON bank_postings FOR EACH STATEMENT"
        " EXECUTE FUNCTION bank_postings_refuse()"
    )


def _guard_pending() -> None:
    """A pending transfer changes once, and only its state."""
    says = "a pending transfer changes only once, to posted or void"
    fixed = ("id", "kind", "source", "target", "account", "high", "low", "made_at", "expires_at")
    if _is_sqlite():
        same = " AND ".join(f"NEW.{name} IS OLD.{name}" for name in fixed)
        op.execute(
            "CREATE TRIGGER bank_pending_once BEFORE UPDATE ON bank_pending"
            f" WHEN OLD.state <> 'pending' OR NOT ({same}) BEGIN SELECT RAISE(ABORT, '{says}'); END"
        )
        op.execute(
            "CREATE TRIGGER bank_pending_no_delete BEFORE DELETE ON bank_pending"
            f" BEGIN SELECT RAISE(ABORT, '{says}'); END"
        )
        return
    changed = " OR ".join(f"NEW.{name} IS DISTINCT FROM OLD.{name}" for name in fixed)
    op.execute(
        "CREATE FUNCTION bank_pending_refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN"
        f" RAISE EXCEPTION '{says}' USING ERRCODE = 'integrity_constraint_violation'; END $$"
    )
    op.execute(
        "CREATE TRIGGER bank_pending_once BEFORE UPDATE ON bank_pending FOR EACH ROW"
        f" WHEN (OLD.state <> 'pending' OR {changed}) EXECUTE FUNCTION bank_pending_refuse()"
    )
    op.execute(
        "CREATE TRIGGER bank_pending_no_delete BEFORE DELETE ON bank_pending FOR EACH ROW"
        " EXECUTE FUNCTION bank_pending_refuse()"
    )


def _guard_sum() -> None:
    """What a transaction changes in all accounts together must be nothing when it commits.

    PostgreSQL adds up in a variable of the transaction and looks at it in a deferred trigger: no row that all
    transactions would have to write. SQLite, which has one writer, adds up in a row that a deferred foreign key ties to
    the only row of another table, zero.
    """
    if _is_sqlite():
        op.execute(
            "CREATE TABLE bank_zero (high BIGINT, low BIGINT, PRIMARY KEY (high, low), CHECK (high = 0 AND low = 0))"
        )
        op.execute(
            "CREATE TABLE bank_sum (id INTEGER PRIMARY KEY CHECK (id = 1), high BIGINT NOT NULL, low BIGINT NOT NULL,"
            " CONSTRAINT all_accounts_sum_to_zero FOREIGN KEY (high, low) REFERENCES bank_zero (high, low)"
            " DEFERRABLE INITIALLY DEFERRED)"
        )
        op.execute("INSERT INTO bank_zero VALUES (0, 0)")
        op.execute("INSERT INTO bank_sum VALUES (1, 0, 0)")
        for event, high, low in (
            ("INSERT", "NEW.high", "NEW.low"),
            ("UPDATE OF high, low", "NEW.high - OLD.high", "NEW.low - OLD.low"),
            ("DELETE", "-OLD.high", "-OLD.low"),
        ):
            total = f"(low + {low} + {_LIMB})"
            # `low` is kept within its bounds, as in every amount.
            added = f"UPDATE bank_sum SET high = high + {high} + {total} / {_LIMB} - 1, low = {total} % {_LIMB}"  # noqa: S608
            name = f"bank_sum_{event.split()[0].lower()}"
            op.execute(f"CREATE TRIGGER {name} AFTER {event} ON bank_accounts BEGIN {added}; END")
        return
    so_far = "coalesce(nullif(current_setting('dcp_bank.sum', true), ''), '0')::numeric"
    op.execute(
        "CREATE FUNCTION bank_sum_add() RETURNS trigger LANGUAGE plpgsql AS $$"
        " DECLARE change numeric := 0; BEGIN"
        f" IF TG_OP <> 'DELETE' THEN change := NEW.high::numeric * {_LIMB} + NEW.low; END IF;"
        f" IF TG_OP <> 'INSERT' THEN change := change - OLD.high::numeric * {_LIMB} - OLD.low; END IF;"
        f" PERFORM set_config('dcp_bank.sum', ({so_far} + change)::text, true); RETURN NULL; END $$"
    )
    op.execute(
        "CREATE FUNCTION bank_sum_check() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN"
        f" IF {so_far} <> 0 THEN RAISE EXCEPTION 'all accounts would sum to % and not to zero', {so_far}"
        " USING ERRCODE = 'integrity_constraint_violation', CONSTRAINT = 'all_accounts_sum_to_zero'; END IF;"
        " RETURN NULL; END $$"
    )
    events = "INSERT OR UPDATE OF high, low OR DELETE"
    op.execute(
        f"CREATE TRIGGER bank_sum_add AFTER {events} ON bank_accounts FOR EACH ROW EXECUTE FUNCTION bank_sum_add()"
    )
    op.execute(
        f"CREATE CONSTRAINT TRIGGER bank_sum_zero AFTER {events} ON bank_accounts"
        " DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION bank_sum_check()"
    )


def downgrade() -> None:
    raise NotImplementedError("migrations go forward only")
