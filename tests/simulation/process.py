"""One scheduler process: the real services over a simulated database, without sockets. It can be killed at any time."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

from orchestrator.bank import Bank
from orchestrator.database import DatabaseAway
from orchestrator.errors import Fault, OrchestratorError
from orchestrator.protocol.server import Request
from orchestrator.scheduler.assembly import assemble
from orchestrator.settings import SchedulerSettings
from orchestrator.wallet.keys import PrivateKey
from tests.simulation.network import Connection
from tests.simulation.world import Violation, World

IDENTITY = PrivateKey(b"\x01" * 32)
Answers = list[Any]
Witness = Callable[[Request, Any], None]


class SchedulerProcess:
    """`witness` sees every request with its answer before the network may lose it."""

    def __init__(self, world: World, database: Any, settings: SchedulerSettings, name: str, witness: Witness) -> None:
        self._world = world
        self._database = database
        self._settings = settings
        self._name = name
        self._witness = witness
        self._tasks: dict[asyncio.Task[None], None] = {}
        self._connections: dict[Connection, None] = {}
        self.is_up = False
        self.failure: BaseException | None = None

    async def start(self) -> None:
        world = self._world
        while True:
            bank, clock = Bank(world.now), world.now
            try:
                parts = await assemble(self._settings, self._database, bank, IDENTITY, clock, place=self._name)
                break
            except DatabaseAway:  # whoever watches over the process starts it again
                await asyncio.sleep(1.0)
        self._services = parts.services
        self.is_up = True
        world.note(self._name, "starts")
        for side in parts.sides:
            self._spawn(self._guard(side.run()))

    async def kill(self, *, over: bool = False) -> None:
        """Everything that was not committed is gone, and all sessions with it."""
        self.is_up = False
        if not over:
            self._world.note(self._name, "is killed")
        for connection in list(self._connections):
            connection.end()
        self._connections.clear()
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def welcome(self, connection: Connection) -> None:
        connection.process = self  # type: ignore[attr-defined]
        self._connections[connection] = None
        connection.on_close(lambda _: self._connections.pop(connection, None))

    def serve(
        self, connection: Connection, service: str, requests: Sequence[Request], reply: Callable[[Answers], None]
    ) -> None:
        if self.is_up:
            self._spawn(self._guard(self._handle(service, requests, reply)))

    async def _handle(self, service: str, requests: Sequence[Request], reply: Callable[[Answers], None]) -> None:
        handler = self._services[service]
        self._world.steps += len(requests)
        answers: Answers
        if hasattr(handler, "handle_batch"):
            try:
                answers = list(await handler.handle_batch(requests))
            except OrchestratorError as error:
                answers = [error] * len(requests)
        else:
            answers = []
            for request in requests:
                try:
                    answers.append(await handler.handle(request))
                except OrchestratorError as error:
                    answers.append(error)
        for request, answer in zip(requests, answers, strict=True):
            if isinstance(answer, OrchestratorError) and answer.fault is Fault.SCHEDULER and answer.code == "EINTERNAL":
                raise Violation(f"{request.operation} ended with a fault of the scheduler: {answer!r}") from answer
            self._witness(request, answer)
        reply(answers)

    async def _guard(self, work: Coroutine[Any, Any, None]) -> None:
        """A part of the scheduler that fails is a bug, whatever it was given."""
        try:
            await work
        except Exception as error:
            if self.failure is None:
                self.failure = error
                self._world.note(self._name, f"fails: {error!r}")

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks[task] = None
        task.add_done_callback(lambda done: self._tasks.pop(done, None))
