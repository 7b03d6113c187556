"""The server's sessions, each entered in the books while it lives."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Iterator, Sequence
from typing import Any

from orchestrator.errors import OrchestratorError
from orchestrator.protocol.books import Books
from orchestrator.protocol.errors import ConnectionClosed
from orchestrator.protocol.handlers import Handlers
from orchestrator.protocol.holdings import Hold
from orchestrator.protocol.link import Link, Transport
from orchestrator.protocol.service import ServerConnection
from orchestrator.protocol.session import Session
from orchestrator.protocol.session_memory import Remembered
from orchestrator.protocol.signing import Envelope
from orchestrator.protocol.sockets import ServerSocket
from orchestrator.protocol.tokens import random_token
from orchestrator.protocol.vocabulary import Breach, Event, IncomingRequest, Role, State

__all__ = ["Heir", "ServerLink"]

log = logging.getLogger(__name__)

_ALWAYS_HELD = 1024 * 1024
"""characters that a session may hold however much its peer does in others"""


class ServerLink(Link):
    """A session of the server."""

    def __init__(
        self,
        books: Books,
        handlers: Handlers,
        connection: ServerConnection,
        remembered: Remembered | None = None,
        refusal: OrchestratorError | None = None,
    ) -> None:
        session = Session(
            Role.TARGET,
            books.identity,
            make_token=random_token,
            stamps=books.stamps,
            now=books.clock(),
            limits=books.limits.session,
            remembered=remembered,
            refusal=refusal,
        )
        super().__init__(session, self, books.clock)
        self._books = books
        self._handlers = handlers
        self.connection = connection
        self.place = ""
        """the address of its last transport"""
        self._remembered_nonce = ""
        self._counted_for: str | None = None
        self._hold = Hold(books.guard.holdings)
        self._message_size = 0
        self._asked: dict[str, int] = {}
        self._asked_characters = 0
        self._is_together = False
        connection._link = self
        books.begun(self)

    def take(self, envelope: Envelope, size: int) -> None:
        """A message of so many characters."""
        self._message_size = size
        self.receive(envelope)

    def feed(self, event: Event) -> None:
        super().feed(event)
        if not self._is_together:
            self._book()

    @contextlib.contextmanager
    def together(self) -> Iterator[None]:
        """What is held for the peer is added up once, behind the last of several answers."""
        self._is_together = True
        try:
            yield
        finally:
            self._is_together = False
            self._book()
            self._end_excess()

    def _book(self) -> None:
        """What is held for the peer, and whether it is there."""
        session = self.session
        self._hold.set(0 if session.is_closed else session.held_characters + self._asked_characters, session.peer)
        self._books.note_presence(self)

    def requested(self, link: Link, requests: Sequence[IncomingRequest]) -> None:
        share = self._message_size // len(requests)
        for one in requests:
            self._asked[one.id] = share
        self._asked_characters += share * len(requests)
        self._book()
        self._handlers.dispatch(self.connection, self, requests)

    def respond(self, message_id: str, success: bool, payload: Any) -> None:
        self._asked_characters -= self._asked.pop(message_id, 0)
        super().respond(message_id, success, payload)
        if not self._is_together:
            self._end_excess()

    def _end_excess(self) -> None:
        excess = self._hold.excess() if self._hold.size > _ALWAYS_HELD else None
        if excess is not None:
            self.feed(Breach(ConnectionClosed(f"{excess}: take the answers first", code="ENOBUFS")))

    def receive(self, envelope: Envelope) -> None:
        super().receive(envelope)
        # Known from its first answer on: if the client gets that and loses its socket, it comes back with the dcpsid.
        if self in self._books.unready and self.session.dcpsid and self.session.state is not State.CLOSED:
            self._books.known(self, self.session.dcpsid)
        if self.session.state is not State.CLOSED:
            seen = self.session.remembered(self.connection.service)
            if seen is not None and seen.nonce != self._remembered_nonce:
                self._remembered_nonce = seen.nonce
                self._books.memory.remember(seen)

    def attach(self, transport: Transport) -> None:
        if isinstance(transport, ServerSocket):
            self.place = transport.place
        super().attach(transport)
        if self.session.state is State.ESTABLISHED:
            self._establish()

    def opened(self, link: Link) -> None:
        # Not before: anybody may repeat another's connect request, but not go on after it.
        self._counted_for = self.session.peer or ""
        self._books.established(self._counted_for)
        self._establish()

    def offended(self, link: Link, what: str) -> None:
        self._books.offended(self.session.peer or "", what)

    def _establish(self) -> None:
        if isinstance(self.transport, ServerSocket):
            self.transport.established(self._books.limits.framing)

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
        self._books.ended(self, self.session.dcpsid, self._counted_for)
        self._counted_for = None


class Heir(ServerLink):
    """Brings a session of an earlier process to its end: once the client has said what it had to say, it is closed, and
    the client opens a new one."""

    def __init__(self, books: Books, handlers: Handlers, connection: ServerConnection, remembered: Remembered) -> None:
        super().__init__(books, handlers, connection, remembered)
        self._closing: asyncio.TimerHandle | None = None

    def receive(self, envelope: Envelope) -> None:
        super().receive(envelope)
        if self._closing is not None:
            self._closing.cancel()
        if self.session.state is State.ESTABLISHED:
            self._closing = asyncio.get_running_loop().call_later(self._books.limits.heir_quiet, self.close)

    def ended(self, link: Link) -> None:
        if self._closing is not None:
            self._closing.cancel()
        super().ended(link)
