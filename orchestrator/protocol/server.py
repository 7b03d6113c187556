"""The server shell: DCP services on aiohttp and python-socketio.

Every service is mounted on two socket.io paths, because the two reference clients differ: `/<service>/dcp5/socketio/`
(dcp-client 5.x) and `/<service>/` (4.x, the official worker). Sessions are known by their dcpsid, never by a socket: a
client comes back on a new one.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
import ssl
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError

from orchestrator.errors import OrchestratorError
from orchestrator.fair_queue import acting_for
from orchestrator.protocol import messages, sockets
from orchestrator.protocol.errors import ConnectionClosed
from orchestrator.protocol.farewell import farewell
from orchestrator.protocol.framing import FramingError, FramingLimits
from orchestrator.protocol.guard import Guard, GuardLimits, Hold, TooMany, TrustedProxies
from orchestrator.protocol.link import Link, Transport
from orchestrator.protocol.scope import TaskScope
from orchestrator.protocol.session import Session
from orchestrator.protocol.session_memory import Memory, Remembered, SessionMemory
from orchestrator.protocol.signing import Envelope, MalformedMessage, open_envelope
from orchestrator.protocol.sockets import ServerSocket
from orchestrator.protocol.tokens import random_token
from orchestrator.protocol.validity import Stamps, used_before
from orchestrator.protocol.vocabulary import Breach, Event, IncomingRequest, Role, SessionLimits, State
from orchestrator.wallet import keys

__all__ = ["DcpServer", "Request", "ServerConnection", "ServerLimits", "Service"]

log = logging.getLogger(__name__)


def _is_ours(record: logging.LogRecord) -> bool:
    """Not what a peer sent that is no HTTP: aiohttp would log a traceback for each, and fill a disk with them."""
    return not (record.exc_info and isinstance(record.exc_info[1], HttpProcessingError))


_http_log = logging.getLogger(f"{__name__}.http")
_http_log.addFilter(_is_ours)

Dialect = Literal[4, 5]
ConfigText = Callable[[Literal[8, 9], str], str]
"""The configuration for a KVIN version, and for a client that reached the server under this origin (`http://host/`)."""
_SERVICE_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_-]*")
_HOST = re.compile(r"[A-Za-z0-9._-]{1,255}(:\d{1,5})?|\[[0-9a-fA-F:.]{2,45}\](:\d{1,5})?")
_CONFIG_PATH = "/etc/dcp-config.kvin"
_SEEK_S = 10.0
_ALWAYS_HELD = 1024 * 1024
"""characters that a session may hold however much its peer does in others"""
_MOST_WAITING = 64
"""messages of a client while its session is sought"""


@dataclass(frozen=True)
class ServerLimits:
    """What all peers together may make the server hold; times in seconds."""

    session: SessionLimits = field(default_factory=SessionLimits)
    framing: FramingLimits = field(default_factory=FramingLimits)
    guard: GuardLimits = field(default_factory=GuardLimits)
    sessions: int = 20_000
    sockets: int = 40_000
    # Before it has named its session a socket may send little, and not for long.
    greeting: FramingLimits = field(default_factory=lambda: FramingLimits(message=65_536, partial=1, fragments=8))
    greeting_timeout: float = 30
    # Packets that a peer leaves unread before its socket is dropped; more than the longest message has fragments.
    unread_packets: int = 10_000
    unread_characters: int = 256 * 1024 * 1024
    sweep_interval: float = 2
    # How long a client whose session an earlier process has left must be silent before that session is closed.
    heir_quiet: float = 0.3


@dataclass(frozen=True, slots=True)
class Request:
    """A request from a client.

    `data` is `messages.ABSENT` when the client sent none. `peer` is the address whose key signed the message.
    `authorized` are the further resources (accounts, identities) whose permission came with the request.
    """

    operation: str
    data: Any
    peer: str
    authorized: frozenset[str]
    connection: ServerConnection


class Service(Protocol):
    """What is mounted under a name. Raising `OrchestratorError` answers with an error of its code and message."""

    async def handle(self, request: Request) -> Any:
        """The answer's payload, any JSON value. Called once per request, many at a time."""


class BatchService(Service, Protocol):
    """A service that wants all the requests of one received message at once."""

    async def handle_batch(self, requests: Sequence[Request]) -> Sequence[Any | OrchestratorError]:
        """One payload or error for each request, in order; the answers leave as one batch.

        With a method `weigh(operation, data)`, a request counts as so many for the limits of its sender.
        """


