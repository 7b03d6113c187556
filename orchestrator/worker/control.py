"""The worker's control socket: HTTP with JSON on a Unix socket in the state folder, for its own user only.

    GET  /v1/status      a snapshot of everything
    GET  /v1/explain     why it has no work; ?job=ID&slice=N&sandbox=N add their stories
    GET  /v1/log         the log as JSON lines: ?recent=N of before, then live unless ?follow=0
    POST /v1/drain       {} take no new work, finish what is held, end; ?wait=1 answers with JSON lines until the end
    POST /v1/pause       {"reason", "give_back", "for_s"}
    POST /v1/resume      {}

Errors are {"code", "message"} with a status of 400 or above. Nothing here is on a slice's path.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import datetime
import enum
import json
import logging
import math
import pathlib
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from types import TracebackType
from typing import Any, Final, Protocol, Self

from aiohttp import web

from orchestrator.errors import InvalidInput, NotFound, NotPermitted, OrchestratorError
from orchestrator.worker.control_socket import SOCKET, listening
from orchestrator.worker.log_tail import LogTail

log = logging.getLogger(__name__)

_MOST_BYTES: Final = 16 * 1024
_PROGRESS_S: Final = 0.5
_HEARTBEAT_S: Final = 5.0
_SHUTDOWN_S: Final = 2.0
_LONGEST_REASON: Final = 200
_DAY_S: Final = 86400.0
_LONGEST_PAUSE_S: Final = 366 * _DAY_S


class Controlled(Protocol):
    """What can be asked of the worker."""

    def status(self) -> dict[str, Any]: ...
    def explain(
        self, *, job: str | None = None, slice_number: int | None = None, sandbox: int | None = None
    ) -> dict[str, Any]: ...
    def pause(self, reason: str, *, source: str, give_back: bool) -> None: ...
    def resume(self, *, source: str) -> None: ...
    def drain(self) -> None: ...
    def drain_progress(self) -> dict[str, Any]: ...
    def outcome(self) -> dict[str, Any]:
        """Once the worker has ended: {"delivered", …}."""
        ...


class ControlServer:
    """`async with` it while holding the state folder's lock. Leaving tells those who wait how the worker ended."""

    def __init__(self, worker: Controlled, state_dir: pathlib.Path) -> None:
        self.path = state_dir / SOCKET
        self._worker = worker
        self._stack = contextlib.AsyncExitStack()
        self._closing = asyncio.Event()
        self._resuming: asyncio.TimerHandle | None = None

    async def __aenter__(self) -> Self:
        app = web.Application(client_max_size=_MOST_BYTES, middlewares=[_errors_as_json])
        app.add_routes(
            [
                web.get("/v1/status", self._status),
                web.get("/v1/explain", self._explain),
                web.get("/v1/log", self._log),
                web.post("/v1/drain", self._drain),
                web.post("/v1/pause", self._pause),
                web.post("/v1/resume", self._resume),
            ]
        )
        async with contextlib.AsyncExitStack() as stack:
            self._tail = stack.enter_context(LogTail())
            sock = stack.enter_context(listening(self.path))
            runner = web.AppRunner(app, access_log=None, handle_signals=False, shutdown_timeout=_SHUTDOWN_S)
            await runner.setup()
            stack.push_async_callback(runner.cleanup)
            await web.SockSite(runner, sock).start()
            self._stack = stack.pop_all()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._resuming is not None:
            self._resuming.cancel()
        self._closing.set()
        self._tail.__exit__(None, None, None)  # ends its readers, so that they are not waited for
        await self._stack.aclose()

    # -- routes ----------------------------------------------------------------------------------------------------

    async def _status(self, request: web.Request) -> web.StreamResponse:
        _known(request.query, ())
        return _answer(self._worker.status())

    async def _explain(self, request: web.Request) -> web.StreamResponse:
        _known(request.query, ("job", "slice", "sandbox"))
        number, sandbox = _whole(request.query, "slice"), _whole(request.query, "sandbox")
        job = request.query.get("job")
        if number is not None and job is None:
            raise InvalidInput(f"slice {number} of which job? Give `job` too")
        return _answer(self._worker.explain(job=job, slice_number=number, sandbox=sandbox))

    async def _log(self, request: web.Request) -> web.StreamResponse:
        _known(request.query, ("recent", "follow"))
        recent = _whole(request.query, "recent")
        recent = 100 if recent is None else recent
        if _whole(request.query, "follow") == 0:
            return await _stream(request, _listed(self._tail.recent(recent)))
        return await _stream(request, self._tail.follow(recent, _HEARTBEAT_S))

    async def _drain(self, request: web.Request) -> web.StreamResponse:
        _known(request.query, ("wait",))
        wait = _whole(request.query, "wait")
        await _body(request, {})
        self._worker.drain()
        if wait:
            return await _stream(request, self._until_ended())
        return _answer(self._worker.drain_progress())

    async def _until_ended(self) -> AsyncGenerator[dict[str, Any]]:
        while not self._closing.is_set():
            yield {"event": "draining", **self._worker.drain_progress()}
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_PROGRESS_S):
                    await self._closing.wait()
        yield {"event": "ended", **self._worker.outcome()}

    async def _pause(self, request: web.Request) -> web.StreamResponse:
        given = await _body(request, {"reason": str, "give_back": bool, "for_s": (int, float)})
        for_s = given.get("for_s")
        if for_s is not None and not 0 < for_s <= _LONGEST_PAUSE_S:
            raise InvalidInput(f"for_s is {for_s!r}: it must be seconds above 0 and at most a year")
        reason = given.get("reason") or "paused by a command"
        if len(reason) > _LONGEST_REASON:
            raise InvalidInput(f"reason has {len(reason)} characters: at most {_LONGEST_REASON} are kept")
        if for_s is not None:
            end = datetime.datetime.now().astimezone() + datetime.timedelta(seconds=for_s)
            reason += f", until {end:%H:%M}" if for_s < _DAY_S else f", until {end:%Y-%m-%d %H:%M}"
        self._worker.pause(reason, source="command", give_back=given.get("give_back", False))
        self._resume_later(for_s)
        return _answer({"paused": True, "reason": reason, "for_s": for_s})

    async def _resume(self, request: web.Request) -> web.StreamResponse:
        await _body(request, {})
        self._resume_later(None)
        self._worker.resume(source="command")
        return _answer({"paused": False})

    def _resume_later(self, for_s: float | None) -> None:
        """The newest word counts: a pause without an end forgets the end of the one before."""
        if self._resuming is not None:
            self._resuming.cancel()
            self._resuming = None
        if for_s is not None:
            loop = asyncio.get_running_loop()
            self._resuming = loop.call_later(for_s, lambda: self._worker.resume(source="command"))


