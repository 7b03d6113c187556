"""Limits of identities and addresses hold at all processes together, about: each tells the others every second who used
much.

Whoever spreads over processes may use each one's burst at once; after a second they are charged with what was used
elsewhere. What one uses below a fiftieth of a limit is not told.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from typing import Any

from orchestrator.protocol.guard import NOTHING, Arrived, Spent, Standing
from orchestrator.protocol.server import DcpServer
from orchestrator.scheduler.cluster import Cluster

SHARE_S = 1.0
_STALE_S = 5.0
"""what a process said of sessions so long ago is not so any more"""
_GONE_S = 2.5
"""the same of connections: those of a process that was killed come back at once"""
_NOTICED = 0.02
"""the part of its limit from which on the sessions of an identity are told"""


class SharedLimits:
    def __init__(self, server: DcpServer, cluster: Cluster) -> None:
        self._server = server
        self._cluster = cluster
        self._sessions: dict[str, dict[str, tuple[int, float]]] = {}
        """by identity and process: how many, and when that was said"""
        self._standing: dict[str, dict[str, tuple[Standing, float]]] = {}
        """by address and process: what it has there, and when that was said"""
        server.guard.is_shared = True
        server.guard.elsewhere = self.standing_elsewhere
        server.books.sessions_elsewhere = self.sessions_elsewhere
        cluster.hear("spent", self._spent_elsewhere)
        cluster.hear("sessions", self._sessions_there)
        cluster.hear("arrived", self._arrived_elsewhere)
        cluster.hear("standing", self._standing_there)

    async def run(self) -> None:
        while True:
            await asyncio.sleep(SHARE_S)
            self.share()

    def share(self) -> None:
        for identity, spent in self._server.guard.take_spent().items():
            self._cluster.tell("spent", identity, spent.messages, spent.requests, spent.characters)
        for place, came in self._server.guard.take_arrived().items():
            self._cluster.tell("arrived", place, came.connects, came.messages, came.offences)
        for place, has in self._server.guard.standing().items():
            self._cluster.tell("standing", place, self._cluster.process, has.connections, has.half_open, has.held)
        least = max(2, round(_NOTICED * self._server.limits.guard.identity_sessions))
        for identity, count in self._server.books.by_peer.items():
            if count >= least:
                self._cluster.tell("sessions", identity, self._cluster.process, count)
        now = time.monotonic()
        _forget(self._sessions, now - _STALE_S)
        _forget(self._standing, now - _GONE_S)

    def _spent_elsewhere(self, items: Sequence[Any]) -> None:
        now = time.monotonic()
        for identity, messages, requests, characters in items:
            self._server.guard.charge(identity, Spent(messages, requests, characters), now)

    def _sessions_there(self, items: Sequence[Any]) -> None:
        now = time.monotonic()
        for identity, process, count in items:
            self._sessions.setdefault(identity, {})[process] = count, now

    def _arrived_elsewhere(self, items: Sequence[Any]) -> None:
        now = time.monotonic()
        for place, connects, messages, offences in items:
            self._server.guard.charge_address(place, Arrived(connects, messages, offences), now)

    def _standing_there(self, items: Sequence[Any]) -> None:
        now = time.monotonic()
        for place, process, connections, half_open, held in items:
            self._standing.setdefault(place, {})[process] = Standing(connections, half_open, held), now

    def standing_elsewhere(self, place: str) -> Standing:
        told = self._standing.get(place)
        if not told:
            return NOTHING
        stale = time.monotonic() - _GONE_S
        fresh = [one for one, at in told.values() if at >= stale]
        return Standing(
            sum(one.connections for one in fresh), sum(one.half_open for one in fresh), sum(one.held for one in fresh)
        )

    def sessions_elsewhere(self, identity: str) -> int:
        stale = time.monotonic() - _STALE_S
        return sum(count for count, at in self._sessions.get(identity, {}).values() if at >= stale)


def _forget(told: dict[str, dict[str, tuple[Any, float]]], before: float) -> None:
    for name, by_process in list(told.items()):
        fresh = {process: one for process, one in by_process.items() if one[1] >= before}
        if fresh:
            told[name] = fresh
        else:
            del told[name]
