"""Rows of owners' accounts. They only grow: of two values of one account the higher one is right."""

from __future__ import annotations

from collections.abc import Mapping

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from orchestrator.scheduler.store.schema import owner_accounts

_GROW = (
    sa.update(owner_accounts)
    .where(owner_accounts.c.group_id == sa.bindparam("of_group"), owner_accounts.c.owner == sa.bindparam("of_owner"))
    .where(owner_accounts.c.done < sa.bindparam("to"))
    .values(done=sa.bindparam("to"), grown_at=sa.bindparam("now"))
)


_LOAD = sa.select(owner_accounts.c.group_id, owner_accounts.c.owner, owner_accounts.c.done).where(
    owner_accounts.c.grown_at >= sa.bindparam("since")
)


async def load(tx: AsyncConnection, since: float = 0.0) -> dict[tuple[str, str], float]:
    """Accounts by group and owner, those that have grown since then."""
    return {(group, owner): done for group, owner, done in await tx.execute(_LOAD, {"since": since})}


async def grow(tx: AsyncConnection, fresh: Mapping[tuple[str, str], float], now: float) -> None:
    if not fresh:
        return
    groups = sorted({group for group, _ in fresh})
    query = sa.select(owner_accounts.c.group_id, owner_accounts.c.owner)
    known = {(group, owner) for group, owner in await tx.execute(query.where(owner_accounts.c.group_id.in_(groups)))}
    old = [
        {"of_group": group, "of_owner": owner, "to": done, "now": now}
        for (group, owner), done in sorted(fresh.items())
        if (group, owner) in known
    ]
    new = [
        {"group_id": group, "owner": owner, "done": done, "grown_at": now}
        for (group, owner), done in sorted(fresh.items())
        if (group, owner) not in known
    ]
    if old:
        await tx.execute(_GROW, old)
    if new:
        await tx.execute(sa.insert(owner_accounts), new)


async def forget(tx: AsyncConnection, before: float) -> None:
    """Owners that got nothing since then; where groups stand stays."""
    where = (owner_accounts.c.grown_at < before, owner_accounts.c.owner != "")
    await tx.execute(sa.delete(owner_accounts).where(*where))


async def count(tx: AsyncConnection) -> int:
    return int((await tx.execute(sa.select(sa.func.count()).select_from(owner_accounts))).scalar_one())
