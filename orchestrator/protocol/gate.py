"""The server's door: who is let in, in whose turn, and how much of a connection is read before somebody wants it.

A connection is judged by its address as soon as the kernel hands it over, which is a hundred times cheaper than to read
what it says. Then a `Gate` stands between the transport and the HTTP server: it counts bytes, stops reading while what
came is not yet used, and keeps strangers small: a connection without a session may send little, and not for long.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import ssl
import time
from collections import Counter, deque
from collections.abc import Callable, Coroutine
from typing import Any

from orchestrator import telemetry
from orchestrator.protocol.guard import Guard, TooMany
from orchestrator.protocol.holdings import Hold
from orchestrator.protocol.places import TrustedProxies, place_of
from orchestrator.protocol.turns import Turns

__all__ = ["Door", "Gate"]

log = logging.getLogger(__name__)

_BACKLOG = 4096
_ADMITTED_AT_ONCE = 32
ACCEPTING_S = 0.002
"""So much CPU time goes into accepting connections, and refusing most of them, before others have their turn again:
whoever has a session must not wait for a crowd at the door, and whoever has none not for long behind one."""
_MOST_WAITING = 512
"""accepted connections of one address that wait for their turn"""
_WELCOME_COST = 3.0
_HANDSHAKE_S = 30
_FAREWELL_S = 1
_STRANGER_READ = 8 * 1024
_READ = 64 * 1024
"""bytes that are read at once, and bytes that may wait to be used before no more are read"""
_STRANGER_BYTES = 256 * 1024
"""what a connection without a session may send after a request's headers, websocket frames included"""
_REFUSALS_KEPT = 256
_REFUSAL = (
    "HTTP/1.1 429 Too Many Requests\r\nRetry-After: 5\r\nConnection: close\r\n"
    "Content-Type: text/plain; charset=utf-8\r\nContent-Length: {}\r\n\r\n"
)


class Gate(asyncio.Protocol):
    """Between one connection and the HTTP server's protocol for it."""

    def __init__(self, door: Door, inner: asyncio.Protocol, place: str, *, is_direct: bool) -> None:
        self.place = place
        """the network address that counts for its limits; behind a trusted proxy, what the proxy says of a request"""
        self.is_direct = is_direct
        self.identity: str | None = None
        self.websocket: Any = None
        """who reads its packets, once it carries some"""
        self.since = time.monotonic()
        self.transport: asyncio.Transport
        self._door = door
        self._inner = inner
        self._is_known = False
        self._is_websocket = False
        self._is_wanted = True
        self._is_paused = False
        self._is_refused = False
        self._bytes = 0  # of a stranger, since its last request began
        self._unused = 0  # since somebody waited in vain
        self._hold: Hold | None = None
        self._waits = 0

    # --- what the transport tells

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        self._read_at_once(_STRANGER_READ)
        self._door.entered(self)
        self._inner.connection_made(transport)

    def data_received(self, data: bytes) -> None:
        size = len(data)
        self._unused += size
        telemetry.bytes_received.add(size)
        if not self._is_known:
            self._bytes += size
            if self._bytes > _STRANGER_BYTES:
                self._door.too_long(self)
                return
        self._inner.data_received(data)
        if not self._is_websocket:
            if not self._is_known and self._bytes > _STRANGER_BYTES // 4:
                # The body of a request: it is read when it is known whose.
                self._pause()
            return
        if self._is_wanted:
            # Part of one packet: whoever waits for it has not got it yet.
            if self._unused > _READ and self._hold is not None and not self._is_refused:
                self._hold.set(self._unused, self.identity)
                self._door.check(self, self._hold)
        elif self._unused > (_READ if self._is_known else _STRANGER_READ):
            self._pause()

    def eof_received(self) -> bool | None:
        return self._inner.eof_received()

    def pause_writing(self) -> None:
        self._inner.pause_writing()

    def resume_writing(self) -> None:
        self._inner.resume_writing()

    def connection_lost(self, error: Exception | None) -> None:
        self._waits += 1
        if self._hold is not None:
            self._hold.set(0, None)
        self._door.left(self)
        self._inner.connection_lost(error)

    # --- what the user of its packets tells

    def becomes_known(self, identity: str | None) -> None:
        """Its peer has a session: it may send as much as its identity may."""
        self.identity = identity
        if not self._is_known:
            self._is_known = True
            self._read_at_once(_READ)
            if self._is_paused and not self._is_websocket:
                self._resume()

    def begins_request(self) -> None:
        """A request was read to the end of its headers; what was sent before is done with."""
        self.since = time.monotonic()
        self._bytes = 0
        if self._is_paused and not self._is_websocket:
            self._resume()

    def becomes_websocket(self, reader: Any) -> None:
        self.websocket = reader
        self._is_websocket = True
        self._is_wanted = False
        self._hold = Hold(self._door.guard.holdings, self.place)

    def wants(self) -> None:
        """Somebody is about to wait for a packet. Only if there is none, more is read."""
        self._waits += 1
        asyncio.get_running_loop().call_soon(self._waits_in_vain, self._waits)

    def has(self) -> None:
        """Somebody got a packet."""
        self._waits += 1
        self._is_wanted = False
        if self._hold is not None and self._hold.size:
            self._hold.set(0, self.identity)

    def abort(self) -> None:
        self.transport.abort()

    def cut(self, reason: str) -> None:
        """Abort for what its peer did; metrics count by the reason."""
        telemetry.connections_cut.add(1, {"reason": reason})
        self.abort()

    async def refuse(self, reason: str) -> None:
        """Read no more, tell the websocket's peer why, and close."""
        self._pause()
        self._is_refused = True
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_FAREWELL_S):
                await self.websocket.refuse(reason)
        self.abort()

    @property
    def is_stranger(self) -> bool:
        return not self._is_known

    def _waits_in_vain(self, number: int) -> None:
        if number != self._waits:
            return
        self._is_wanted = True
        self._unused = 0
        if self._is_paused:
            self._resume()

    def _pause(self) -> None:
        if not self._is_paused:
            self._is_paused = True
            with contextlib.suppress(RuntimeError):  # closing
                self.transport.pause_reading()

    def _resume(self) -> None:
        if self._is_refused:
            return
        self._is_paused = False
        with contextlib.suppress(RuntimeError):
            self.transport.resume_reading()

    def _read_at_once(self, size: int) -> None:
        # asyncio's own name for it; a transport without it reads as much as it likes.
        if hasattr(self.transport, "max_size"):
            self.transport.max_size = size


