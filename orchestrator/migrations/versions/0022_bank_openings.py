"""The bank: a hold that is opened empty has a place in the chain, so that its owner is proved"""

import hashlib
import json

import sqlalchemy as sa
from alembic import op

revision = "0022_bank_openings"
down_revision = "0021_peer_bans"
branch_labels = None
depends_on = None


def upgrade() -> None:
    for column in (
        sa.Column("lane", sa.BigInteger),
        sa.Column("number", sa.BigInteger),
        sa.Column("digest", sa.LargeBinary),
    ):
        op.add_column("bank_holds", column)
    op.create_index("uq_bank_holds_chain", "bank_holds", ["lane", "number"], unique=True)
    _chain()


def _chain() -> None:
    """Those that are there go to the end of a lane, as they are."""
    connection = op.get_bind()
    empty = connection.execute(
        sa.text(
            "SELECT h.id, a.name, o.name FROM bank_holds h JOIN bank_accounts a ON a.id = h.account"
            " JOIN bank_accounts o ON o.id = h.owner WHERE NOT EXISTS"
            " (SELECT 1 FROM bank_postings p WHERE p.target = h.account AND p.kind = 'hold') ORDER BY h.id"
        )
    ).all()
    if not empty:
        return
    lock = "" if connection.dialect.name == "sqlite" else " FOR UPDATE"
    found = connection.execute(sa.text(f"SELECT id, number, digest FROM bank_lanes ORDER BY id LIMIT 1{lock}")).first()  # noqa: S608
    if found is None:
        nothing = {"digest": bytes(32)}
        found = connection.execute(
            sa.text("INSERT INTO bank_lanes (number, digest) VALUES (0, :digest) RETURNING id, number, digest"), nothing
        ).one()
    lane, number, digest = found[0], found[1], bytes(found[2])
    changes = []
    for hold, account, owner in empty:
        number += 1
        text = json.dumps([lane, number, "hold", hold, account, owner], separators=(",", ":"))
        digest = hashlib.sha256(digest + text.encode()).digest()
        changes.append({"lane": lane, "number": number, "digest": digest, "hold": hold})
    connection.execute(
        sa.text("UPDATE bank_holds SET lane = :lane, number = :number, digest = :digest WHERE id = :hold"), changes
    )
    connection.execute(
        sa.text("UPDATE bank_lanes SET number = :number, digest = :digest WHERE id = :lane"),
        {"lane": lane, "number": number, "digest": digest},
    )


def downgrade() -> None:
    raise NotImplementedError("migrations go forward only")
