"""What is mounted on a server: services, the requests that they get, and the sessions of those who ask."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from orchestrator.errors import OrchestratorError
from orchestrator.protocol import messages
from orchestrator.protocol.errors import ConnectionClosed
from orchestrator.protocol.link import Link

__all__ = ["BatchService", "Dialect", "Request", "ServerConnection", "Service"]

Dialect = Literal[4, 5]


@dataclass(slots=True)  # not frozen: freezing costs four times as much, and these are made for every request
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

    async def handle(self, request: Request) -> Any:
        [outcome] = await self.handle_batch([request])
        if isinstance(outcome, OrchestratorError):
            raise outcome
        return outcome

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
