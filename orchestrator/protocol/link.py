"""One session in an event loop: its transport, and those who wait for answers. The shells build on it."""

from __future__ import annotations

import asyncio
import collections
import contextlib
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from orchestrator.protocol import messages
from orchestrator.protocol.errors import ConnectionClosed, RemoteError
from orchestrator.protocol.session import Session
from orchestrator.protocol.signing import Envelope
from orchestrator.protocol.vocabulary import (
    Action,
    Answered,
    Ask,
    Close,
    Closed,
    DropTransport,
    Ended,
    Event,
    Flush,
    IncomingRequest,
    Offended,
    Opened,
    Received,
    Requested,
    Respond,
    Send,
    State,
    Tick,
    TransportDown,
    TransportUp,
)
from orchestrator.wallet import keys

__all__ = ["Link", "LinkOwner", "Transport"]


class Transport(Protocol):
    """A pipe for messages that keeps their order and loses nothing but its end."""

    def send(self, message: str) -> None:
        """Queue a message; never blocks, never raises."""

    def drop(self) -> None:
        """Send what is queued, then close."""


class LinkOwner(Protocol):
    """Who is told what happens in a session. Called from the event loop; must not block or raise."""

    def requested(self, link: Link, requests: Sequence[IncomingRequest]) -> None: ...

    def opened(self, link: Link) -> None: ...

    def offended(self, link: Link, what: str) -> None: ...

    def failure(self, error: ConnectionClosed) -> ConnectionClosed:
        """A new error for one request that gets no answer."""

    def closed(self, link: Link, error: ConnectionClosed) -> None: ...

    def ended(self, link: Link) -> None: ...


class Link:
    """Carries out what the session machine decides."""

    def __init__(self, session: Session, owner: LinkOwner, clock: Callable[[], float]) -> None:
        self.session = session
        self._owner = owner
        self._clock = clock
        self._transport: Transport | None = None
        self._loop = asyncio.get_running_loop()
        self._flush_is_due = False
        # The machine is not entered again while its actions are carried out.
        self._events: collections.deque[Event] = collections.deque()
        self._is_busy = False

    @property
    def transport(self) -> Transport | None:
        return self._transport

    async def request(
        self, operation: str, data: Any = messages.ABSENT, authorize: Sequence[keys.PrivateKey] = ()
    ) -> Any:
        """Ask the peer and wait for its answer, across lost transports.

        Requests that are made in the same turn of the event loop, or while an earlier message waits for its ack, travel
        as one signed batch.

        Raise `RemoteError` (the peer's error), `ConnectionClosed` (the session ended; whether the peer acted is not
        known), `Congested` (nothing was sent), `InvalidInput` (the data are no JSON). When cancelled, the request may
        still reach the peer and its answer is dropped.
        """
        future: asyncio.Future[Any] = self._loop.create_future()
        self._perform(self.session.handle(Ask(operation, data, future, authorize), self._clock()))
        self._flush_soon()
        return await future

    def respond(self, message_id: str, success: bool, payload: Any) -> None:
        """Answer a request. What is answered in the same turn of the event loop leaves as one batch."""
        self.feed(Respond(message_id, success, payload))
        self._flush_soon()

    def together(self) -> contextlib.AbstractContextManager[None]:
        """Inside the block several requests are answered."""
        return contextlib.nullcontext()

    def attach(self, transport: Transport) -> None:
        """Use this transport from now on; an older one is dropped."""
        old, self._transport = self._transport, transport
        if old is not None:
            old.drop()
        self.feed(TransportUp())

    def detach(self, transport: Transport) -> None:
        """The transport is gone. Nothing happens when it was replaced before."""
        if self._transport is transport:
            self._transport = None
            self.feed(TransportDown())

    def receive(self, envelope: Envelope) -> None:
        self.feed(Received(envelope))

    def tick(self) -> None:
        self.feed(Tick())

    def close(self) -> None:
        """End the session in order; returns at once."""
        self.feed(Close())

    def feed(self, event: Event) -> None:
        """Give an event to the machine and carry out its actions, in order."""
        self._events.append(event)
        if self._is_busy:
            return
        self._is_busy = True
        try:
            while self._events:
                self._perform(self.session.handle(self._events.popleft(), self._clock()))
        finally:
            self._is_busy = False

    def _perform(self, actions: Sequence[Action]) -> None:
        for action in actions:
            match action:
                case Send(frame):
                    if self._transport is not None:
                        self._transport.send(frame)
                case Requested(requests):
                    self._owner.requested(self, requests)
                case Answered(answers):
                    for answer in answers:
                        _settle(answer.context, answer.success, answer.payload)
                case Opened():
                    self._owner.opened(self)
                case Offended(what):
                    self._owner.offended(self, what)
                case DropTransport():
                    self._drop()
                    self.feed(TransportDown())
                case Closed(error, contexts):
                    for future in contexts:
                        if not future.done():
                            future.set_exception(self._owner.failure(error))
                    self._owner.closed(self, error)
                case Ended():
                    self._drop()
                    self._owner.ended(self)

    def _drop(self) -> None:
        transport, self._transport = self._transport, None
        if transport is not None:
            transport.drop()

    def _flush_soon(self) -> None:
        if not self._flush_is_due and self.session.state is not State.CLOSED:
            self._flush_is_due = True
            self._loop.call_soon(self._flush)

    def _flush(self) -> None:
        self._flush_is_due = False
        self.feed(Flush())


def _settle(future: asyncio.Future[Any], success: bool, payload: Any) -> None:
    if future.done():  # whoever asked was cancelled
        return
    if success:
        future.set_result(payload)
    else:
        future.set_exception(RemoteError(payload))
