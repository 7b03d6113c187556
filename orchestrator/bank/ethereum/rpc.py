"""JSON-RPC over HTTP with an Ethereum node."""

from __future__ import annotations

import asyncio
import itertools
import json
from types import TracebackType
from typing import Any, Self

import aiohttp

from orchestrator.bank.ethereum.abi import BadAnswer
from orchestrator.errors import OrchestratorError

TIMEOUT_S = 20.0
_MOST_BYTES = 32 * 1024 * 1024


class ChainAway(OrchestratorError):
    """The endpoint could not be reached or did not answer. What was sent may have arrived."""

    code = "ECHAINAWAY"


class Refused(OrchestratorError):
    """The node answered with an error."""

    code = "ECHAINREFUSED"


class Rpc:
    """Use as `async with Rpc(url) as rpc`. A call takes at most `TIMEOUT_S`; its errors do not show the URL, which may
    hold a key."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._ids = itertools.count(1)

    async def __aenter__(self) -> Self:
        self._session = aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=TIMEOUT_S))
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._session.close()

    async def call(self, method: str, *parameters: Any) -> Any:
        """The result. Raises `Refused`, `ChainAway`, `BadAnswer`."""
        asked = {"jsonrpc": "2.0", "id": next(self._ids), "method": method, "params": list(parameters)}
        try:
            async with self._session.post(self._url, json=asked) as response:
                body = await response.content.read(_MOST_BYTES)
                while not response.content.at_eof() and len(body) < _MOST_BYTES:
                    body += await response.content.read(_MOST_BYTES)
        except (aiohttp.ClientError, OSError, asyncio.TimeoutError) as error:  # noqa: UP041 — both names are in use
            raise ChainAway(f"{method}: the chain's endpoint does not answer ({type(error).__name__})") from None
        try:
            answer = json.loads(body)
            problem = answer.get("error")
            if problem is not None:
                raise Refused(f"{method}: {str(problem.get('message'))[:300]}")
            return answer["result"]
        except (ValueError, KeyError, AttributeError, RecursionError) as error:
            raise BadAnswer(f"{method}: no JSON-RPC answer (HTTP status {response.status})") from error