_STATUSES: Final[Mapping[type[OrchestratorError], int]] = {
    NotFound: 404,
    NotPermitted: 403,
    InvalidInput: 400,
}


@web.middleware
async def _errors_as_json(
    request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
) -> web.StreamResponse:
    try:
        return await handler(request)
    except OrchestratorError as error:
        status = next((number for kind, number in _STATUSES.items() if isinstance(error, kind)), 500)
        return _answer({"code": error.code, "message": error.message}, status)
    except web.HTTPException as error:
        return _answer({"code": f"EHTTP{error.status}", "message": f"{request.path}: {error.reason}"}, error.status)


def _answer(value: Mapping[str, Any], status: int = 200) -> web.Response:
    return web.Response(text=json.dumps(jsonable(value)), content_type="application/json", status=status)


async def _stream(request: web.Request, lines: AsyncGenerator[Mapping[str, Any] | None]) -> web.StreamResponse:
    """JSON lines; an empty one says that the worker is still there."""
    response = web.StreamResponse(headers={"Content-Type": "application/x-ndjson"})
    await response.prepare(request)
    with contextlib.suppress(ConnectionError):  # the reader went away
        async with contextlib.aclosing(lines) as each:
            async for line in each:
                text = "" if line is None else json.dumps(jsonable(line))
                await response.write(text.encode() + b"\n")
        await response.write_eof()
    return response


async def _listed(lines: list[dict[str, Any]]) -> AsyncGenerator[dict[str, Any]]:
    for line in lines:
        yield line


async def _body(request: web.Request, fields: Mapping[str, type | tuple[type, ...]]) -> dict[str, Any]:
    """The request's JSON object. Raises `InvalidInput` naming the field that is wrong."""
    text = await request.read()
    try:
        given = json.loads(text) if text.strip() else {}
    except ValueError as error:
        raise InvalidInput(f"the body is not JSON: {error}") from None
    if not isinstance(given, dict):
        raise InvalidInput(f"the body is {type(given).__name__}, not an object")
    _known(given, fields)
    for name, value in given.items():
        if value is not None and (
            not isinstance(value, fields[name]) or isinstance(value, bool) != (fields[name] is bool)
        ):
            raise InvalidInput(f"{name} is {value!r}: that is not what this field holds")
    return {name: value for name, value in given.items() if value is not None}


def _known(given: Mapping[str, Any], names: Any) -> None:
    for name in given:
        if name not in names:
            known = f"known are {', '.join(names)}" if names else "none are known"
            raise InvalidInput(f"unknown field {name[:100]!r}: {known}")


def _whole(query: Mapping[str, str], name: str) -> int | None:
    text = query.get(name)
    if text is None:
        return None
    if not (text.isascii() and text.isdigit() and len(text) < 10):
        raise InvalidInput(f"{name} is {text[:100]!r}: it must be a whole number")
    return int(text)


def jsonable(value: Any) -> Any:
    """Statistics as JSON has them: dataclasses are objects, enums their values, infinite numbers null."""
    if value is None or isinstance(value, bool | int | str):
        return value.value if isinstance(value, enum.Enum) else value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, enum.Enum):
        return jsonable(value.value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: jsonable(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): jsonable(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [jsonable(item) for item in value]
    return str(value)
