"""The services' handlers at work: each request that was let in is carried out in turn and answered."""

from __future__ import annotations

import logging
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

from orchestrator import telemetry
from orchestrator.errors import InvalidInput, OrchestratorError
from orchestrator.fair_queue import acting_for
from orchestrator.protocol import js_json, messages
from orchestrator.protocol.books import Books
from orchestrator.protocol.guard import TooMany
from orchestrator.protocol.link import Link
from orchestrator.protocol.scope import TaskScope
from orchestrator.protocol.service import Request, ServerConnection, Service
from orchestrator.protocol.sockets import ServerSocket
from orchestrator.protocol.turns import Turns
from orchestrator.protocol.validity import used_before
from orchestrator.protocol.vocabulary import IncomingRequest

__all__ = ["Handlers"]

log = logging.getLogger(__name__)


class Handlers:
    def __init__(self, services: Mapping[str, Service], books: Books, turns: Turns, scope: TaskScope) -> None:
        self._services = services
        self._books = books
        self._turns = turns
        self._scope = scope

    def dispatch(self, connection: ServerConnection, link: Link, incoming: Sequence[IncomingRequest]) -> None:
        try:
            self._books.guard.requested(connection.peer, self._weight(connection, incoming), time.monotonic())
            excess = self._books.guard.holdings.excess(None, connection.peer)
            if excess is not None:
                raise TooMany(
                    f"{excess}: unfinished messages, requests and answers; send the request again later", "held"
                )
        except TooMany as error:
            telemetry.requests_refused.add(len(incoming), {"reason": error.why})
            for one in incoming:
                self._answer(link, one.id, error)
            return
        transport = link.transport
        actor = (transport.place if isinstance(transport, ServerSocket) else "", connection.peer)
        if self._books.memory.is_shared:
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
            used = await self._books.memory.claim(connection.dcpsid, incoming)
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
            self._turns.charge(*actor, self._weight(connection, incoming) - 1)
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
            await self._turns.take(*actor)
        begun = time.perf_counter()
        try:
            outcome = await service.handle(request)
        except Exception as error:  # a handler's bug must not end the other sessions
            outcome = self._as_outcome(error, request)
        _measure(request, [outcome], begun)
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
        begun = time.perf_counter()
        try:
            outcomes = await handle_batch(requests)
            if len(outcomes) != len(requests):
                raise RuntimeError(f"{len(outcomes)} answers to {len(requests)} requests")
        except Exception as error:  # as above
            outcomes = [self._as_outcome(error, requests[0])] * len(requests)
        _measure(requests[0], outcomes, begun)
        written: dict[int, messages.Written] = {}
        with link.together():
            for message_id, outcome in zip(ids, outcomes, strict=True):
                self._answer(link, message_id, _written_once(outcome, written))

    def _answer(self, link: Link, message_id: str, outcome: Any) -> None:
        if isinstance(outcome, OrchestratorError):
            link.respond(message_id, False, messages.error_payload(outcome, self._books.identity.address))
        else:
            link.respond(message_id, True, outcome)

    def _as_outcome(self, error: Exception, request: Request) -> OrchestratorError:
        if isinstance(error, OrchestratorError):
            return error
        log.exception(
            "%s of %s failed", request.operation, request.connection.service, extra={"action": "handler-failed"}
        )
        return OrchestratorError(f"{request.operation} failed inside the service; its log tells why")


def _measure(request: Request, outcomes: Sequence[Any], begun: float) -> None:
    """Requests that were handled together, by one service."""
    took, service = time.perf_counter() - begun, request.connection.service
    for outcome in outcomes:
        telemetry.request_time.record(took, {"service": service})
        if isinstance(outcome, OrchestratorError):
            telemetry.requests_answered_with_errors.add(1, {"code": outcome.code})


def _written_once(outcome: Any, written: dict[int, messages.Written]) -> Any:
    """The same answer to several requests is put into words once."""
    if not isinstance(outcome, dict):
        return outcome
    known = written.get(id(outcome))
    if known is None:
        try:
            known = written[id(outcome)] = messages.Written(js_json.dumps(outcome))
        except InvalidInput:  # as the session will say
            return outcome
    return known
