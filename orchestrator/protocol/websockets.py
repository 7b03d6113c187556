"""Websockets of socket.io, served without what its library does for each packet.

engine.io would make two tasks and two timers for a packet and pass it through a dozen layers, which costs as much as
checking a signature. And aiohttp would answer pings, however many, before anybody else has their turn, and unpack what
is compressed: a few kilobytes that become megabytes. No DCP client compresses.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from typing import Any, Protocol

from aiohttp import WSMsgType, web
from engineio.async_drivers.aiohttp import WebSocket

from orchestrator.protocol.gate import Door, Gate
from orchestrator.protocol.packets import MalformedPacket
from orchestrator.task_groups import TaskGroup

__all__ = ["FairWebSocket", "Owner"]

_POLICY_VIOLATION = 1008
_LONGEST_REASON = 120
_ENDS = (WSMsgType.CLOSE, WSMsgType.CLOSING, WSMsgType.CLOSED, WSMsgType.ERROR)
# engine.io's MESSAGE, socket.io's EVENT in the root namespace without an id
_MESSAGE = '42["message",'
_decode = json.JSONDecoder().raw_decode


class Owner(Protocol):
    """All sockets."""

    door: Door

    def place(self, request: Any) -> str: ...

    async def paced(self, place: str, identity: str | None, size: int) -> None: ...

    def take(self, eio_sid: str, message: str) -> bool: ...

    async def engine_packet(self, engine: Any, packet: str | bytes) -> None: ...

    def malformed(self, eio_sid: str, error: MalformedPacket) -> None: ...


class FairWebSocket(WebSocket):  # type: ignore[misc]
    """engine.io's websocket whose packets are read in turn, and no sooner than somebody waits for them."""

    def __init__(self, owner: Owner, handler: Any, server: Any) -> None:
        super().__init__(self._serve, server)
        self._engine = handler.__self__
        """engine.io's socket, whose method would serve this one"""
        self._owner = owner
        self._gate: Gate | None = None
        self._place = ""

    async def __call__(self, environ: dict[str, Any]) -> web.WebSocketResponse:
        request = environ["aiohttp.request"]
        self._sock = web.WebSocketResponse(
            max_msg_size=self.server.max_http_buffer_size, compress=False, autoping=False
        )
        try:
            await self._sock.prepare(request)
        except BaseException:
            # It is no websocket. engine.io would keep its socket, and wait for pings.
            await self._engine.close(wait=False, abort=True, reason=self.server.reason.TRANSPORT_ERROR)
            self.server.sockets.pop(self._engine.sid, None)
            raise
        self._gate = self._owner.door.gate(request.transport)
        self._place = self._owner.place(request)
        if self._gate is not None:
            self._gate.becomes_websocket(self)
        await self._serve()
        return self._sock

    async def wait(self) -> str | bytes:
        """The next packet, in turn. Raises OSError when there will be none."""
        while True:
            message = await self._next()
            if message.type is WSMsgType.PING:
                await self._sock.pong(message.data)
            elif message.type is WSMsgType.TEXT or message.type is WSMsgType.BINARY:
                return message.data  # type: ignore[no-any-return]

    async def _next(self) -> Any:
        gate, identity = self._gate, None
        if gate is None:
            message = await self._sock.receive()
        else:
            gate.wants()
            try:
                message = await self._sock.receive()
            finally:
                gate.has()
            identity = gate.identity
        if message.type in _ENDS:
            raise OSError("the websocket is closed")
        await self._owner.paced(self._place, identity, len(message.data))
        return message

    async def refuse(self, reason: str) -> None:
        """Close with a reason that the peer can read."""
        text = reason.encode()[:_LONGEST_REASON].decode(errors="ignore")
        await self._sock.close(code=_POLICY_VIOLATION, message=text.encode())

    # --- serving

    async def _serve(self) -> None:
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
                is_dcp = end == len(packet) and len(event) == 2 and isinstance(event[1], str)
                if is_dcp and self._owner.take(self._engine.sid, event[1]):
                    return
        try:
            await self._owner.engine_packet(self._engine, packet)
        except MalformedPacket as error:
            self._owner.malformed(self._engine.sid, error)

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