class Door:
    """Listens, lets connections in one after the other, fairly by address, and knows those that are in."""

    def __init__(
        self,
        guard: Guard,
        turns: Turns,
        proxies: TrustedProxies,
        spawn: Callable[[Coroutine[Any, Any, None]], object],
    ) -> None:
        self.guard = guard
        self._turns = turns
        self._proxies = proxies
        self._spawn = spawn
        self._listeners: list[socket.socket] = []
        self._waiting: Counter[str] = Counter()
        self._arriving: set[socket.socket] = set()
        """accepted connections that nobody looks after yet"""
        self._gates: dict[asyncio.BaseTransport, Gate] = {}
        self._refusals: deque[tuple[float, socket.socket]] = deque()
        self.turned_away = 0

    def __len__(self) -> int:
        return len(self._gates)

    def gate(self, transport: asyncio.BaseTransport | None) -> Gate | None:
        return None if transport is None else self._gates.get(transport)

    async def listen(
        self, host: str, port: int, make: Callable[[], asyncio.Protocol], tls: ssl.SSLContext | None
    ) -> int:
        """Accept connections at an address, one protocol of `make` for each; the port. Raises OSError."""
        loop = asyncio.get_running_loop()
        infos = await loop.getaddrinfo(host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        opened: list[socket.socket] = []
        try:
            for family, kind, protocol, _, address in dict.fromkeys(infos):
                one = socket.socket(family, kind, protocol)
                opened.append(one)
                one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                if family == socket.AF_INET6:
                    one.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
                one.setblocking(False)
                one.bind(address)
                one.listen(_BACKLOG)
        except OSError:
            for one in opened:
                one.close()
            raise
        for one in opened:
            self._listeners.append(one)
            loop.add_reader(one, self._accept, one, make, tls)
        return int(opened[0].getsockname()[1])

    def close(self) -> None:
        """Accept no more. Connections that are in stay."""
        for listener in self._listeners:
            asyncio.get_running_loop().remove_reader(listener)
            listener.close()
        self._listeners.clear()
        for connection in self._arriving:
            connection.close()
        self.sweep(now=float("inf"), patience=float("inf"))

    def sweep(self, now: float, patience: float) -> None:
        """Abort connections that have been strangers for longer than `patience` seconds."""
        for gate in [one for one in self._gates.values() if one.is_stranger and now - one.since > patience]:
            gate.cut("silent")
        while self._refusals and self._refusals[0][0] < now:
            self._refusals.popleft()[1].close()

    # --- coming in

    def _accept(
        self, listener: socket.socket, make: Callable[[], asyncio.Protocol], tls: ssl.SSLContext | None
    ) -> None:
        admitted, until = 0, time.thread_time() + ACCEPTING_S
        while admitted < _ADMITTED_AT_ONCE and time.thread_time() < until:
            try:
                connection, address = listener.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as error:
                # Out of files or memory: the listener stays readable, and is tried again when something was closed.
                log.warning("cannot accept a connection: %s", error, extra={"action": "accept-failed"})
                loop = asyncio.get_running_loop()
                loop.remove_reader(listener)
                loop.call_later(1, self._accept_again, listener, make, tls)
                return
            place = place_of(address[0])
            is_direct = not self._proxies.trusts(address[0])
            now = time.monotonic()
            try:
                if is_direct:
                    self.guard.admit(place, now)
                if self._waiting[place] >= _MOST_WAITING:
                    raise TooMany(
                        f"{_MOST_WAITING} connections of address {place} wait already; connect again later", "waiting"
                    )
            except TooMany as error:
                self.refused(place, error)
                self._refuse(connection, error.message, now, is_plain=tls is None)
                continue
            connection.setblocking(False)
            self._waiting[place] += 1
            self._arriving.add(connection)
            self._spawn(self._welcome(connection, place, is_direct, make, tls))
            admitted += 1

    def _accept_again(self, listener: socket.socket, *arguments: Any) -> None:
        if listener in self._listeners:
            asyncio.get_running_loop().add_reader(listener, self._accept, listener, *arguments)

    async def _welcome(
        self,
        connection: socket.socket,
        place: str,
        is_direct: bool,
        make: Callable[[], asyncio.Protocol],
        tls: ssl.SSLContext | None,
    ) -> None:
        self._arriving.discard(connection)
        try:
            if connection.fileno() < 0:
                return  # closed before anybody looked after it
            await self._turns.take(place, cost=_WELCOME_COST)
            loop = asyncio.get_running_loop()
            handshake = None if tls is None else _HANDSHAKE_S
            await loop.connect_accepted_socket(
                lambda: Gate(self, make(), place, is_direct=is_direct), connection, ssl=tls,
                ssl_handshake_timeout=handshake,
            )  # fmt: skip
        except (OSError, TimeoutError):  # it left meanwhile, or speaks no TLS
            connection.close()
        except BaseException:
            connection.close()
            raise
        finally:
            self._waiting[place] -= 1
            if not self._waiting[place]:
                del self._waiting[place]

    def _refuse(self, connection: socket.socket, why: str, now: float, *, is_plain: bool) -> None:
        """Say why in one packet and close; in a flood, close at once."""
        self.turned_away += 1
        if is_plain and len(self._refusals) < _REFUSALS_KEPT:
            text = f"{why}\n".encode()
            with contextlib.suppress(OSError):
                connection.setblocking(False)
                connection.send(_REFUSAL.format(len(text)).encode() + text)
                connection.shutdown(socket.SHUT_WR)
                # What it sends would reset the connection before the answer is read.
                self._refusals.append((now + 1, connection))
                return
        connection.close()

    # --- those that are in

    def entered(self, gate: Gate) -> None:
        self._gates[gate.transport] = gate
        telemetry.connections_made.add(1)
        if gate.is_direct:
            self.guard.opened(gate.place)

    def left(self, gate: Gate) -> None:
        if self._gates.pop(gate.transport, None) is not None and gate.is_direct:
            self.guard.gone(gate.place)

    def too_long(self, gate: Gate) -> None:
        """A stranger has sent too much."""
        self.offence(gate.place, f"{_STRANGER_BYTES} bytes before there is a session")
        gate.cut("too_long")

    def refused(self, place: str, error: TooMany, by: Gate | None = None) -> None:
        """A connection, or a socket on one."""
        telemetry.connections_refused.add(1, {"reason": error.why})
        if error.why == "rate":
            self.offence(place, "it connects too often", by)

    def check(self, gate: Gate, hold: Hold) -> None:
        """A packet grows: is there room for it?"""
        excess = hold.excess()
        if excess is not None:
            self.guard.refused += 1
            log.info("dropped a connection: %s", excess, extra={"action": "refused"})
            telemetry.connections_cut.add(1, {"reason": "held"})
            self._spawn(gate.refuse(excess))

    def offence(self, place: str, what: str, by: Gate | None = None) -> None:
        """An address has sent what no honest peer sends. With too many of these, its strangers must go; but `by`, which
        is closed in any case, is still told why."""
        if self.guard.offend(place, what, time.monotonic()):
            log.warning(
                "address %s is banned for %g s: too many offences, the last: %s",
                place, self.guard.limits.ban_s, what, extra={"action": "banned"},
            )  # fmt: skip
            self.cut_strangers(place, but=by)

    def cut_strangers(self, place: str, but: Gate | None = None) -> None:
        """An address is banned: its connections without a session must go."""
        for gate in [one for one in self._gates.values() if one.is_stranger and one.place == place]:
            if gate is not but:
                gate.cut("banned")
