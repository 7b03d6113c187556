"""Talks to a running worker over its control socket."""

from __future__ import annotations

import contextlib
import errno
import json
import pathlib
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from types import TracebackType
from typing import Any, Final, Self

import aiohttp

from orchestrator.errors import Fault, OrchestratorError
from orchestrator.worker.control_socket import SOCKET, short_path

_TIMEOUT_S: Final = 10.0
_SILENCE_S: Final = 20.0
_LONGEST_LINE: Final = 1 << 20


class NoWorker(OrchestratorError):
    """No worker answers on the control socket, or it went away. The message names the socket and the remedy."""

    code = "ENOWORKER"
    fault = Fault.USER


class ControlClient:
    """`async with` it. Every method raises `NoWorker`, and the worker's own errors with their codes."""

    def __init__(self, state_dir: pathlib.Path) -> None:
        self.path = state_dir / SOCKET
        self._state_dir = state_dir
        self._stack = contextlib.AsyncExitStack()

    async def __aenter__(self) -> Self:
        async with contextlib.AsyncExitStack() as stack:
            try:
                short = stack.enter_context(short_path(self.path))
            except OSError as error:
                raise self._no_worker(error) from None
            connector = aiohttp.UnixConnector(path=short)
            timeout = aiohttp.ClientTimeout(total=_TIMEOUT_S)
            self._http = await stack.enter_async_context(
                aiohttp.ClientSession("http://worker", connector=connector, timeout=timeout, max_line_size=8190)
            )
            self._stack = stack.pop_all()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self._stack.aclose()

    async def status(self) -> dict[str, Any]:
        return await self._ask("GET", "/v1/status")

    async def explain(
        self, *, job: str | None = None, slice_number: int | None = None, sandbox: int | None = None
    ) -> dict[str, Any]:
        query = {"job": job, "slice": slice_number, "sandbox": sandbox}
        return await self._ask("GET", "/v1/explain", {name: str(v) for name, v in query.items() if v is not None})

    async def drain(self) -> dict[str, Any]:
        return await self._ask("POST", "/v1/drain")

    async def pause(self, *, reason: str | None, give_back: bool = False, for_s: float | None = None) -> dict[str, Any]:
        return await self._ask("POST", "/v1/pause", body={"reason": reason, "give_back": give_back, "for_s": for_s})

    async def resume(self) -> dict[str, Any]:
        return await self._ask("POST", "/v1/resume")

    async def log(self, *, recent: int = 100, follow: bool = True) -> AsyncIterator[dict[str, Any]]:
        """The last `recent` lines of the log, then each as it comes, until the worker ends."""
        query = {"recent": str(recent), "follow": str(int(follow))}
        async with contextlib.aclosing(self._lines("GET", "/v1/log", query)) as lines:
            async for line in lines:
                yield line

    async def drain_and_wait(self) -> AsyncIterator[dict[str, Any]]:
        """Lines with event "draining", then one with "ended" and `delivered`; none of the latter if it was killed."""
        async with contextlib.aclosing(self._lines("POST", "/v1/drain", {"wait": "1"})) as lines:
            async for line in lines:
                yield line

    async def _ask(
        self, method: str, path: str, query: Mapping[str, str] | None = None, body: Mapping[str, Any] | None = None
    ) -> dict[str, Any]:
        try:
            async with self._http.request(method, path, params=query, json=body) as response:
                return await _checked(response)
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise self._no_worker(error) from None

    async def _lines(self, method: str, path: str, query: Mapping[str, str]) -> AsyncGenerator[dict[str, Any]]:
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=_TIMEOUT_S, sock_read=_SILENCE_S)
        try:
            async with self._http.request(
                method, path, params=query, timeout=timeout, read_bufsize=_LONGEST_LINE
            ) as response:
                if response.status != 200:
                    await _checked(response)
                async for line in response.content:
                    if line.strip():
                        yield json.loads(line)
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
            raise self._no_worker(error) from None

    def _no_worker(self, error: BaseException) -> NoWorker:
        number = getattr(error, "errno", None)
        start = (
            f"start one with `dcp-orchestrator worker run --state {self._state_dir}`, or name its folder with --state"
        )
        match number:
            case errno.ENOENT | errno.ENOTDIR:
                return NoWorker(
                    f"no worker runs on the state folder {self._state_dir} (no socket {self.path}): {start}"
                )
            case errno.ECONNREFUSED:
                return NoWorker(f"nobody listens on {self.path}: the worker was killed; {start}")
            case errno.EACCES | errno.EPERM:
                return NoWorker(f"{self.path} belongs to another user: ask as the user who runs the worker, or as root")
        if isinstance(error, TimeoutError):
            return NoWorker(f"the worker at {self.path} does not answer: it is stopped (SIGSTOP) or far too busy")
        return NoWorker(f"the worker at {self.path} went away: {error or type(error).__name__}")


async def _checked(response: aiohttp.ClientResponse) -> dict[str, Any]:
    answer = json.loads(await response.text())
    if response.status == 200 and isinstance(answer, dict):
        return answer
    answer = answer if isinstance(answer, dict) else {}
    raise OrchestratorError(str(answer.get("message")), code=str(answer.get("code")), fault=Fault.USER)
