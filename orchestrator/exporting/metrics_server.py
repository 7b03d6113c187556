"""HTTP for those who watch over a process: /metrics (Prometheus text), /healthz, /readyz. Off unless asked for."""

from __future__ import annotations

import errno
import json
import logging
import re
from collections.abc import Awaitable, Callable, Mapping
from types import TracebackType
from typing import Any, Final, Protocol, Self

from aiohttp import web

from orchestrator.errors import Fault, InvalidInput, OrchestratorError

log = logging.getLogger(__name__)

_LISTEN: Final = re.compile(r"(?:\[([0-9A-Fa-f:.]+)\]|([A-Za-z0-9_.-]+)|):(\d{1,5})")
_SHUTDOWN_S: Final = 1.0
_DEFAULT_HOST: Final = "127.0.0.1"
_INDEX: Final = (
    "/metrics  Prometheus text\n/healthz  whether the process works\n/readyz   whether it gets and does work\n"
)


class Health(Protocol):
    """How a part is; `reason` is "" when all is well."""

    @property
    def ok(self) -> bool: ...
    @property
    def reason(self) -> str: ...
    @property
    def detail(self) -> Mapping[str, Any]: ...


class AddressInUse(OrchestratorError):
    """Another process listens there. The message names the setting."""

    code = "EADDRINUSE"
    fault = Fault.USER


def parse_listen(text: str) -> tuple[str, int]:
    """`HOST:PORT`, `[IPv6]:PORT` or `:PORT` (loopback). Raises `InvalidInput`."""
    match = _LISTEN.fullmatch(text)
    if match is None or int(match[3]) > 65535:
        raise InvalidInput(f"metrics_listen is {text!r}: write HOST:PORT, such as 127.0.0.1:9464 or [::1]:9464")
    return match[1] or match[2] or _DEFAULT_HOST, int(match[3])


class MetricsServer:
    """`async with` it. `page(accept)` gives the metrics and their content type; `live` and `ready` say how it is.

    Entering raises `AddressInUse`, or `InvalidInput` for an address that is not this machine's.
    """

    def __init__(
        self,
        listen: str,
        *,
        page: Callable[[str], tuple[bytes, str]],
        live: Callable[[], Health],
        ready: Callable[[], Health],
    ) -> None:
        self.host, self.port = parse_listen(listen)
        self._page, self._live, self._ready = page, live, ready
        self._listen = listen
        app = web.Application(client_max_size=1024, middlewares=[_never_cached])
        app.add_routes(
            [
                web.get("/", self._index),
                web.get("/metrics", self._metrics),
                web.get("/healthz", self._healthz),
                web.get("/readyz", self._readyz),
            ]
        )
        self._runner = web.AppRunner(app, access_log=None, handle_signals=False, shutdown_timeout=_SHUTDOWN_S)

    async def __aenter__(self) -> Self:
        await self._runner.setup()
        try:
            await web.TCPSite(self._runner, self.host, self.port).start()
        except OSError as error:
            await self._runner.cleanup()
            if error.errno == errno.EADDRINUSE:
                raise AddressInUse(
                    f"metrics_listen {self._listen}: another process listens there; end it, or give another port"
                ) from None
            raise InvalidInput(f"metrics_listen {self._listen}: {error.strerror or error}") from None
        self.port = self._runner.addresses[0][1]
        log.info("metrics_served", extra={"url": f"http://{self._host()}:{self.port}/metrics"})
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self._runner.cleanup()

    def _host(self) -> str:
        return f"[{self.host}]" if ":" in self.host else self.host

    async def _index(self, request: web.Request) -> web.Response:
        return web.Response(text=_INDEX)

    async def _metrics(self, request: web.Request) -> web.Response:
        body, content_type = self._page(request.headers.get("Accept", ""))
        return web.Response(body=body, headers={"Content-Type": content_type})

    async def _healthz(self, request: web.Request) -> web.Response:
        return _verdict("live", self._live())

    async def _readyz(self, request: web.Request) -> web.Response:
        return _verdict("ready", self._ready())


def _verdict(name: str, health: Health) -> web.Response:
    body: dict[str, Any] = {name: health.ok, "reason": health.reason or None, **health.detail}
    return web.json_response(body, status=200 if health.ok else 503, dumps=lambda value: json.dumps(value) + "\n")


@web.middleware
async def _never_cached(
    request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
) -> web.StreamResponse:
    response = await handler(request)
    response.headers["Cache-Control"] = "no-store"
    return response
