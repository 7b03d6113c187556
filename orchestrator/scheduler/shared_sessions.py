"""Sessions that outlive a process: the last ack of each is a row, so that a client may go on at any process.

The process that it comes to takes the session over, lets the client finish what it has to say, closes it in order, and
the client opens a new one there (`protocol.session_memory` says why that matters).

Stamps of requests are rows, too, until their time is over: none is good at a second process.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence

from orchestrator.database import Database, DatabaseAway, persistently, retried
from orchestrator.protocol.js_json import is_wire_text
from orchestrator.protocol.session_memory import Remembered
from orchestrator.protocol.vocabulary import IncomingRequest
from orchestrator.scheduler.cluster import Cluster
from orchestrator.scheduler.group_commit import GroupCommit
from orchestrator.scheduler.store import cluster as store
from orchestrator.scheduler.store import journal, stamps
from orchestrator.scheduler.store.stamps import Claim
from orchestrator.task_groups import TaskGroup

log = logging.getLogger(__name__)

_FORGET_S = 30.0
_PATIENCE_S = 2.0
"""how long acks wait for a database that is away; then they leave without having been written"""
MOST_OVER = 100
"""sessions that ended and wait for the next statement"""


class SharedSessions:
    """What the server remembers, in rows. Acks are written before they leave, stamps before their requests are handled:
    everything that came up while the last statement ran is in the next. `run()` must be running."""

    is_shared = True

    def __init__(self, database: Database, cluster: Cluster, clock: Callable[[], float]) -> None:
        self._database = database
        self._cluster = cluster
        self._clock = clock
        self._left: dict[str, Remembered] = {}
        """those that this process has taken over"""
        self._fresh: dict[str, Remembered] = {}
        self._over: set[str] = set()
        self._saving: dict[str, Remembered] = {}
        """acks that are being written"""
        self._ending: set[str] = set()
        self._written: set[str] = set()
        self._journal: GroupCommit[Claim | None] = GroupCommit(self._write)

    def recall(self, dcpsid: str) -> Remembered | None:
        return self._left.get(dcpsid)

    async def seek(self, dcpsid: str, service: str, peer: str) -> None:
        """Take a session over from whatever process had it: `recall` knows it then. Raises `DatabaseAway`."""

        async def take() -> tuple[str, str, str] | None:
            async with self._database.transaction() as tx:
                return await store.take_session(tx, dcpsid, self._cluster.process, service=service, peer=peer)

        found = await retried(take)
        if found is not None:
            self._left[dcpsid] = Remembered(dcpsid, service, peer, *found)
            self._written.add(dcpsid)
            # It may be alive there: its client has only lost its connection.
            self._cluster.tell("session", dcpsid)

    def remember(self, session: Remembered) -> None:
        if not _may_be_kept(session):
            # Such ids come from no known client; without a row the session ends with the process.
            self.forget(session.dcpsid)
            return
        self._fresh[session.dcpsid] = session

    def forget(self, dcpsid: str) -> None:
        self._left.pop(dcpsid, None)
        if self._fresh.pop(dcpsid, None) is not None or dcpsid in self._written or dcpsid in self._saving:
            self._over.add(dcpsid)

    @property
    def is_settled(self) -> bool:
        """No ack waits to be written. Ends of sessions may wait: they are written with the next."""
        return not self._fresh and not self._saving and len(self._over) < MOST_OVER

    async def settle(self) -> None:
        try:
            async with asyncio.timeout(_PATIENCE_S):
                await self._journal.submit([None])
        except (DatabaseAway, TimeoutError) as error:
            self._fresh.clear()
            self._saving.clear()
            log.warning("the last acks are not written: %s", error, extra={"action": "database-away"})

    # --- stamps

    async def run(self) -> None:
        """Must be running while anything is claimed."""
        async with TaskGroup() as group:
            group.create_task(self._journal.run())
            group.create_task(self._forget())

    async def claim(self, dcpsid: str, requests: Sequence[IncomingRequest]) -> frozenset[str]:
        claims = [Claim(one.stamp, f"{dcpsid} {one.id}", one.stale_at) for one in requests]
        await self._journal.submit(claims)
        return frozenset(one.id for one, claim in zip(requests, claims, strict=True) if claim.is_used)

    async def _write(self, items: Sequence[Claim | None]) -> None:
        """None stands for somebody who only waits for acks."""
        self._saving |= self._fresh
        self._fresh.clear()
        self._ending |= self._over
        self._over.clear()
        claims = [one for one in items if one is not None]
        acks, ended = dict(self._saving), frozenset(self._ending)
        if claims or acks or ended:
            async with self._database.single() as single:
                used = await journal.write(
                    single,
                    self._cluster.process,
                    self._clock(),
                    acks=[one for one in acks.values() if one.dcpsid not in ended],
                    ended=sorted(ended),
                    claims=claims,
                )
            for one in claims:
                one.is_used = one.stamp in used
        self._saving.clear()
        self._ending.clear()
        self._written = (self._written | acks.keys()) - ended

    async def _forget(self) -> None:
        while True:
            await asyncio.sleep(_FORGET_S)
            await persistently(self._forget_stale)

    async def _forget_stale(self) -> None:
        async with self._database.transaction() as tx:
            await stamps.forget(tx, self._clock())

    def close(self) -> None:
        pass


def _may_be_kept(session: Remembered) -> bool:
    """Whether a database takes what the peer chose of it."""
    return all("\0" not in text and is_wire_text(text) for text in (session.token, session.message_id))
