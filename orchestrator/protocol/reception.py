"""What comes over a server's sockets: packets become messages, and messages find their session."""

from __future__ import annotations

import asyncio
import logging
import time

from orchestrator import telemetry
from orchestrator.errors import OrchestratorError
from orchestrator.protocol.books import Books
from orchestrator.protocol.farewell import farewell
from orchestrator.protocol.framing import FramingError
from orchestrator.protocol.guard import Banned, TooMany
from orchestrator.protocol.handlers import Handlers
from orchestrator.protocol.packets import MalformedPacket
from orchestrator.protocol.scope import TaskScope
from orchestrator.protocol.server_link import Heir, ServerLink
from orchestrator.protocol.service import ServerConnection
from orchestrator.protocol.signing import Envelope, ForgedMessage, MalformedMessage, open_envelope
from orchestrator.protocol.sockets import ServerSocket
from orchestrator.protocol.tokens import random_token
from orchestrator.protocol.vocabulary import Breach

__all__ = ["Reception"]

log = logging.getLogger(__name__)

_SEEK_S = 10.0
_MOST_WAITING = 64
"""messages of a client while its session is sought"""


class Reception:
    def __init__(self, books: Books, handlers: Handlers, scope: TaskScope) -> None:
        self._books = books
        self._handlers = handlers
        self._scope = scope

    def receive(self, socket: ServerSocket, packet: str) -> None:
        """Whatever a peer sends, it can end its own session and socket and nothing else."""
        try:
            try:
                messages_in = socket.receiver.receive(packet, socket.sender)
            finally:
                socket.hold.set(socket.receiver.characters, socket.identity)
            excess = socket.hold.excess() if socket.hold.size else None
            if excess is not None:
                # Its session lives on: the peer comes back and sends the message again.
                self._books.refused += 1
                telemetry.messages_dropped.add(1, {"reason": "held"})
                log.warning("dropped a socket: %s", excess, extra={"action": "refused"})
                socket.drop(excess)
                return
            for message in messages_in:
                self._on_message(socket, open_envelope(message), len(message))
        except (FramingError, MalformedMessage) as error:
            self.malformed(socket, error)

    def malformed(self, socket: ServerSocket, error: FramingError | MalformedMessage | MalformedPacket) -> None:
        """A peer has sent what no honest peer sends: that ends its session and its socket."""
        self._books.refused += 1
        reason = "forged" if isinstance(error, ForgedMessage) else "malformed"
        telemetry.messages_dropped.add(1, {"reason": reason})
        log.info("dropped a socket of %s: %s", socket.service, error, extra={"action": "malformed"})
        socket.offend(error.message)  # before its session ends, which would drop it without the reason
        link = socket.link
        if link is not None:
            link.feed(Breach(error))

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
            assert isinstance(link, ServerLink)
            link.take(envelope, size)

    def _is_unknown(self, socket: ServerSocket, envelope: Envelope) -> bool:
        """A session that only another process can know; each socket asks once."""
        dcpsid = envelope.body.get("dcpsid")
        return (
            self._books.memory.is_shared
            and not socket.has_sought
            and isinstance(dcpsid, str)
            and dcpsid not in self._books.links
            and self._books.memory.recall(dcpsid) is None
        )

    async def _seek(self, socket: ServerSocket, envelope: Envelope) -> None:
        socket.has_sought = True
        try:
            async with asyncio.timeout(_SEEK_S):
                await self._books.memory.seek(envelope.body["dcpsid"], socket.service, envelope.owner)
        except (OrchestratorError, TimeoutError) as error:
            # Whether there is such a session is not known: the client comes back.
            log.warning("a session could not be sought: %s", error, extra={"action": "seek-failed"})
            socket.drop()
        waiting, socket.waiting = socket.waiting or [], None
        for one, size in waiting:
            if not socket.is_dropped:
                self._on_message(socket, one, size)

    def _find(self, socket: ServerSocket, envelope: Envelope) -> ServerLink | None:
        """The session that the first message on a socket belongs to; a new one for a connect request."""
        dcpsid = envelope.body.get("dcpsid")
        if dcpsid is None:
            if self._books.is_full and not self._books.evict():
                self._books.refused += 1
                telemetry.requests_refused.add(1, {"reason": "full"})
                log.warning("refused a session: %d are open", self._books.limits.sessions, extra={"action": "refused"})
                socket.drop()
                return None
            connection = ServerConnection(socket.service, socket.dialect)
            return ServerLink(self._books, self._handlers, connection, refusal=self._refusal(envelope.owner))
        link = self._books.links.get(dcpsid) if isinstance(dcpsid, str) else None
        if link is not None and link.session.peer == envelope.owner and link.connection.service == socket.service:
            return link
        remembered = self._books.memory.recall(dcpsid) if isinstance(dcpsid, str) else None
        # Who is banned is told why when it opens a new session.
        is_banned = self._books.guard.bans.find(envelope.owner, time.monotonic()) is not None
        if (
            remembered is not None
            and not is_banned
            and (remembered.peer, remembered.service) == (envelope.owner, socket.service)
        ):
            return Heir(self._books, self._handlers, ServerConnection(socket.service, socket.dialect), remembered)
        frame = farewell(self._books.identity, envelope.body, random_token, self._books.clock())
        if frame is not None:
            socket.send(frame)
            socket.is_stray = True
        else:
            socket.drop()
        return None

    def _refusal(self, identity: str) -> TooMany | None:
        """Why it may have no further session."""
        refusal: TooMany | None = None
        most = self._books.limits.guard.identity_sessions
        try:
            self._books.guard.check_ban(identity, time.monotonic())
        except Banned as error:
            refusal = error
        else:
            if self._books.by_peer[identity] + self._books.sessions_elsewhere(identity) >= most:
                refusal = TooMany(
                    f"{identity} has {most} sessions, as many as one identity may have; close some", "sessions"
                )
        if refusal is not None:
            self._books.refused += 1
            telemetry.requests_refused.add(1, {"reason": refusal.why})
        return refusal

    def gone(self, socket: ServerSocket) -> None:
        if socket.link is not None:
            socket.link.detach(socket)
