"""Messages between actors and scheduler processes: late, lost, repeated, in another order.

Harsher than a real session, which repeats nothing and keeps the order: every message that changes state may arrive
twice, so here they do. What a session does promise is kept: when it has ended, nothing of it arrives any more.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from orchestrator.errors import OrchestratorError
from orchestrator.protocol.errors import ClosedByPeer, ConnectionClosed
from orchestrator.protocol.server import Request
from tests.simulation.world import World

Handler = Callable[[str, Any], Awaitable[Any]]
Call = tuple[str, Any]
"""operation and data"""


class NoAnswer(Exception):
    """Nothing came back in time: the request was lost, or its answer, or the scheduler died over it."""


class Connection:
    """A client's session, with every service: what the services use of a `ServerConnection`."""

    dialect = 5

    def __init__(self, world: World, peer: str, dcpsid: str, on_request: Handler | None) -> None:
        self.peer = peer
        self.dcpsid = dcpsid
        self.closed = asyncio.Event()
        self._world = world
        self._on_request = on_request
        self._callbacks: list[Callable[[ConnectionClosed], None]] = []

    @property
    def is_connected(self) -> bool:
        return not self.closed.is_set()

    def on_close(self, callback: Callable[[ConnectionClosed], None]) -> None:
        if self.closed.is_set():
            callback(ConnectionClosed("the session is closed"))
        else:
            self._callbacks.append(callback)

    def end(self, *, in_order: bool = False) -> None:
        if not self.closed.is_set():
            self.closed.set()
            callbacks, self._callbacks = self._callbacks, []
            for callback in callbacks:
                callback(ClosedByPeer("the client has left") if in_order else ConnectionClosed("the session is lost"))

    async def request(self, operation: str, data: Any) -> Any:
        """From the scheduler to the client. Reliable as long as the session lives."""
        await asyncio.sleep(self._world.random.random() * self._world.faults.longest_delay_s)
        if self.closed.is_set() or self._on_request is None:
            raise ConnectionClosed("the session is closed")
        return await self._on_request(operation, data)


class Network:
    def __init__(self, world: World) -> None:
        self._world = world
        self._sessions = itertools.count(1)
        self.schedulers: list[Any] = []
        """processes (`SchedulerProcess`) that are up"""

    def connect(self, peer: str, on_request: Handler | None = None) -> Connection | None:
        """A session with some process; None when none is up."""
        up = [one for one in self.schedulers if one.is_up]
        if not up:
            return None
        process = up[self._world.random.randrange(len(up))] if len(up) > 1 else up[0]
        connection = Connection(self._world, peer, f"s{next(self._sessions)}", on_request)
        process.welcome(connection)
        return connection

    async def ask(
        self,
        connection: Connection,
        service: str,
        calls: Sequence[Call],
        *,
        authorized: frozenset[str] = frozenset(),
        patience_s: float = 30.0,
        repeatable: bool = True,
    ) -> list[Any]:
        """Send one message with these requests; an answer or an `OrchestratorError` for each. Raises `NoAnswer`."""
        world = self._world
        answer: asyncio.Future[list[Any]] = asyncio.get_running_loop().create_future()
        requests = [Request(operation, data, connection.peer, authorized, connection) for operation, data in calls]  # type: ignore[arg-type]
        if not world.chance(world.faults.lose_request):
            self._deliver(connection, service, requests, answer)
        if repeatable and world.chance(world.faults.repeat):
            self._deliver(connection, service, requests, answer)
        try:
            async with asyncio.timeout(patience_s):
                return await answer
        except TimeoutError:
            raise NoAnswer from None

    def _deliver(
        self, connection: Connection, service: str, requests: list[Request], answer: asyncio.Future[list[Any]]
    ) -> None:
        asyncio.get_running_loop().call_later(self._delay(), self._arrive, connection, service, requests, answer)

    def _delay(self) -> float:
        world = self._world
        longest = 60.0 if world.chance(world.faults.stray_delay) else world.faults.longest_delay_s
        return world.random.random() * longest

    def _arrive(
        self, connection: Connection, service: str, requests: list[Request], answer: asyncio.Future[list[Any]]
    ) -> None:
        if connection.closed.is_set():
            return

        def reply(outcome: list[Any | OrchestratorError]) -> None:
            if not self._world.chance(self._world.faults.lose_answer):
                asyncio.get_running_loop().call_later(self._delay(), self._answered, answer, outcome)

        connection.process.serve(connection, service, requests, reply)  # type: ignore[attr-defined]

    def _answered(self, answer: asyncio.Future[list[Any]], outcome: list[Any]) -> None:
        if not answer.done():
            answer.set_result(outcome)
