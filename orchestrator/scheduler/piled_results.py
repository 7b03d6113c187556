"""Results that come in piles (see `jobs.piles`), taken apart in front of the service that knows single ones.

Workers learn from the configuration how many may share a pile; those that do not know of piles send `result`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from orchestrator.errors import InvalidInput, OrchestratorError
from orchestrator.jobs import piles
from orchestrator.protocol.server import BatchService, Request


class PiledResults(BatchService):
    """`service` with the operation `results`."""

    def __init__(self, service: BatchService) -> None:
        self._service = service

    async def handle_batch(self, requests: Sequence[Request]) -> Sequence[Any | OrchestratorError]:
        """Answers in the order of the requests; all that came together is settled together, piles and others."""
        if not any(request.operation == piles.OPERATION for request in requests):
            return await self._service.handle_batch(requests)
        singles: list[Request] = []
        places: list[slice | InvalidInput] = []
        for request in requests:
            begin = len(singles)
            try:
                singles += _members(request)
            except InvalidInput as error:
                places.append(error)
            else:
                places.append(slice(begin, len(singles)))
        answers = await self._service.handle_batch(singles)
        return [
            place if isinstance(place, InvalidInput) else _answer(request, answers[place])
            for request, place in zip(requests, places, strict=True)
        ]

    @staticmethod
    def weigh(operation: str, data: Any) -> int:
        """As how many requests it counts."""
        return piles.count(data) if operation == piles.OPERATION else 1


def _members(request: Request) -> list[Request]:
    if request.operation != piles.OPERATION:
        return [request]
    peer, authorized, connection = request.peer, request.authorized, request.connection
    return [Request("result", data, peer, authorized, connection) for data in piles.unfold(request.data)]


def _answer(request: Request, answers: Sequence[Any | OrchestratorError]) -> Any:
    return piles.fold_answers(answers) if request.operation == piles.OPERATION else answers[0]
