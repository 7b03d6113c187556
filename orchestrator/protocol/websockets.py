"""Websockets of socket.io, served without what its library does for each packet.

engine.io would make two tasks and two timers for a packet and pass it through a dozen layers, which costs as much as
checking a signature. What is not an event `message`, and whatever was begun over polling, still goes through it.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from typing import Any, Protocol

import engineio
from engineio.async_drivers.aiohttp import WebSocket

from orchestrator.protocol.gate import Door, Gate
from orchestrator.task_groups import TaskGroup

__all__ = ["FairWebSocket", "Owner"]

_POLICY_VIOLATION = 1008
_LONGEST_REASON = 120
# engine.io's MESSAGE, socket.io's EVENT in the root namespace without an id
_MESSAGE = '42["message",'
_decode = json.JSONDecoder().raw_decode


class Owner(Protocol):
    """All sockets."""

    door: Door

    def place(self, request: Any) -> str: ...

    async def paced(self, place: str, identity: str | None, size: int) -> None: ...

    def take(self, eio_sid: str, message: str) -> None: ...


class FairWebSocket(WebSocket):  # type: ignore[misc]
    """engine.io's websocket whose packets are read in turn, and no sooner than somebody waits for them."""

    def __init__(self, owner: Owner, handler: Any, server: Any) -> None:
        self._engine = handler.__self__
        """engine.io's socket, whose method would serve this one"""
        super().__init__(handler if self._engine.connected else self._serve, server)
        self._owner = owner
        self._gate: Gate | None = None
        self._place = ""

    async def __call__(self, environ: dict[str, Any]) -> Any:
        request = environ["aiohttp.request"]
        self._gate = self._owner.door.gate(request.transport)
        self._place = self._owner.place(request)
        if self._gate is not None:
            self._gate.becomes_websocket(self)
        return await super().__call__(environ)

    async def wait(self) -> Any:
        gate = self._gate
        if gate is None:
            data, identity = await super().wait(), None
        else:
            gate.wants()
            try:
                data = await super().wait()
            finally:
                gate.has()
            identity = gate.identity
        await self._owner.paced(self._place, identity, len(data))
        return data

    async def refuse(self, reason: str) -> None:
        """Close with a reason that the peer can read."""
        text = reason.encode()[:_LONGEST_REASON].decode(errors="ignore")
        await self._sock.close(code=_POLICY_VIOLATION, message=text.encode())

    # --- serving

    async def _serve(self, _: Any) -> None:
        """Packets in and out until one side closes. Peers that fall silent are noticed by engine.io's pings."""
        engine = self._engine
        engine.connected = engine.upgraded = True
        async with TaskGroup() as group:
            group.create_task(self._write())
            # However it ends, cancelled included, engine.io hears of it.
            with contextlib.suppress(Exception, asyncio.CancelledError):
                while True:
                    await self._received(await self.wait())
            await engine.queue.put(None)
        await engine.close(wait=False, abort=True, reason=engine.server.reason.TRANSPORT_CLOSE)

    async def _received(self, packet: str | bytes) -> None:
        """Raises what must end the connection."""
        if isinstance(packet, str) and packet.startswith(_MESSAGE):
            with contextlib.suppress(ValueError, RecursionError):
                event, end = _decode(packet, 2)
                if end == len(packet) and len(event) == 2 and isinstance(event[1], str):
                    self._owner.take(self._engine.sid, event[1])
                    return
        decoded = engineio.packet.Packet(encoded_packet=packet)
        try:
            await self._engine.receive(decoded)
        except engineio.exceptions.SocketIsClosedError:
            raise
        except Exception:  # noqa: S110 — as engine.io does: a packet that makes no sense is passed over
            pass

    async def _write(self) -> None:
        queue = self._engine.queue
        with contextlib.suppress(Exception):  # the connection is gone, and its reader sees that, too
            while True:
                packet = await queue.get()
                queue.task_done()
                if packet is None:
                    break
                encoded = packet.encode()
                await (self._sock.send_bytes if isinstance(encoded, bytes) else self._sock.send_str)(encoded)
        await self._sock.close()
