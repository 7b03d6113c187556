"""Rows of banned addresses and identities.

A ban that was lifted stays a while as a row whose time is over, so that every process hears of it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.ext.asyncio import AsyncConnection

from orchestrator.database import metadata

peer_bans = sa.Table(
    "peer_bans",
    metadata,
    sa.Column("subject", sa.Text, primary_key=True),
    sa.Column("since", sa.Float, nullable=False),
    sa.Column("until", sa.Float, nullable=False),
    sa.Column("reason", sa.Text, nullable=False),
    sa.Column("changed_at", sa.Float, nullable=False, index=True),
)


@dataclass(frozen=True, slots=True)
class BanRow:
    """Times in seconds since 1970."""

    subject: str
    since: float
    until: float
    reason: str
    changed_at: float


_COLUMNS = tuple(peer_bans.c[name] for name in ("subject", "since", "until", "reason", "changed_at"))


def _saving(statement: postgresql.Insert | sqlite.Insert) -> sa.Insert:
    changed = {name: statement.excluded[name] for name in ("since", "until", "reason", "changed_at")}
    return statement.on_conflict_do_update(index_elements=[peer_bans.c.subject], set_=changed)


_SAVE = {"sqlite": _saving(sqlite.insert(peer_bans)), "postgresql": _saving(postgresql.insert(peer_bans))}


async def save(tx: AsyncConnection, rows: Sequence[BanRow]) -> None:
    if rows:
        await tx.execute(_SAVE[tx.dialect.name], [asdict(row) for row in sorted(rows, key=lambda row: row.subject)])


async def lift(tx: AsyncConnection, subjects: Iterable[str] | None, now: float) -> list[str]:
    """End these bans, or all; those that there were."""
    wanted = [row.subject for row in await current(tx, now) if subjects is None or row.subject in set(subjects)]
    if wanted:
        where = peer_bans.c.subject.in_(wanted)
        await tx.execute(sa.update(peer_bans).where(where).values(until=0.0, changed_at=now))
    return wanted


async def current(tx: AsyncConnection, now: float) -> list[BanRow]:
    """Who is banned, the last first."""
    query = sa.select(*_COLUMNS).where(peer_bans.c.until > now).order_by(peer_bans.c.since.desc(), peer_bans.c.subject)
    return [BanRow(*row) for row in await tx.execute(query)]


async def changed(tx: AsyncConnection, since: float, most: int) -> list[BanRow]:
    """What was banned or lifted since then, the last first."""
    query = sa.select(*_COLUMNS).where(peer_bans.c.changed_at >= since)
    return [BanRow(*row) for row in await tx.execute(query.order_by(peer_bans.c.changed_at.desc()).limit(most))]


async def forget(tx: AsyncConnection, before: float) -> None:
    """Bans that were over before then."""
    await tx.execute(sa.delete(peer_bans).where(peer_bans.c.until < before, peer_bans.c.changed_at < before))
