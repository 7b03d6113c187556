"""How far the ledger has followed the chain. Works inside the caller's transaction."""

from __future__ import annotations

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.ext.asyncio import AsyncConnection

from orchestrator.bank.ethereum.plan import Cursor
from orchestrator.database import metadata

cursors = sa.Table(
    "bank_chain_cursors",
    metadata,
    sa.Column("id", sa.Text, primary_key=True),
    sa.Column("number", sa.BigInteger, nullable=False),
    sa.Column("block_hash", sa.Text, nullable=False),
)
"""One row per chain, contract and address of the Bank."""

_inserts = {
    "sqlite": sqlite.insert(cursors).on_conflict_do_nothing(),
    "postgresql": postgresql.insert(cursors).on_conflict_do_nothing(),
}


async def cursor(tx: AsyncConnection, key: str, *, lock: bool = False) -> Cursor | None:
    query = sa.select(cursors.c.number, cursors.c.block_hash).where(cursors.c.id == key)
    row = (await tx.execute(query.with_for_update() if lock else query)).first()
    return None if row is None else Cursor(row.number, row.block_hash)


async def locked_cursor(tx: AsyncConnection, key: str, start: int) -> Cursor:
    """Locked until the transaction ends: of several processes, one at a time goes on."""
    await tx.execute(_inserts[tx.dialect.name], {"id": key, "number": start - 1, "block_hash": ""})
    found = await cursor(tx, key, lock=True)
    assert found is not None
    return found


async def set_cursor(tx: AsyncConnection, key: str, new: Cursor) -> None:
    await tx.execute(cursors.update().where(cursors.c.id == key).values(number=new.number, block_hash=new.hash))
