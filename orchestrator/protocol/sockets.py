"""socket.io on the server's side: sockets that carry strings, and nothing of DCP.

This is the only module that knows python-socketio's server. Settings are the ones that the reference clients need
(observed with dcp-client 5.6.1 and 4.4.29): websocket first, polling possible, messages handled in their order, packets
of several megabytes, the reference's ping times.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import json
import logging
import ssl
import time
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, Literal

import engineio
import socketio
from aiohttp import web
from aiohttp.typedefs import Handler

from orchestrator import telemetry
from orchestrator.protocol.framing import ANNOUNCEMENT, FramingLimits, Receiver, Sender
from orchestrator.protocol.gate import Door, Gate
from orchestrator.protocol.guard import Guard, TooMany
from orchestrator.protocol.holdings import Hold
from orchestrator.protocol.link import Link
from orchestrator.protocol.packets import Connect, Disconnect, MalformedPacket, Outer, engine_packet, socket_packet
from orchestrator.protocol.places import TrustedProxies, place_of
from orchestrator.protocol.session_memory import Memory
from orchestrator.protocol.signing import Envelope
from orchestrator.protocol.turns import Turns
from orchestrator.protocol.unread import UnreadPackets, current_request
from orchestrator.protocol.websockets import FairWebSocket
from orchestrator.task_groups import TaskGroup

__all__ = ["ServerSocket", "SocketServer"]

log = logging.getLogger(__name__)
# The library logs a traceback for every malformed packet; any peer could fill a disk with them.
_library_log = logging.getLogger(f"{__name__}.library")
_library_log.setLevel(logging.CRITICAL)

# A fragment has up to a million characters, three bytes each, and socket.io escapes its quotes.
_MAX_PACKET_BYTES = 8 * 1024 * 1024
_CLOSE_TIMEOUT = 1
_PATH_SUFFIX = "dcp5/socketio/"
_REQUEST_COST = 4.0
_CHARACTERS_PER_UNIT = 8192
_RESERVED = 10
"""one connection of so many is kept for addresses that have a session"""
_MOST_POLLED = 16
"""packets in one body"""
# Marks in the environment that engine.io keeps of a connection:
_HAS_CONNECTED = "dcp.has_connected"
_MALFORMED = "dcp.malformed"
"""what was wrong with what it sent"""


class ServerSocket:
    """One socket.io connection. Keeps order; `send` and `drop` only queue."""

    def __init__(
        self, server: SocketServer, sid: str, eio_sid: str, service: str, dialect: Literal[4, 5], *, place: str
    ) -> None:
        self.service = service
        self.place = place
        """the network address that counts for its limits"""
        self.hold = Hold(server.guard.holdings, place)
        """messages of which parts have come"""
        self.reason = ""
        self.dialect: Literal[4, 5] = dialect
        self.sender = Sender()
        self.receiver = Receiver(server.greeting)
        self.link: Link | None = None
        self.since = time.monotonic()
        self.is_dropped = False
        self.is_established = False
        self.is_stray = False
        """Its peer was told that its session is unknown, and has nothing more to say."""
        self.has_sought = False
        self.waiting: list[tuple[Envelope, int]] | None = None
        """What it has sent while its session is sought among those of other processes."""
        self.sid = sid
        self.eio_sid = eio_sid
        self._server = server

    def send(self, message: str) -> None:
        if not self.is_dropped:
            for frame in self.sender.frames(message):
                self._server.post(self, frame)

    def send_raw(self, packet: str) -> None:
        self._server.post(self, packet)

    def drop(self, reason: str = "") -> None:
        """Close after what was queued before; with a reason, at once, and a websocket is told."""
        if not self.is_dropped:
            self.is_dropped = True
            self.reason = reason
            self._server.post(self, None)

    @property
    def identity(self) -> str | None:
        """Whose session it carries; None before it has named one."""
        return None if self.link is None else self.link.session.peer

    def established(self, limits: FramingLimits) -> None:
        """Its session is established: it may send what sessions may."""
        if self.is_established or self.is_dropped:
            return
        self.is_established = True
        self.receiver.limits = limits
        self._server.established(self.eio_sid)
        gate = self._server.gate_of(self.eio_sid)
        if gate is not None:
            gate.becomes_known(self.identity)

    def offend(self, what: str) -> None:
        """It has sent what no honest peer sends: drop it, and remember that of its address."""
        self._server.door.offence(self.place, what, self._server.gate_of(self.eio_sid))
        self.drop(what)


class SocketServer:
    """All sockets of all services on one aiohttp application."""

    def __init__(
        self,
        services: Sequence[str],
        *,
        on_message: Callable[[ServerSocket, str], None],
        on_malformed: Callable[[ServerSocket, MalformedPacket], None],
        on_gone: Callable[[ServerSocket], None],
        spawn: Callable[[Coroutine[Any, Any, None]], object],
        unread_packets: int,
        unread_characters: int,
        most_sockets: int,
        greeting: FramingLimits,
        memory: Memory,
        guard: Guard,
        turns: Turns,
        proxies: TrustedProxies,
    ) -> None:
        self._memory = memory
        self.guard = guard
        self._proxies = proxies
        self.turns = turns
        self.door = Door(guard, self.turns, proxies, spawn)
        self._most_sockets = most_sockets
        self.greeting = greeting
        self._on_message = on_message
        self._on_malformed = on_malformed
        self._on_gone = on_gone
        self._spawn = spawn
        self._sockets: dict[str, ServerSocket] = {}
        self._by_engine: dict[str, ServerSocket] = {}
        self._strangers: dict[str, float] = {}  # engine.io sockets without socket.io, and when they were first seen
        # One writer for all: handing a packet to engine.io does not wait for the network.
        self._post: asyncio.Queue[tuple[ServerSocket, str | None]] = asyncio.Queue()
        self._sio = socketio.AsyncServer(
            async_mode="aiohttp",
            async_handlers=False,  # messages of a socket one after the other
            always_connect=True,  # the CONNECT packet before our announcement
            cors_allowed_origins="*",
            allow_upgrades=False,  # DCP's clients begin with what they stay with
            ping_interval=10.1,
            ping_timeout=60.01,
            max_http_buffer_size=_MAX_PACKET_BYTES,
            http_compression=False,
            logger=_library_log,
            engineio_logger=_library_log,
        )
        self._sio.eio.create_queue = functools.partial(UnreadPackets, self, unread_packets, unread_characters)
        self._sio.eio._async = {**self._sio.eio._async, "websocket": functools.partial(FairWebSocket, self)}
        self._sio.on("connect", self._connected)
        self._sio.on("disconnect", self._disconnected)
        # Its own handler of these would take whatever socket.io knows.
        self._sio.eio.on("message", self._message)
        self._sio.eio.on("disconnect", self._engine_gone)
        self.app = web.Application(client_max_size=_MAX_PACKET_BYTES, middlewares=[self._in_turn])
        self._mounts: dict[str, tuple[str, Literal[4, 5]]] = {}
        for name in services:
            self._mounts[f"/{name}/"] = (name, 4)
            self._mounts[f"/{name}/{_PATH_SUFFIX}"] = (name, 5)
        for path in self._mounts:
            for method in ("GET", "POST", "OPTIONS"):
                self.app.router.add_route(method, path, self._serve)

    def __len__(self) -> int:
        return len(self._sockets)

    def post(self, socket: ServerSocket, packet: str | None) -> None:
        """Queue a packet; None closes the socket after what was queued before."""
        self._post.put_nowait((socket, packet))

    async def run(self) -> None:
        """Write what was posted, for ever."""
        while True:
            posted = [await self._post.get()]
            while not self._post.empty():
                posted.append(self._post.get_nowait())
            if not self._memory.is_settled:
                # Acks are remembered as they are posted: once is enough for all of these, whatever comes meanwhile.
                await self._memory.settle()
            for socket, packet in posted:
                if packet is None:
                    self._spawn(self._close_engine(socket.eio_sid, socket.reason))
                elif socket.sid in self._sockets:
                    # The text that python-socketio would make of emit("message", packet), without its detours.
                    with contextlib.suppress(engineio.exceptions.EngineIOError):  # closed meanwhile
                        await self._sio.eio.send(socket.eio_sid, "2" + json.dumps(["message", packet]))

    async def listen(self, host: str, port: int, server: web.Server, tls: ssl.SSLContext | None) -> int:
        """Accept connections at an address; the port. Raises OSError."""
        return await self.door.listen(host, port, server, tls)

    def gate_of(self, eio_sid: str) -> Gate | None:
        """Through which a websocket came."""
        environ = self._sio.environ.get(eio_sid)
        return None if environ is None else self.door.gate(environ["aiohttp.request"].transport)

    async def close(self) -> None:
        """Close all sockets."""
        self.door.close()
        for socket in list(self._sockets.values()):
            socket.is_dropped = True
        async with TaskGroup() as group:
            for socket in list(self._sockets.values()):
                group.create_task(self._close_engine(socket.eio_sid, socket.reason))
        await self._sio.shutdown()

    def drop_silent(self, seconds: float) -> None:
        """Drop sockets that have not named a session within this time."""
        now = time.monotonic()
        for socket in list(self._sockets.values()):
            if socket.link is None and not socket.is_dropped and now - socket.since > seconds:
                telemetry.connections_cut.add(1, {"reason": "silent"})
                socket.drop(f"no session within {seconds:g} s")
        # Whoever has not even got so far, is not told.
        self.door.sweep(now, seconds + _CLOSE_TIMEOUT)
        known = {socket.eio_sid for socket in self._sockets.values()}
        strangers = {eio_sid: self._strangers.get(eio_sid, now) for eio_sid in self._sio.eio.sockets.keys() - known}
        for eio_sid, since in strangers.items():
            if now - since > seconds:
                self._spawn(self._close_engine(eio_sid, ""))
        self._strangers = strangers

    async def _close_engine(self, eio_sid: str, reason: str) -> None:
        """Send what is queued and close; a peer that does not read is cut off. With a reason, a websocket is told at
        once, and nothing else."""
        engine, environ = self._sio.eio.sockets.get(eio_sid), self._sio.environ.get(eio_sid)
        if engine is None or engine.closed or engine.closing:
            return
        gate = self.gate_of(eio_sid)
        websocket = None if gate is None else gate.websocket
        socket = self._by_engine.get(eio_sid)
        try:
            async with asyncio.timeout(_CLOSE_TIMEOUT):
                if reason and websocket is not None:
                    await websocket.refuse(reason)
                elif reason:
                    await engine.close(wait=False, abort=True, reason=self._sio.eio.reason.SERVER_DISCONNECT)
                else:
                    if socket is not None:
                        await self._sio.disconnect(socket.sid)
                    await engine.close(wait=False, reason=self._sio.eio.reason.SERVER_DISCONNECT)
                    await engine.queue.join()
        except (TimeoutError, engineio.exceptions.EngineIOError):
            pass
        # engine.io would leave the closing of a websocket to the peer, and keep what is closed for a minute.
        _cut(environ)
        self._sio.eio.sockets.pop(eio_sid, None)

    @web.middleware
    async def _in_turn(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Requests are served in turn, whatever they ask for."""
        gate = self.door.gate(request.transport)
        if gate is not None:
            gate.begins_request()
        await self.turns.take(self.place(request), cost=_REQUEST_COST)
        return await handler(request)

    async def _serve(self, request: web.Request) -> web.StreamResponse:
        place = self.place(request)
        gate = self.door.gate(request.transport)
        # The connections of a proxy are those of whom it speaks for.
        is_counted = gate is not None and gate.is_direct
        if "sid" in request.query and "Upgrade" in request.headers:
            return web.Response(status=400, text="a connection that polls cannot be upgraded\n")
        if "sid" not in request.query and request.method == "GET":
            try:
                self._admit(place, is_counted=is_counted)
            except TooMany as error:
                log.info("refused a connection: %s", error, extra={"action": "refused"})
                self.door.refused(place, error, gate)
                return web.Response(status=429, text=f"{error.message}\n", headers={"Retry-After": "5"})
        if gate is not None:
            gate.place = place
        # A websocket's request lasts as long as its connection.
        if not is_counted:
            self.guard.opened(place)
        try:
            return await self._handle(request, gate)
        except ConnectionError:
            # The peer left before its answer: aiohttp would log a traceback for each.
            return web.Response(status=400)
        finally:
            if not is_counted:
                self.guard.gone(place)

    def place(self, request: web.Request) -> str:
        """The network address that a request counts for."""
        forwarded = ",".join(request.headers.getall("X-Forwarded-For", []))
        return place_of(self._proxies.client(request.remote, forwarded))

    def _admit(self, place: str, *, is_counted: bool) -> None:
        open_ones = len(self._sio.eio.sockets)
        if open_ones >= self._most_sockets:
            raise TooMany(
                f"{self._most_sockets} connections are open, as many as this server takes; try again later", "full"
            )
        if open_ones >= self._most_sockets - self._most_sockets // _RESERVED and not self.guard.has_session(place):
            raise TooMany("the last places are kept for addresses that have a session; try again later", "reserved")
        self.guard.check_sockets(place)
        if not is_counted:
            self.guard.admit(place, time.monotonic())

    async def _handle(self, request: web.Request, gate: Gate | None) -> web.StreamResponse:
        current_request.set(request)
        if request.method != "POST":
            return await self._sio.handle_request(request)  # type: ignore[no-any-return]
        eio_sid = request.query.get("sid", "")
        socket = self._by_engine.get(eio_sid)
        size = request.content_length
        if size is None or size > _MAX_PACKET_BYTES:
            return web.Response(status=413, text=f"a body of at most {_MAX_PACKET_BYTES} bytes must say its length\n")
        if socket is None or not socket.is_established:
            if size > self.greeting.message:
                return web.Response(
                    status=413, text=f"before there is a session a body may have {self.greeting.message} bytes\n"
                )
        elif gate is not None:
            gate.becomes_known(socket.identity)
        place = self.place(request)
        identity = socket.identity if socket is not None else None
        hold = Hold(self.guard.holdings, place)
        try:
            hold.set(size, identity)
            excess = hold.excess()
            if excess is not None:
                self.guard.refused += 1
                return web.Response(status=429, text=f"{excess}; send it again later\n", headers={"Retry-After": "5"})
            await self.paced(place, identity, size)
            return await self._polled(request, eio_sid)
        finally:
            hold.set(0, None)

    async def _polled(self, request: web.Request, eio_sid: str) -> web.StreamResponse:
        """Packets in a body."""
        body = await request.read()
        environ = self._sio.environ.get(eio_sid)
        if environ is not None:
            try:
                packets = body.decode().split("\x1e")
                if len(packets) > _MOST_POLLED:
                    raise MalformedPacket(f"a body may hold {_MOST_POLLED} packets, not {len(packets)}")
                for packet in packets:
                    engine_packet(packet)
            except MalformedPacket as error:
                self.malformed(eio_sid, error)
            except UnicodeDecodeError:
                self.malformed(eio_sid, MalformedPacket("a body must be UTF-8"))
            else:
                # engine.io reads it with one read(), which may end early.
                answer: web.StreamResponse = await self._sio.handle_request(_BufferedRequest(request, body))
                if _MALFORMED not in environ:
                    return answer
            return web.Response(status=400, text=f"{environ.get(_MALFORMED, 'the connection is closed')}\n")
        return await self._sio.handle_request(_BufferedRequest(request, body))  # type: ignore[no-any-return]

    async def paced(self, place: str, identity: str | None, size: int) -> None:
        """Wait until a packet of this size may be handled: as the rates say, and in turn."""
        telemetry.messages_read.add(1)
        pause = self.guard.received(place, identity, size, time.monotonic())
        if pause > 0:
            await asyncio.sleep(pause)
        await self.turns.take(place, identity or "", 1 + size / _CHARACTERS_PER_UNIT)

    def established(self, eio_sid: str) -> None:
        """This connection of engine.io carries an established session."""
        engine = self._sio.eio.sockets.get(eio_sid)
        if engine is not None:
            engine.queue.establish()

    async def _engine_gone(self, eio_sid: str, reason: str) -> None:
        await self._sio._handle_eio_disconnect(eio_sid, reason)
        engine = self._sio.eio.sockets.get(eio_sid)
        if engine is not None:
            engine.queue.release()

    def _connected(self, sid: str, *_: Any) -> None:
        environ = self._sio.get_environ(sid)
        if sid in self._sockets or environ is None:
            return
        service, dialect = self._mounts[environ["PATH_INFO"]]
        eio_sid = self._sio.manager.eio_sid_from_sid(sid, "/")
        place = self.place(environ["aiohttp.request"])
        socket = self._sockets[sid] = ServerSocket(self, sid, eio_sid, service, dialect, place=place)
        self._by_engine[eio_sid] = socket
        socket.send_raw(ANNOUNCEMENT)

    def _disconnected(self, sid: str, *_: Any) -> None:
        socket = self._sockets.pop(sid, None)
        if socket is not None:
            self._by_engine.pop(socket.eio_sid, None)
            socket.hold.set(0, None)
            self._on_gone(socket)

    async def engine_packet(self, engine: Any, packet: str | bytes) -> None:
        """What came over a websocket. Raises `MalformedPacket`."""
        kind, carried = engine_packet(packet)
        match kind:
            case Outer.MESSAGE:
                await self._message(engine.sid, carried)
            case Outer.PONG:
                engine.schedule_ping()
            case Outer.CLOSE:
                await engine.close(wait=False, abort=True, reason=engine.server.reason.CLIENT_DISCONNECT)

    async def _message(self, eio_sid: str, carried: Any) -> None:
        """A packet of socket.io. Only what is expected reaches the library."""
        environ = self._sio.environ.get(eio_sid)
        if environ is None:
            return  # it is gone
        try:
            if not isinstance(carried, str):
                raise MalformedPacket("a packet of socket.io must begin with a digit")
            packet = socket_packet(carried)
            if isinstance(packet, Connect) == (_HAS_CONNECTED in environ):
                raise MalformedPacket("a connection must connect to socket.io once, before anything else")
        except MalformedPacket as error:
            self.malformed(eio_sid, error)
            return
        if isinstance(packet, Connect):
            environ[_HAS_CONNECTED] = True
            await self._sio._handle_eio_message(eio_sid, "0")
        elif isinstance(packet, Disconnect):
            await self._sio._handle_eio_message(eio_sid, "1")
        elif packet.message is not None:  # anything else is not DCP; the reference ignores it
            self._take(self._by_engine.get(eio_sid), packet.message)

    def malformed(self, eio_sid: str, error: MalformedPacket) -> None:
        """Who sends what no client sends is told so, once, and closed."""
        environ = self._sio.environ.get(eio_sid)
        if environ is None or _MALFORMED in environ:
            return
        environ[_MALFORMED] = error.message
        socket, engine = self._by_engine.get(eio_sid), self._sio.eio.sockets.get(eio_sid)
        if socket is not None:
            if not socket.is_dropped:
                self._on_malformed(socket, error)
        elif engine is not None and not engine.closing:
            telemetry.messages_dropped.add(1, {"reason": "malformed"})
            log.info("dropped a connection: %s", error, extra={"action": "malformed"})
            self.door.offence(self.place(environ["aiohttp.request"]), error.message, self.gate_of(eio_sid))
            self._spawn(self._close_engine(eio_sid, error.message))

    def take(self, eio_sid: str, message: str) -> bool:
        """What came in an event `message`, over this connection of engine.io; False when it has not connected."""
        socket = self._by_engine.get(eio_sid)
        self._take(socket, message)
        return socket is not None

    def _take(self, socket: ServerSocket | None, message: str) -> None:
        if socket is None or socket.is_dropped:
            return
        try:
            self._on_message(socket, message)
        except Exception:  # a bug of ours may cost this peer its socket, and nobody else anything
            log.exception("a packet for %s could not be handled", socket.service, extra={"action": "bug"})
            socket.drop()


def _cut(environ: dict[str, Any] | None) -> None:
    """Close the TCP connection; what was written before is still sent, if the peer reads it soon."""
    request = environ.get("aiohttp.request") if environ is not None else None
    if request is not None and request.transport is not None:
        request.transport.close()
        asyncio.get_running_loop().call_later(_CLOSE_TIMEOUT, request.transport.abort)


class _BufferedRequest:
    """A request whose body has been read to its end."""

    def __init__(self, request: web.Request, body: bytes) -> None:
        self._request = request
        self._body = body
        self.content = self

    async def read(self, _: int = -1) -> bytes:
        return self._body

    def __getattr__(self, name: str) -> Any:
        return getattr(self._request, name)
