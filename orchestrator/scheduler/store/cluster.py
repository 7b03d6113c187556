"""Rows through which processes of one Scheduler know of each other: who runs, which workers they see, and sessions.

Only a database that several processes share holds any; the statements are PostgreSQL's.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection

from orchestrator.database import metadata

processes = sa.Table(
    "processes",
    metadata,
    sa.Column("id", sa.Text, primary_key=True),
    sa.Column("place", sa.Text, nullable=False),
    sa.Column("version", sa.Text, nullable=False),
    sa.Column("started_at", sa.Float, nullable=False),
    sa.Column("seen_at", sa.Float, nullable=False),
    # what its version knows; null: nothing that has a level
    sa.Column("level", sa.Integer),
)

# The last ack of each session. On PostgreSQL unlogged: it outlives every process of ours, and a database that crashed
# has lost no more than a place in a conversation.
sessions = sa.Table(
    "sessions",
    metadata,
    sa.Column("dcpsid", sa.Text, primary_key=True),
    sa.Column("process", sa.Text, nullable=False),
    sa.Column("service", sa.Text, nullable=False),
    sa.Column("peer", sa.Text, nullable=False),
    sa.Column("token", sa.Text, nullable=False),
    sa.Column("message_id", sa.Text, nullable=False),
    sa.Column("nonce", sa.Text, nullable=False),
    sa.Column("at", sa.Float, nullable=False),
)

# What each live worker said last, as JSON, by the process that heard it.
present_workers = sa.Table(
    "present_workers",
    metadata,
    sa.Column("worker", sa.Text, primary_key=True),
    sa.Column("process", sa.Text, nullable=False),
    sa.Column("seen", sa.Text, nullable=False),
    sa.Column("at", sa.Float, nullable=False, index=True),
)

# What all processes must agree on.
facts = sa.Table(
    "facts",
    metadata,
    sa.Column("name", sa.Text, primary_key=True),
    sa.Column("value", sa.Text, nullable=False),
)


def _saving(table: sa.Table, *changed: str) -> sa.Insert:
    """Add a row, or change these columns of the one that is there."""
    statement = insert(table)
    return statement.on_conflict_do_update(
        index_elements=list(table.primary_key.columns),
        set_={name: statement.excluded[name] for name in changed},
    )


_SAVE_PROCESS = _saving(processes, "seen_at")
_SAVE_WORKER = _saving(present_workers, "process", "seen", "at")

# Made once: every process asks these every few seconds.
_OTHERS = (
    sa.select(processes)
    .where(processes.c.id != sa.bindparam("process"), processes.c.seen_at >= sa.bindparam("since"))
    .order_by(processes.c.started_at)
)
_FORGET = {
    name: sa.delete(last.table).where(last < sa.bindparam("before"))
    for name, last in (
        ("processes", processes.c.seen_at),
        ("workers", present_workers.c.at),
        ("sessions", sessions.c.at),
    )
}
_ALIVE = sa.select(processes.c.id).where(processes.c.seen_at >= sa.bindparam("alive_since"))
_WORKERS_ELSEWHERE = (
    sa.select(present_workers.c.worker, present_workers.c.process, present_workers.c.seen)
    .where(
        present_workers.c.process != sa.bindparam("process"),
        present_workers.c.at >= sa.bindparam("since"),
        present_workers.c.process.in_(_ALIVE),
    )
    .order_by(present_workers.c.at)
)
_DROP_DEPARTED = sa.delete(present_workers).where(
    present_workers.c.worker == sa.bindparam("named"), present_workers.c.at <= sa.bindparam("left_at")
)


async def agree(tx: AsyncConnection, name: str, value: str) -> str:
    """The value of a fact: the given one when nobody has given it before."""
    statement = insert(facts).values(name=name, value=value).on_conflict_do_nothing(index_elements=[facts.c.name])
    await tx.execute(statement)
    return str((await tx.execute(sa.select(facts.c.value).where(facts.c.name == name))).scalar_one())


async def fact(tx: AsyncConnection, name: str) -> str | None:
    return (await tx.execute(sa.select(facts.c.value).where(facts.c.name == name))).scalar()


# --- processes


async def register(tx: AsyncConnection, row: Mapping[str, Any]) -> None:
    """Add a process, or say that it is alive."""
    await tx.execute(_SAVE_PROCESS, dict(row))


async def others(tx: AsyncConnection, process: str, since: float) -> list[dict[str, Any]]:
    rows = await tx.execute(_OTHERS, {"process": process, "since": since})
    return [dict(row) for row in rows.mappings()]


async def leave(tx: AsyncConnection, process: str) -> None:
    await tx.execute(sa.delete(processes).where(processes.c.id == process))
    await tx.execute(sa.delete(present_workers).where(present_workers.c.process == process))


async def forget(
    tx: AsyncConnection, *, processes_before: float, workers_before: float, sessions_before: float
) -> None:
    for name, before in (
        ("processes", processes_before),
        ("workers", workers_before),
        ("sessions", sessions_before),
    ):
        await tx.execute(_FORGET[name], {"before": before})


# --- workers


async def save_workers(tx: AsyncConnection, rows: Sequence[Mapping[str, Any]]) -> None:
    if rows:
        await tx.execute(_SAVE_WORKER, sorted(rows, key=lambda row: str(row["worker"])))


async def drop_workers(tx: AsyncConnection, process: str, workers: Iterable[str]) -> None:
    """Those that this process was the last to hear."""
    if named := list(workers):
        where = (present_workers.c.process == process, present_workers.c.worker.in_(named))
        await tx.execute(sa.delete(present_workers).where(*where))


async def drop_departed(tx: AsyncConnection, departed: Mapping[str, float]) -> None:
    """By worker, when it left: whoever heard it, unless that was later."""
    if departed:
        rows = [{"named": worker, "left_at": at} for worker, at in sorted(departed.items())]
        await tx.execute(_DROP_DEPARTED, rows)


async def workers_elsewhere(
    tx: AsyncConnection, process: str, since: float, *, processes_since: float
) -> list[tuple[str, str, str]]:
    """(worker, process, what it said) of those whom other processes have heard since then. A process that was not heard
    of itself since `processes_since` has died; its workers are looked for nowhere."""
    values = {"process": process, "since": since, "alive_since": processes_since}
    return [(worker, of, seen) for worker, of, seen in await tx.execute(_WORKERS_ELSEWHERE, values)]


# --- sessions. They are written by `journal`.


async def take_session(
    tx: AsyncConnection, dcpsid: str, process: str, *, service: str, peer: str
) -> tuple[str, str, str] | None:
    """Make a session this process's own: (token, message id, nonce) of its last ack; None when there is none."""
    where = (sessions.c.dcpsid == dcpsid, sessions.c.service == service, sessions.c.peer == peer)
    statement = sa.update(sessions).where(*where).values(process=process)
    row = (
        await tx.execute(statement.returning(sessions.c.token, sessions.c.message_id, sessions.c.nonce))
    ).one_or_none()
    return None if row is None else (row.token, row.message_id, row.nonce)