class ServerConnection:
    """A client's session with one service."""

    def __init__(self, service: str, dialect: Dialect) -> None:
        self.service = service
        self.dialect: Dialect = dialect
        """4 or 5: which generation of the reference client. 4 reads KVIN up to v8, and knows no notifications."""
        self.closed = asyncio.Event()
        self._callbacks: list[Callable[[ConnectionClosed], None]] = []
        self._link: Link

    @property
    def dcpsid(self) -> str:
        return self._link.session.dcpsid or ""

    @property
    def peer(self) -> str:
        """The client's address, checksummed."""
        return self._link.session.peer or ""

    @property
    def is_connected(self) -> bool:
        """Whether its transport is up. Without, what is sent waits until the client comes back, if it does."""
        return self._link.transport is not None

    async def request(self, operation: str, data: Any = messages.ABSENT) -> Any:
        """Ask the client and wait for its answer; see `Link.request`.

        No time-out of its own: a client that has lost its transport may come back for two hours.
        """
        return await self._link.request(operation, data)

    def on_close(self, callback: Callable[[ConnectionClosed], None]) -> None:
        """Call this, once, when the session is over; at once when it already is."""
        if self.closed.is_set():
            callback(ConnectionClosed("the session is closed"))
        else:
            self._callbacks.append(callback)

    def close(self) -> None:
        """End the session in order; returns at once."""
        self._link.close()

    def statistics(self) -> dict[str, Any]:
        return {"service": self.service, "peer": self.peer, **self._link.session.statistics()}

    def __repr__(self) -> str:
        return f"<ServerConnection {self.service} {self.peer} {self.dcpsid[:8]} {self._link.session.state}>"


