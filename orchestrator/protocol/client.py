"""The client shell: sessions with DCP services that survive lost transports.

async with DcpClient(identity, cache_path) as client:
    connection = client.connect("http://127.0.0.1:9001/pheme/")
    answer = await connection.request("fetchJobReport", {"job": job_id})
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import pathlib
import random
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any

import tenacity
from yarl import URL

from orchestrator.clock import SteadyClock
from orchestrator.errors import InvalidInput, OrchestratorError
from orchestrator.protocol import client_socket, messages
from orchestrator.protocol.certificates import UntrustedCertificate
from orchestrator.protocol.client_socket import ClientSocket
from orchestrator.protocol.config import fetch_config
from orchestrator.protocol.errors import ConnectionClosed, ConnectionLost, PeerChanged
from orchestrator.protocol.framing import FramingError, FramingLimits
from orchestrator.protocol.identity_cache import IdentityCache
from orchestrator.protocol.link import Link
from orchestrator.protocol.scope import TaskScope
from orchestrator.protocol.session import Session
from orchestrator.protocol.signing import MalformedMessage, open_envelope
from orchestrator.protocol.tokens import random_token
from orchestrator.protocol.validity import Stamps
from orchestrator.protocol.vocabulary import Breach, IncomingRequest, Role, SessionLimits, State
from orchestrator.task_groups import TaskGroup
from orchestrator.wallet import keys

__all__ = ["ClientConnection", "ClientLimits", "DcpClient", "fetch_config"]

log = logging.getLogger(__name__)

_UNHEARD_S = 0.5  # for the goodbye to a service that is away just now

Handler = Callable[[str, Any], Awaitable[Any]]
Hearer = Callable[[str, Any], Any]


@dataclass(frozen=True)
class ClientLimits:
    """Times in seconds.

    A reconnect waits a random time of at most `first_delay`, then at most twice that, and so on up to `longest_delay`.
    """

    session: SessionLimits = field(default_factory=SessionLimits)
    framing: FramingLimits = field(default_factory=FramingLimits)
    first_delay: float = 0.25
    longest_delay: float = 30
    socket_timeout: float = 20
    tick_interval: float = 1


class DcpClient:
    """One identity and its connections. Leaving the `async with` closes them in order."""

    def __init__(
        self,
        identity: keys.PrivateKey,
        identity_cache: pathlib.Path | None = None,
        *,
        limits: ClientLimits | None = None,
        clock: Callable[[], float] | None = None,
    ) -> None:
        """`identity_cache` is the file that remembers the services' keys; None remembers them while this object lives.

        Raise `InvalidInput` when the file is damaged.
        """
        self.identity = identity
        self.cache = IdentityCache(identity_cache)
        self.limits = limits or ClientLimits()
        self.clock = clock or SteadyClock()
        self.stamps = Stamps()
        self.sequence = itertools.count(1)
        self.accepted: frozenset[str] = frozenset()
        """Addresses that services may have from now on, though they had others before."""
        self._connections: list[ClientConnection] = []
        self._scope = TaskScope()

    async def __aenter__(self) -> DcpClient:
        await self._scope.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            if error is None:
                await asyncio.gather(*(connection.close() for connection in list(self._connections)))
        finally:
            await self._scope.__aexit__(kind, error, traceback)

    def connect(
        self, url: str, *, on_request: Handler | None = None, on_word: Hearer | None = None
    ) -> ClientConnection:
        """A connection to the service at a URL such as `http://host:9001/pheme/`; opened at the first request.

        `on_request(operation, data)` answers the service's own requests: its value is the answer's payload, and
        `OrchestratorError` an error answer. `on_word`, in its place, answers at once, in the order in which they came:
        much cheaper for many short ones; it must not block. Raise `InvalidInput` for a URL that cannot be a service's.
        """
        connection = ClientConnection(self, url, on_request, on_word)
        self._connections.append(connection)
        return connection

    def forget(self, connection: ClientConnection) -> None:
        """The connection closes by itself."""
        if connection in self._connections:
            self._connections.remove(connection)

    def expected(self, url: str) -> str | None:
        """The address that a service must have; None when whoever answers is believed.

        A service that was never seen is a stranger while others at its origin have changed their key: it must have
        theirs of before, or one that is accepted.
        """
        known, origin = self.cache.lookup(url), URL(url).origin()
        others = (one for one in self._connections if one.url != url and URL(one.url).origin() == origin)
        changes = (one.peer_changed for one in others)
        return known or next((change.info["before"] for change in changes if change is not None), None)

    def spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Run work that ends with the client."""
        return self._scope.spawn(work)


