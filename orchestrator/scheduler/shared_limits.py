"""Limits of an identity hold at all processes together, about: each tells the others every second who used much.

Whoever spreads over processes may use each one's burst at once; after a second they are charged with what was used
elsewhere. What an identity uses below a fiftieth of its rate is not told.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from typing import Any

from orchestrator.protocol.guard import Spent
from orchestrator.protocol.server import DcpServer
from orchestrator.scheduler.cluster import Cluster

SHARE_S = 1.0
_STALE_S = 5.0
"""what a process said of sessions so long ago is not so any more"""
_NOTICED = 0.02
"""the part of its limit from which on the sessions of an identity are told"""


class SharedLimits:
    def __init__(self, server: DcpServer, cluster: Cluster) -> None:
        self._server = server
        self._cluster = cluster
        self._sessions: dict[str, dict[str, tuple[int, float]]] = {}
        """by identity and process: how many, and when that was said"""
        server.guard.is_shared = True
        server.books.sessions_elsewhere = self.sessions_elsewhere
        cluster.hear("spent", self._spent_elsewhere)
        cluster.hear("sessions", self._sessions_there)

    async def run(self) -> None:
        while True:
            await asyncio.sleep(SHARE_S)
            self.share()

    def share(self) -> None:
        for identity, spent in self._server.guard.take_spent().items():
            self._cluster.tell("spent", identity, spent.messages, spent.requests, spent.characters)
        least = max(2, round(_NOTICED * self._server.limits.guard.identity_sessions))
        for identity, count in self._server.books.by_peer.items():
            if count >= least:
                self._cluster.tell("sessions", identity, self._cluster.process, count)
        stale = time.monotonic() - _STALE_S
        for identity, told in list(self._sessions.items()):
            fresh = {process: one for process, one in told.items() if one[1] >= stale}
            if fresh:
                self._sessions[identity] = fresh
            else:
                del self._sessions[identity]

    def _spent_elsewhere(self, items: Sequence[Any]) -> None:
        now = time.monotonic()
        for identity, messages, requests, characters in items:
            self._server.guard.charge(identity, Spent(messages, requests, characters), now)

    def _sessions_there(self, items: Sequence[Any]) -> None:
        now = time.monotonic()
        for identity, process, count in items:
            self._sessions.setdefault(identity, {})[process] = count, now

    def sessions_elsewhere(self, identity: str) -> int:
        stale = time.monotonic() - _STALE_S
        return sum(count for count, at in self._sessions.get(identity, {}).values() if at >= stale)