class DcpServer:
    """An HTTP server with DCP services.

        async with DcpServer(identity, {"pheme": service}, config_text) as server:
            await server.listen("127.0.0.1", 9001)
            await asyncio.Event().wait()

    `services` maps names to services, mounted at `/<name>/`. `config_text` gives the body of the configuration in KVIN
    version 8 or 9. When the `async with` ends, sockets are closed and handlers cancelled; clients will try to resume.
    """

    def __init__(
        self,
        identity: keys.PrivateKey,
        services: Mapping[str, Service],
        config_text: ConfigText,
        *,
        limits: ServerLimits | None = None,
        memory: Memory | None = None,
        proxies: TrustedProxies | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        for name in services:
            if not _SERVICE_NAME.fullmatch(name):
                raise ValueError(f"{name!r} cannot be the name of a service: letters and digits only")
        self.identity = identity
        self.limits = limits or ServerLimits()
        self._services = dict(services)
        self._config_text = config_text
        self._clock = clock
        self._stamps = Stamps()
        self.memory: Memory = SessionMemory() if memory is None else memory
        self._links: dict[str, _ServerLink] = {}
        self._unready: set[_ServerLink] = set()
        self._scope = TaskScope()
        self._refused = 0
        self._by_peer: Counter[str] = Counter()
        # Those without a transport, the longest first: strangers, and sessions that may be resumed.
        self._absent: tuple[dict[_ServerLink, None], dict[_ServerLink, None]] = ({}, {})
        self.guard = self._guard = Guard(self.limits.guard, time.monotonic())
        self.sessions_elsewhere: Callable[[str], int] = lambda _identity: 0
        """how many sessions an identity has at other processes"""
        self._proxies = proxies or TrustedProxies()
        self._sockets = sockets.SocketServer(
            list(services),
            on_message=self._on_packet,
            on_gone=self._on_gone,
            spawn=self._scope.spawn,
            unread_packets=self.limits.unread_packets,
            unread_characters=self.limits.unread_characters,
            most_sockets=self.limits.sockets,
            guard=self._guard,
            proxies=self._proxies,
            greeting=self.limits.greeting,
            memory=self.memory,
        )
        self.app = self._sockets.app
        self.app.router.add_get(_CONFIG_PATH, self._serve_config)
        self._runner: web.AppRunner | None = None
        self._ports: list[int] = []

    # --- running

    async def __aenter__(self) -> DcpServer:
        async with contextlib.AsyncExitStack() as stack:
            await stack.enter_async_context(self._scope)
            self._runner = web.AppRunner(self.app, access_log=None, shutdown_timeout=2, logger=_http_log)
            await self._runner.setup()
            stack.push_async_callback(self._runner.cleanup)
            stack.push_async_callback(self._sockets.close)
            self._scope.spawn(self._sweep())
            self._scope.spawn(self._sockets.run())
            self._stack = stack.pop_all()
        return self

    async def __aexit__(self, *exception: Any) -> bool | None:
        return await self._stack.__aexit__(*exception)

    async def listen(self, host: str = "127.0.0.1", port: int = 0, tls: ssl.SSLContext | None = None) -> int:
        """Accept connections at an address; returns the port. May be called for several addresses."""
        assert self._runner is not None, "listen inside `async with`"
        assert self._runner.server is not None
        port = await self._sockets.listen(host, port, self._runner.server, tls)
        self._ports.append(port)
        return port

    async def run(self, host: str = "127.0.0.1", port: int = 0) -> None:
        """Serve until cancelled."""
        async with self:
            await self.listen(host, port)
            await asyncio.Event().wait()

    @property
    def port(self) -> int:
        """The first port that `listen` took."""
        return self._ports[0]

    def add_routes(self, routes: Iterable[web.AbstractRouteDef]) -> None:
        """Further HTTP routes; before the server runs."""
        self.app.router.add_routes(routes)

    @property
    def connections(self) -> list[ServerConnection]:
        """The sessions that live, with or without a transport."""
        return [link.connection for link in self._links.values()]

    def sessions_by_identity(self) -> Mapping[str, int]:
        return self._by_peer

    def statistics(self) -> dict[str, Any]:
        return {
            "sessions": len(self._links),
            "sockets": len(self._sockets),
            "resumable": sum(link.transport is None for link in self._links.values()),
            "stamps": len(self._stamps),
            "handlers": len(self._scope) - 2,
            "refused": self._refused + self._guard.refused,
            "paused": self._guard.paused,
            "bans": self._guard.bans,
            "held_characters": self._guard.holdings.total,
            "turns_waited": self._sockets.turns.waited,
        }

    async def _sweep(self) -> None:
        while True:
            await asyncio.sleep(self.limits.sweep_interval)
            self.sweep()

    def sweep(self) -> None:
        """Let time pass for all sessions; the server does so by itself every few seconds."""
        for link in [*self._links.values(), *self._unready]:
            link.tick()
        self._sockets.drop_silent(self.limits.greeting_timeout)
        self._guard.sweep(time.monotonic())

    # --- configuration

    async def _serve_config(self, request: web.Request) -> web.Response:
        """`ver` is the version of the client's configuration format: 2.1 reads KVIN v9, 2.0 up to v8."""
        version = re.fullmatch(r"2\.(\d{1,4})(\.\d{1,4})?", request.query.get("ver", ""))
        if version is None:
            return web.Response(status=400, text="the query must name a format: ?ver=2.1.0 or ?ver=2.0.0\n")
        text = self._config_text(9 if int(version[1]) >= 1 else 8, self._origin(request))
        headers = {"Access-Control-Allow-Origin": "*", "Cache-Control": "no-cache"}
        return web.Response(body=text.encode(), content_type="application/x-kvin", charset="utf-8", headers=headers)

    def _origin(self, request: web.Request) -> str:
        """Under which origin the client reached us; a trusted proxy in between says so."""
        scheme, host = request.scheme, request.host
        if self._proxies.trusts(request.remote):
            said = request.headers.get("X-Forwarded-Proto", "").strip().lower()
            scheme = said if said in ("http", "https") else scheme
            named = request.headers.get("X-Forwarded-Host", "").strip()
            host = named if _HOST.fullmatch(named) else host
        return f"{scheme}://{host}/"

    # --- what comes over the sockets

    def _on_packet(self, socket: ServerSocket, packet: str) -> None:
        """Whatever a peer sends, it can end its own session and socket and nothing else."""
        try:
            try:
                messages_in = socket.receiver.receive(packet, socket.sender)
            finally:
                socket.hold.set(socket.receiver.characters, socket.identity)
            excess = socket.hold.excess() if socket.hold.size else None
            if excess is not None:
                # Its session lives on: the peer comes back and sends the message again.
                self._refused += 1
                log.warning("dropped a socket: %s", excess, extra={"action": "refused"})
                socket.drop(excess)
                return
            for message in messages_in:
                self._on_message(socket, open_envelope(message), len(message))
        except (FramingError, MalformedMessage) as error:
            self._refused += 1
            log.info("dropped a socket of %s: %s", socket.service, error, extra={"action": "malformed"})
            link = socket.link
            if link is not None:
                link.feed(Breach(error))
            socket.offend(error.message)

    def _on_message(self, socket: ServerSocket, envelope: Envelope, size: int) -> None:
        link = socket.link
        if link is None:
            if socket.is_stray:
                return  # the peer's ack of the farewell
            if socket.waiting is not None:
                if len(socket.waiting) >= _MOST_WAITING:
                    socket.drop()
                else:
                    socket.waiting.append((envelope, size))
                return
            if self._is_unknown(socket, envelope):
                socket.waiting = [(envelope, size)]
                self._scope.spawn(self._seek(socket, envelope))
                return
            link = self._find(socket, envelope)
            if link is None:
                return
            socket.link = link
            link.attach(socket)
        if link.transport is socket:
            assert isinstance(link, _ServerLink)
            link.take(envelope, size)

    def _is_unknown(self, socket: ServerSocket, envelope: Envelope) -> bool:
        """A session that only another process can know; each socket asks once."""
        dcpsid = envelope.body.get("dcpsid")
        return (
            self.memory.is_shared
            and not socket.has_sought
            and isinstance(dcpsid, str)
            and dcpsid not in self._links
            and self.memory.recall(dcpsid) is None
        )

    async def _seek(self, socket: ServerSocket, envelope: Envelope) -> None:
        socket.has_sought = True
        try:
            async with asyncio.timeout(_SEEK_S):
                await self.memory.seek(envelope.body["dcpsid"], socket.service, envelope.owner)
        except (OrchestratorError, TimeoutError) as error:
            # Whether there is such a session is not known: the client comes back.
            log.warning("a session could not be sought: %s", error, extra={"action": "seek-failed"})
            socket.drop()
        waiting, socket.waiting = socket.waiting or [], None
        for one, size in waiting:
            if not socket.is_dropped:
                self._on_message(socket, one, size)

    def surrender(self, dcpsid: str) -> None:
        """The session's client went on at another process: here it is over, without a word."""
        link = self._links.get(dcpsid)
        if link is not None:
            link.feed(Breach(ConnectionClosed("the client went on at another process", code="ECONNRESET")))

    def _find(self, socket: ServerSocket, envelope: Envelope) -> _ServerLink | None:
        """The session that the first message on a socket belongs to; a new one for a connect request."""
        dcpsid = envelope.body.get("dcpsid")
        if dcpsid is None:
            if len(self._links) + len(self._unready) >= self.limits.sessions and not self._evict():
                self._refused += 1
                log.warning("refused a session: %d are open", self.limits.sessions, extra={"action": "refused"})
                socket.drop()
                return None
            refusal = None
            open_sessions = self._by_peer[envelope.owner] + self.sessions_elsewhere(envelope.owner)
            if open_sessions >= self.limits.guard.identity_sessions:
                self._refused += 1
                refusal = TooMany(
                    f"{envelope.owner} has {self.limits.guard.identity_sessions} sessions, as many as one identity may "
                    "have; close some"
                )
            return _ServerLink(self, ServerConnection(socket.service, socket.dialect), refusal=refusal)
        link = self._links.get(dcpsid) if isinstance(dcpsid, str) else None
        if link is not None and link.session.peer == envelope.owner and link.connection.service == socket.service:
            return link
        remembered = self.memory.recall(dcpsid) if isinstance(dcpsid, str) else None
        if remembered is not None and (remembered.peer, remembered.service) == (envelope.owner, socket.service):
            return _Heir(self, ServerConnection(socket.service, socket.dialect), remembered)
        frame = farewell(self.identity, envelope.body, random_token, self._clock())
        if frame is not None:
            socket.send(frame)
            socket.is_stray = True
        else:
            socket.drop()
        return None

    def _evict(self) -> bool:
        """Make room: end the session that has been without a transport for the longest time, of those that were never
        established first."""
        oldest = next((link for links in self._absent for link in links), None)
        if oldest is None:
            return False
        oldest.feed(Breach(ConnectionClosed("the place was needed for another session", code="ETIMEDOUT")))
        return True

    def _on_gone(self, socket: ServerSocket) -> None:
        if socket.link is not None:
            socket.link.detach(socket)

    # --- handlers

    def dispatch(self, connection: ServerConnection, link: Link, incoming: Sequence[IncomingRequest]) -> None:
        try:
            self._guard.requested(connection.peer, self._weight(connection, incoming), time.monotonic())
            excess = self._guard.holdings.excess(None, connection.peer)
            if excess is not None:
                raise TooMany(f"{excess}: unfinished messages, requests and answers; send the request again later")
        except TooMany as error:
            for one in incoming:
                self._answer(link, one.id, error)
            return
        transport = link.transport
        actor = (transport.place if isinstance(transport, ServerSocket) else "", connection.peer)
        if self.memory.is_shared:
            self._scope.spawn(self._start_unused(connection, link, incoming, actor))
        else:
            self._start(connection, link, incoming, actor)

    def _weight(self, connection: ServerConnection, incoming: Sequence[IncomingRequest]) -> int:
        weigh: Callable[[str, Any], int] | None = getattr(self._services[connection.service], "weigh", None)
        return len(incoming) if weigh is None else sum(weigh(one.operation, one.data) for one in incoming)

    async def _start_unused(
        self, connection: ServerConnection, link: Link, incoming: Sequence[IncomingRequest], actor: tuple[str, str]
    ) -> None:
        """Start those whose stamps no other process has seen either."""
        try:
            used = await self.memory.claim(connection.dcpsid, incoming)
        except OrchestratorError as error:
            for one in incoming:
                self._answer(link, one.id, error)
            return
        for one in incoming:
            if one.id in used:
                self._answer(link, one.id, used_before())
        fresh = [one for one in incoming if one.id not in used]
        if fresh:
            self._start(connection, link, fresh, actor)

    def _start(
        self, connection: ServerConnection, link: Link, incoming: Sequence[IncomingRequest], actor: tuple[str, str]
    ) -> None:
        service = self._services[connection.service]
        requests = [Request(r.operation, r.data, connection.peer, r.authorized, connection) for r in incoming]
        handle_batch: Callable[[Sequence[Request]], Awaitable[Sequence[Any]]] | None
        handle_batch = getattr(service, "handle_batch", None)
        if handle_batch is not None:
            # Only now it is known how much work the message brought.
            self._sockets.turns.charge(*actor, self._weight(connection, incoming) - 1)
            self._scope.spawn(self._run_batch(handle_batch, requests, link, [r.id for r in incoming], actor))
            return
        for number, (request, item) in enumerate(zip(requests, incoming, strict=True)):
            self._scope.spawn(self._run(service, request, link, item.id, actor, is_first=number == 0))

    async def _run(
        self, service: Service, request: Request, link: Link, message_id: str, actor: tuple[str, str], *, is_first: bool
    ) -> None:
        acting_for.set(actor)
        if not is_first:
            # The message had a turn for one; its other requests do not all come at once.
            await self._sockets.turns.take(*actor)
        try:
            outcome = await service.handle(request)
        except Exception as error:  # a handler's bug must not end the other sessions
            outcome = self._as_outcome(error, request)
        self._answer(link, message_id, outcome)

    async def _run_batch(
        self,
        handle_batch: Callable[[Sequence[Request]], Awaitable[Sequence[Any]]],
        requests: Sequence[Request],
        link: Link,
        ids: Sequence[str],
        actor: tuple[str, str],
    ) -> None:
        acting_for.set(actor)
        try:
            outcomes = await handle_batch(requests)
            if len(outcomes) != len(requests):
                raise RuntimeError(f"{len(outcomes)} answers to {len(requests)} requests")
        except Exception as error:  # as above
            outcomes = [self._as_outcome(error, requests[0])] * len(requests)
        for message_id, outcome in zip(ids, outcomes, strict=True):
            self._answer(link, message_id, outcome)

    def _answer(self, link: Link, message_id: str, outcome: Any) -> None:
        if isinstance(outcome, OrchestratorError):
            link.respond(message_id, False, messages.error_payload(outcome, self.identity.address))
        else:
            link.respond(message_id, True, outcome)

    def _as_outcome(self, error: Exception, request: Request) -> OrchestratorError:
        if isinstance(error, OrchestratorError):
            return error
        log.exception(
            "%s of %s failed", request.operation, request.connection.service, extra={"action": "handler-failed"}
        )
        return OrchestratorError(f"{request.operation} failed inside the service; its log tells why")


class _ServerLink(Link):
    """A session of the server, entered in its books while it lives."""

    def __init__(
        self,
        server: DcpServer,
        connection: ServerConnection,
        remembered: Remembered | None = None,
        refusal: OrchestratorError | None = None,
    ) -> None:
        clock = server._clock
        session = Session(
            Role.TARGET,
            server.identity,
            make_token=random_token,
            stamps=server._stamps,
            now=clock(),
            limits=server.limits.session,
            remembered=remembered,
            refusal=refusal,
        )
        super().__init__(session, self, clock)
        self._server = server
        self.connection = connection
        self._remembered_nonce = ""
        self._counted_for: str | None = None
        self._hold = Hold(server._guard.holdings)
        self._message_size = 0
        self._asked: dict[str, int] = {}
        self._asked_characters = 0
        connection._link = self
        server._unready.add(self)

    def take(self, envelope: Envelope, size: int) -> None:
        """A message of so many characters."""
        self._message_size = size
        self.receive(envelope)

    def feed(self, event: Event) -> None:
        super().feed(event)
        self._book()

    def _book(self) -> None:
        """What is held for the peer, and whether it is there."""
        session = self.session
        self._hold.set(0 if session.is_closed else session.held_characters + self._asked_characters, session.peer)
        strangers, resumable = self._server._absent
        absent = strangers if session.state is State.CONNECTING else resumable
        if session.is_closed or self.transport is not None:
            strangers.pop(self, None)
            resumable.pop(self, None)
        elif self not in absent:
            absent[self] = None

    def requested(self, link: Link, requests: Sequence[IncomingRequest]) -> None:
        share = self._message_size // len(requests)
        for one in requests:
            self._asked[one.id] = share
        self._asked_characters += share * len(requests)
        self._book()
        self._server.dispatch(self.connection, self, requests)

    def respond(self, message_id: str, success: bool, payload: Any) -> None:
        self._asked_characters -= self._asked.pop(message_id, 0)
        super().respond(message_id, success, payload)
        excess = self._hold.excess() if self._hold.size > _ALWAYS_HELD else None
        if excess is not None:
            self.feed(Breach(ConnectionClosed(f"{excess}: take the answers first", code="ENOBUFS")))

    def receive(self, envelope: Envelope) -> None:
        super().receive(envelope)
        # Known from its first answer on: if the client gets that and loses its socket, it comes back with the dcpsid.
        if self in self._server._unready and self.session.dcpsid and self.session.state is not State.CLOSED:
            self._server._unready.discard(self)
            self._server._links[self.session.dcpsid] = self
        if self.session.state is not State.CLOSED:
            seen = self.session.remembered(self.connection.service)
            if seen is not None and seen.nonce != self._remembered_nonce:
                self._remembered_nonce = seen.nonce
                self._server.memory.remember(seen)

    def attach(self, transport: Transport) -> None:
        super().attach(transport)
        if self.session.state is State.ESTABLISHED:
            self._establish()

    def opened(self, link: Link) -> None:
        # Not before: anybody may repeat another's connect request, but not go on after it.
        self._counted_for = self.session.peer or ""
        self._server._by_peer[self._counted_for] += 1
        self._establish()

    def _establish(self) -> None:
        if isinstance(self.transport, ServerSocket):
            self.transport.established(self._server.limits.framing)

    def failure(self, error: ConnectionClosed) -> ConnectionClosed:
        return ConnectionClosed(error.message, code=error.code)

    def closed(self, link: Link, error: ConnectionClosed) -> None:
        connection = self.connection
        connection.closed.set()
        callbacks, connection._callbacks = connection._callbacks, []
        for callback in callbacks:
            try:
                callback(error)
            except Exception:  # as for handlers
                log.exception("an on_close callback failed", extra={"action": "handler-failed"})

    def ended(self, link: Link) -> None:
        self._server._unready.discard(self)
        self._server._links.pop(self.session.dcpsid or "", None)
        if self._counted_for is not None:
            self._server._by_peer[self._counted_for] -= 1
            if self._server._by_peer[self._counted_for] <= 0:
                del self._server._by_peer[self._counted_for]
            self._counted_for = None
        self._server.memory.forget(self.session.dcpsid or "")


class _Heir(_ServerLink):
    """Brings a session of an earlier process to its end: once the client has said what it had to say, it is closed, and
    the client opens a new one."""

    def __init__(self, server: DcpServer, connection: ServerConnection, remembered: Remembered) -> None:
        super().__init__(server, connection, remembered)
        self._closing: asyncio.TimerHandle | None = None

    def receive(self, envelope: Envelope) -> None:
        super().receive(envelope)
        if self._closing is not None:
            self._closing.cancel()
        if self.session.state is State.ESTABLISHED:
            self._closing = asyncio.get_running_loop().call_later(self._server.limits.heir_quiet, self.close)

    def ended(self, link: Link) -> None:
        if self._closing is not None:
            self._closing.cancel()
        super().ended(link)