class ClientConnection:
    """Requests to one service. It keeps a session as long as it can, and opens a new one when it must."""

    def __init__(self, client: DcpClient, url: str, on_request: Handler | None, on_word: Hearer | None = None) -> None:
        parsed = URL(url)
        if parsed.scheme not in ("http", "https") or not parsed.host or not parsed.path.endswith("/"):
            raise InvalidInput(f"{url!r} cannot be a service's URL: expected http(s)://host[:port]/service/")
        self.url = url
        self.on_request = on_request
        self._on_word = on_word
        self._client = client
        self._link: Link | None = None
        self._runner: asyncio.Task[None] | None = None
        self._is_closed = False
        self._retry_now = asyncio.Event()
        self._session_count = 0
        self._trouble = ""
        self._peer_changed: PeerChanged | None = None
        self._on_session_end: list[Callable[[ConnectionClosed], None]] = []

    @property
    def dcpsid(self) -> str | None:
        """The session's id; None while there is no session. Another one means that the old session was lost."""
        return self._link.session.dcpsid if self._link is not None else None

    @property
    def peer(self) -> str | None:
        """The service's address; None before it has answered."""
        return self._link.session.peer if self._link is not None else self._client.cache.lookup(self.url)

    @property
    def peer_changed(self) -> PeerChanged | None:
        """Why nothing is sent to whoever answers there now; None while the right one does, or nobody."""
        return self._peer_changed

    @property
    def is_connected(self) -> bool:
        """Whether a session is established and its transport is up."""
        link = self._link
        return link is not None and link.session.state is State.ESTABLISHED and link.transport is not None

    async def request(
        self, operation: str, data: Any = messages.ABSENT, *, authorize: Sequence[keys.PrivateKey] = ()
    ) -> Any:
        """Ask the service and wait for its answer, through lost transports and back.

        Requests made at the same time share one signed message; authorised ones (`authorize`: the keys of the accounts
        or identities that the request may use) travel alone.

        Raise `RemoteError` (the service's error), `ConnectionLost` (the session ended, whether the service acted is not
        known; with the code ECERT when its certificate is not trusted), `PeerChanged`, `ConnectionClosed` after
        `close`, `Congested`, `InvalidInput`. When cancelled, the request may still reach the service.
        """
        if self._is_closed:
            raise ConnectionClosed("the connection was closed", code="EPIPE")
        link = self._link
        if link is None or link.session.state in (State.CLOSING, State.CLOSED):
            link = self._open()
        return await link.request(operation, data, authorize)

    def on_session_end(self, callback: Callable[[ConnectionClosed], None]) -> None:
        """Call this whenever a session ends, also when `close` ends it. What the service knew of it is gone."""
        self._on_session_end.append(callback)

    def wake(self) -> None:
        """Do not wait out the delay before the next attempt to reconnect."""
        self._retry_now.set()

    def drop_transport(self) -> None:
        """Close the socket and reconnect: what a broken network would do."""
        link = self._link
        if link is not None and isinstance(link.transport, _Pipe):
            link.transport.drop()

    async def close(self) -> None:
        """Say goodbye, at most for the close time-out; when there is no transport, hardly at all. Requests without an
        answer raise `ConnectionClosed`."""
        self._is_closed = True
        self._client.forget(self)
        link, runner = self._link, self._runner
        if link is not None:
            link.close()
        if runner is None:
            return
        if link is not None and link.session.is_closed:  # nobody was there to say goodbye to
            runner.cancel()
        is_heard = link is not None and link.transport is not None
        patience = self._client.limits.session.close_timeout + 1
        await asyncio.wait([runner], timeout=patience if is_heard else min(patience, _UNHEARD_S))

    def statistics(self) -> dict[str, Any]:
        """`trouble` is why the last attempt to connect failed, while there is no connection."""
        session = self._link.session.statistics() if self._link is not None else {"state": "closed"}
        connected = self.is_connected
        changed = self._peer_changed
        trouble = "" if connected else self._trouble if changed is None else changed.message
        return {"url": self.url, "connected": connected, "trouble": trouble, "sessions": self._session_count, **session}

    # --- sessions

    def _open(self) -> Link:
        client = self._client
        session = Session(
            Role.INITIATOR,
            client.identity,
            make_token=random_token,
            stamps=client.stamps,
            now=client.clock(),
            sequence=next(client.sequence),
            limits=client.limits.session,
            expected_peer=client.expected(self.url),
            accepted_peers=client.accepted,
        )
        self._session_count += 1
        link = self._link = Link(session, self, client.clock)
        self._runner = client.spawn(self._run(link))
        return link

    async def _run(self, link: Link) -> None:
        """Keep a transport under the session until it ends."""
        async with TaskGroup() as group:
            ticker = group.create_task(self._tick(link))
            try:
                while not link.session.is_closed:
                    await self._backoff(link)(self._carry, link)
                    # All clients of a server that went away come back; not all at once.
                    await self._wait(random.random() * self._client.limits.first_delay)  # noqa: S311 - jitter
            finally:
                ticker.cancel()
                link.close()

    async def _tick(self, link: Link) -> None:
        while True:
            await asyncio.sleep(self._client.limits.tick_interval)
            link.tick()

    def _backoff(self, link: Link) -> tenacity.AsyncRetrying:
        """Tries again, ever more slowly, until a transport was of use or the session has ended."""
        limits = self._client.limits
        self._retry_now.clear()
        return tenacity.AsyncRetrying(
            sleep=self._wait,
            wait=tenacity.wait_random_exponential(multiplier=limits.first_delay, max=limits.longest_delay),
            retry=tenacity.retry_if_exception_type(client_socket.CannotConnect),
            stop=lambda _: link.session.is_closed,
            retry_error_callback=lambda _: None,
            before_sleep=self._log_attempt,
        )

    async def _carry(self, link: Link) -> None:
        """Open a socket and carry messages until it is gone. Raise `CannotConnect` when not one came over it."""
        try:
            socket = await ClientSocket.open(self.url, timeout=self._client.limits.socket_timeout)
        except UntrustedCertificate as error:
            if link.session.dcpsid is not None:
                # It was trusted before: a slip at a renewal must not cost the session.
                raise client_socket.CannotConnect(error.message) from error
            # To try again would change nothing; the next request does.
            self._trouble = error.message
            log.error("%s", error.message, extra={"action": "untrusted-certificate"})  # noqa: TRY400 - no news in a trace
            link.feed(Breach(error))
            return
        if not await self._pump(link, socket):
            raise client_socket.CannotConnect(f"{self.url} drops the connection at once")

    async def _wait(self, seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds):
                await self._retry_now.wait()
                self._retry_now.clear()
        except TimeoutError:
            pass

    def _log_attempt(self, state: tenacity.RetryCallState) -> None:
        error = state.outcome.exception() if state.outcome is not None else None
        self._trouble = str(error)
        level = logging.WARNING if state.attempt_number in (1, 10, 100) else logging.DEBUG
        log.log(level, "%s cannot be reached: %s; trying again", self.url, error, extra={"action": "reconnect"})

    async def _pump(self, link: Link, socket: ClientSocket) -> bool:
        """Carry messages until the socket is gone; whether any came."""
        pipe = _Pipe(socket)
        if link.session.is_closed:  # while the socket was opened
            await socket.close()
            return False
        is_useful = False
        try:
            async with TaskGroup() as group:
                writer = group.create_task(pipe.write())
                link.attach(pipe)
                try:
                    async for packet in socket:
                        is_useful = self._receive(link, pipe, packet) or is_useful
                finally:
                    writer.cancel()
        finally:
            link.detach(pipe)
            await socket.close()
        return is_useful

    def _receive(self, link: Link, pipe: _Pipe, packet: str) -> bool:
        """Take in a packet; whether it completed a message."""
        if link.transport is not pipe:
            return False
        try:
            complete = pipe.socket.receiver.receive(packet, pipe.socket.sender)
            for message in complete:
                link.receive(open_envelope(message))
        except (FramingError, MalformedMessage) as error:
            link.feed(Breach(error))
            return False
        return bool(complete)

    # --- what the session tells

    def offended(self, link: Link, what: str) -> None:
        """The session ends with the same words."""

    def opened(self, link: Link) -> None:
        self._peer_changed = None
        peer, before = link.session.peer, self._client.cache.lookup(self.url)
        if peer is None:
            return
        if before not in (None, peer):
            log.warning("%s was %s and is %s now: accepted", self.url, before, peer, extra={"action": "key-accepted"})
        self._client.cache.learn(self.url, peer)

    def requested(self, link: Link, requests: Sequence[IncomingRequest]) -> None:
        for request in requests:
            if self._on_word is None:
                self._client.spawn(self._handle(link, request))
                continue
            try:
                payload = self._on_word(request.operation, request.data)
            except Exception as error:  # as below
                self._refuse(link, request, error)
            else:
                link.respond(request.id, True, payload)

    async def _handle(self, link: Link, request: IncomingRequest) -> None:
        try:
            if self.on_request is None:
                raise OrchestratorError(f"{request.operation} is not answered here", code="ENOSYS")
            payload = await self.on_request(request.operation, request.data)
        except Exception as error:  # a handler's bug is answered, not fatal
            self._refuse(link, request, error)
        else:
            link.respond(request.id, True, payload)

    def _refuse(self, link: Link, request: IncomingRequest, error: Exception) -> None:
        if not isinstance(error, OrchestratorError):
            log.error("the handler of %s failed", request.operation, exc_info=error, extra={"action": "handler-failed"})
            error = OrchestratorError(f"{request.operation} failed at the client")
        link.respond(request.id, False, messages.error_payload(error, self._client.identity.address))

    def failure(self, error: ConnectionClosed) -> ConnectionClosed:
        kind = type(error) if self._is_closed or isinstance(error, PeerChanged) else ConnectionLost
        return kind(error.message, code=error.code, info=error.info)

    def closed(self, link: Link, error: ConnectionClosed) -> None:
        self._retry_now.set()
        if link is self._link:
            self._link = None
        if isinstance(error, PeerChanged):
            self._peer_changed = error
        if not self._is_closed:
            log.info("the session with %s ended: %s", self.url, error, extra={"action": "session-lost"})
        for callback in self._on_session_end:
            try:
                callback(error)
            except Exception:  # as for handlers
                log.exception("an on_session_end callback failed", extra={"action": "handler-failed"})

    def ended(self, link: Link) -> None:
        self._retry_now.set()


class _Pipe:
    """A client's socket as a transport: keeps order, only queues."""

    def __init__(self, socket: ClientSocket) -> None:
        self.socket = socket
        self._queue: asyncio.Queue[str | None] = asyncio.Queue()

    def send(self, message: str) -> None:
        for frame in self.socket.sender.frames(message):
            self._queue.put_nowait(frame)

    def drop(self) -> None:
        self._queue.put_nowait(None)

    async def write(self) -> None:
        while True:
            packet = await self._queue.get()
            if packet is None:
                await self.socket.close()
                return
            await self.socket.send(packet)
