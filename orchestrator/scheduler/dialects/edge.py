"""The edge of the services, where other dialects are translated into theirs."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from orchestrator.errors import OrchestratorError
from orchestrator.protocol.server import BatchService, Request, Service
from orchestrator.scheduler.dialects import v4
from orchestrator.scheduler.lease_book import authorization
from orchestrator.wallet.keys import PrivateKey


def speaking_all(service: Any, identity: PrivateKey) -> Service:
    """`service`, understood by peers of every dialect. `identity` signs again what translation changes."""
    return _TranslatedBatches(service, identity) if hasattr(service, "handle_batch") else _Translated(service, identity)


def command_payload(dialect: int, payload: Mapping[str, Any]) -> dict[str, Any]:
    """The payload of a command to a worker, in the words of its connection's dialect."""
    return v4.command(payload) if dialect == 4 else dict(payload)


class _Translated:
    def __init__(self, service: Service, identity: PrivateKey) -> None:
        self._service = service
        self._identity = identity

    async def handle(self, request: Request) -> Any:
        answer = await self._service.handle(_read(request))
        return self._write(request, answer)

    def _write(self, request: Request, answer: Any) -> Any:
        if request.connection.dialect != 4 or isinstance(answer, OrchestratorError):
            return answer
        said = v4.write(request.operation, request.data, answer)
        if isinstance(said, dict) and said.get("auth") != (answer.get("auth") if isinstance(answer, Mapping) else None):
            said |= authorization(self._identity, said["auth"])
        return said


class _TranslatedBatches(_Translated):
    def __init__(self, service: BatchService, identity: PrivateKey) -> None:
        super().__init__(service, identity)
        self._batches = service
        self._weigh: Callable[[str, Any], int] | None = getattr(service, "weigh", None)

    async def handle_batch(self, requests: Sequence[Request]) -> Sequence[Any | OrchestratorError]:
        answers = await self._batches.handle_batch([_read(request) for request in requests])
        return [self._write(request, answer) for request, answer in zip(requests, answers, strict=True)]

    def weigh(self, operation: str, data: Any) -> int:
        return 1 if self._weigh is None else self._weigh(operation, data)


def _read(request: Request) -> Request:
    if request.connection.dialect != 4:
        return request
    return dataclasses.replace(request, data=v4.read(request.operation, request.data))
