"""What a peer has not taken yet: the queue that engine.io keeps for each of its sockets, within bounds."""

from __future__ import annotations

import asyncio
import contextvars
import logging
from typing import Any, Protocol

from aiohttp import web

from orchestrator import telemetry
from orchestrator.protocol.gate import Door
from orchestrator.protocol.guard import Guard
from orchestrator.protocol.holdings import Hold

__all__ = ["UnreadPackets", "current_request"]

log = logging.getLogger(__name__)


class Owner(Protocol):
    """All sockets."""

    door: Door
    guard: Guard

    def place(self, request: web.Request) -> str: ...


# The request that engine.io is making a socket for.
current_request: contextvars.ContextVar[web.Request] = contextvars.ContextVar("current_request")


class UnreadPackets(asyncio.Queue[Any]):
    """The packets that a peer has not taken yet. Too many end its socket: engine.io itself would keep them all.

    Lives as long as engine.io's socket, of which one connection that polls may open many: so these are what is counted
    for an address.
    """

    def __init__(self, owner: Owner, most: int, most_characters: int) -> None:
        super().__init__()
        self._most = most
        self._most_characters = most_characters
        self._request = current_request.get()
        self._gate = owner.door.gate(self._request.transport)
        self._guard = owner.guard
        self._place = owner.place(self._request)
        self._hold = Hold(owner.guard.holdings, self._place)
        self._is_established = False
        self._is_released = False
        self._guard.socket_opened(self._place)

    def establish(self) -> None:
        """Its peer has a session."""
        if not self._is_established and not self._is_released:
            self._is_established = True
            self._guard.socket_established(self._place)

    def release(self) -> None:
        """Its socket is gone."""
        if not self._is_released:
            self._is_released = True
            self._hold.set(0, None)
            self._guard.socket_gone(self._place, is_established=self._is_established)

    def _count(self, characters: int) -> None:
        if not self._is_released and characters:
            identity = self._hold.identity if self._gate is None else self._gate.identity
            self._hold.set(self._hold.size + characters, identity)

    def _put(self, item: Any) -> None:
        super()._put(item)
        self._count(_size(item))

    def _get(self) -> Any:
        item = super()._get()
        self._count(-_size(item))
        return item

    async def put(self, item: Any) -> None:
        # One packet is always taken, whatever its size.
        held = self._hold.size
        fits = held == 0 or (held + _size(item) <= self._most_characters and self._hold.excess() is None)
        if (self.qsize() < self._most and fits) or item is None:
            self.put_nowait(item)
        elif self._request.transport is not None:
            # Whoever writes to this peer waits for it to read; only this wakes them.
            log.info("cut off a peer that does not read", extra={"action": "unread"})
            telemetry.connections_cut.add(1, {"reason": "unread"})
            self._request.transport.abort()


def _size(packet: Any) -> int:
    data = getattr(packet, "data", None)
    return len(data) if isinstance(data, str | bytes) else 0
