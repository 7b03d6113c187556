"""What a process says of its sessions before it answers in them: last acks, and which request used which stamp.

One statement, and so one round trip, for all that has come up; on a connection where each statement is a transaction of
its own (`Database.single`). The statements are PostgreSQL's.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from orchestrator.protocol.session_memory import Remembered
from orchestrator.scheduler.store.stamps import Claim

# What a crash of the database may lose is a moment: the network is slower than such a crash is likely.
_WRITE = sa.text(
    """
    WITH quick AS MATERIALIZED (SELECT set_config('synchronous_commit', 'off', true) AS said),
    saved AS (
        INSERT INTO sessions (dcpsid, service, peer, token, message_id, nonce, process, at)
        SELECT one ->> 0, one ->> 1, one ->> 2, one ->> 3, one ->> 4, one ->> 5, :process, :now
        FROM json_array_elements(CAST(:acks AS json)) AS one
        ON CONFLICT (dcpsid) DO UPDATE
        SET token = excluded.token, message_id = excluded.message_id, nonce = excluded.nonce, at = excluded.at
        WHERE sessions.process = excluded.process
    ),
    claimed AS (
        INSERT INTO stamps (stamp, used_by, stale_at)
        SELECT one ->> 0, one ->> 1, CAST(one ->> 2 AS float8)
        FROM json_array_elements(CAST(:claims AS json)) AS one
        ON CONFLICT (stamp) DO NOTHING
        RETURNING stamp
    )
    SELECT said, (SELECT array_agg(stamp) FROM claimed) FROM quick
    """
)
_END = sa.text("DELETE FROM sessions WHERE process = :process AND dcpsid = ANY(CAST(:ended AS text[]))")
_USERS = sa.text("SELECT stamp, used_by FROM stamps WHERE stamp = ANY(CAST(:stamps AS text[]))")


async def write(
    single: AsyncConnection,
    process: str,
    now: float,
    *,
    acks: Iterable[Remembered],
    ended: Sequence[str],
    claims: Sequence[Claim],
) -> set[str]:
    """Write the last acks of this process's sessions and drop those that ended; what another process has taken over is
    left alone. Claim stamps; those of them that are another request's. Done twice, it has the same effect."""
    # In one order, so that two processes never wait for each other.
    wanted = {one.stamp: one for one in sorted(claims, key=lambda one: one.stamp)}
    parameters = {
        "process": process,
        "now": now,
        "acks": _text(
            [one.dcpsid, one.service, one.peer, one.token, one.message_id, one.nonce]
            for one in sorted(acks, key=lambda one: one.dcpsid)
        ),
        "claims": _text([one.stamp, one.used_by, one.stale_at] for one in wanted.values()),
    }
    _, fresh = (await single.execute(_WRITE, parameters)).one()
    if ended:
        await single.execute(_END, {"process": process, "ended": list(ended)})
    users = {stamp: wanted[stamp].used_by for stamp in fresh or ()}
    used_before = wanted.keys() - users.keys()
    if used_before:
        rows = await single.execute(_USERS, {"stamps": sorted(used_before)})
        users.update((stamp, used_by) for stamp, used_by in rows)
    return {one.stamp for one in claims if users.get(one.stamp, one.used_by) != one.used_by}


def _text(rows: Iterable[list[object]]) -> str:
    return json.dumps(list(rows), ensure_ascii=False)
