"""The server shell: DCP services on aiohttp and python-socketio.

Every service is mounted on two socket.io paths, because the two reference clients differ: `/<service>/dcp5/socketio/`
(dcp-client 5.x) and `/<service>/` (4.x, the official worker). Sessions are known by their dcpsid, never by a socket: a
client comes back on a new one.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
import ssl
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Literal

from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError

from orchestrator import telemetry
from orchestrator.protocol import sockets
from orchestrator.protocol.bans import Ban
from orchestrator.protocol.books import Books, ServerLimits
from orchestrator.protocol.errors import ConnectionClosed
from orchestrator.protocol.handlers import Handlers
from orchestrator.protocol.places import TrustedProxies
from orchestrator.protocol.reception import Reception
from orchestrator.protocol.scope import TaskScope
from orchestrator.protocol.service import BatchService, Request, ServerConnection, Service
from orchestrator.protocol.session_memory import Memory, SessionMemory
from orchestrator.protocol.turns import Turns
from orchestrator.protocol.vocabulary import Breach
from orchestrator.wallet import keys

__all__ = ["BatchService", "DcpServer", "Request", "ServerConnection", "ServerLimits", "Service"]


def _is_ours(record: logging.LogRecord) -> bool:
    """Not what a peer sent that is no HTTP: aiohttp would log a traceback for each, and fill a disk with them."""
    return not (record.exc_info and isinstance(record.exc_info[1], HttpProcessingError))


_http_log = logging.getLogger(f"{__name__}.http")
_http_log.addFilter(_is_ours)

ConfigText = Callable[[Literal[8, 9], str], str]
"""The configuration for a KVIN version, and for a client that reached the server under this origin (`http://host/`)."""
_SERVICE_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_-]*")
_HOST = re.compile(r"[A-Za-z0-9._-]{1,255}(:\d{1,5})?|\[[0-9a-fA-F:.]{2,45}\](:\d{1,5})?")
_CONFIG_PATH = "/etc/dcp-config.kvin"


class DcpServer:
    """An HTTP server with DCP services.

        async with DcpServer(identity, {"pheme": service}, config_text) as server:
            await server.listen("127.0.0.1", 9001)
            await asyncio.Event().wait()

    `services` maps names to services, mounted at `/<name>/`. `config_text` gives the body of the configuration in KVIN
    version 8 or 9. When the `async with` ends, sockets are closed and handlers cancelled; clients will try to resume.
    """

    def __init__(
        self,
        identity: keys.PrivateKey,
        services: Mapping[str, Service],
        config_text: ConfigText,
        *,
        limits: ServerLimits | None = None,
        memory: Memory | None = None,
        proxies: TrustedProxies | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        for name in services:
            if not _SERVICE_NAME.fullmatch(name):
                raise ValueError(f"{name!r} cannot be the name of a service: letters and digits only")
        self.limits = limits = limits or ServerLimits()
        self.memory: Memory = SessionMemory() if memory is None else memory
        self._services = dict(services)
        self._config_text = config_text
        self._scope = TaskScope()
        self._books = Books(identity, limits, self.memory, clock)
        self.guard = self._books.guard
        self._proxies = proxies or TrustedProxies()
        turns = Turns()
        handlers = Handlers(self._services, self._books, turns, self._scope)
        self._reception = Reception(self._books, handlers, self._scope)
        self._sockets = sockets.SocketServer(
            list(services),
            on_message=self._reception.receive,
            on_malformed=self._reception.malformed,
            on_gone=self._reception.gone,
            spawn=self._scope.spawn,
            unread_packets=limits.unread_packets,
            unread_characters=limits.unread_characters,
            most_sockets=limits.sockets,
            guard=self.guard,
            turns=turns,
            proxies=self._proxies,
            greeting=limits.greeting,
            memory=self.memory,
        )
        self.app = self._sockets.app
        self.app.router.add_get(_CONFIG_PATH, self._serve_config)
        self._runner: web.AppRunner | None = None
        self._ports: list[int] = []

    # --- running

    async def __aenter__(self) -> DcpServer:
        async with contextlib.AsyncExitStack() as stack:
            await stack.enter_async_context(self._scope)
            self._runner = web.AppRunner(
                self.app, access_log=None, shutdown_timeout=2, logger=_http_log, auto_decompress=False
            )
            await self._runner.setup()
            stack.push_async_callback(self._runner.cleanup)
            stack.push_async_callback(self._sockets.close)
            self._scope.spawn(self._sweep())
            self._scope.spawn(self._sockets.run())
            self._stack = stack.pop_all()
        return self

    async def __aexit__(self, *exception: Any) -> bool | None:
        return await self._stack.__aexit__(*exception)

    async def listen(self, host: str = "127.0.0.1", port: int = 0, tls: ssl.SSLContext | None = None) -> int:
        """Accept connections at an address; returns the port. May be called for several addresses."""
        assert self._runner is not None, "listen inside `async with`"
        assert self._runner.server is not None
        port = await self._sockets.listen(host, port, self._runner.server, tls)
        self._ports.append(port)
        return port

    async def run(self, host: str = "127.0.0.1", port: int = 0) -> None:
        """Serve until cancelled."""
        async with self:
            await self.listen(host, port)
            await asyncio.Event().wait()

    @property
    def port(self) -> int:
        """The first port that `listen` took."""
        return self._ports[0]

    def add_routes(self, routes: Iterable[web.AbstractRouteDef]) -> None:
        """Further HTTP routes; before the server runs."""
        self.app.router.add_routes(routes)

    @property
    def identity(self) -> keys.PrivateKey:
        return self._books.identity

    @property
    def books(self) -> Books:
        """What it shares with its sessions."""
        return self._books

    @property
    def connections(self) -> list[ServerConnection]:
        """The sessions that live, with or without a transport."""
        return [link.connection for link in self._books.links.values()]

    def surrender(self, dcpsid: str) -> None:
        """The session's client went on at another process: here it is over, without a word."""
        link = self._books.links.get(dcpsid)
        if link is not None:
            link.feed(Breach(ConnectionClosed("the client went on at another process", code="ECONNRESET")))

    def ban(self, ban: Ban) -> None:
        """Somebody was banned elsewhere. An address's strangers go, and an identity's sessions."""
        self.guard.bans.learn(ban)
        self._sockets.door.cut_strangers(ban.subject)
        self._books.expel(ban.subject, ban.reason)

    def statistics(self) -> dict[str, Any]:
        return {
            "sessions": len(self._books.links),
            "sockets": len(self._sockets),
            "resumable": sum(link.transport is None for link in self._books.links.values()),
            "stamps": len(self._books.stamps),
            "handlers": len(self._scope) - 2,
            "refused": self._books.refused + self.guard.refused,
            "paused": self.guard.paused,
            "bans": self.guard.bans.total,
            "held_characters": self.guard.holdings.total,
            "turns_waited": self._sockets.turns.waited,
        }

    async def _sweep(self) -> None:
        while True:
            await asyncio.sleep(self.limits.sweep_interval)
            self.sweep()

    def sweep(self) -> None:
        """Let time pass for all sessions; the server does so by itself every few seconds."""
        for link in [*self._books.links.values(), *self._books.unready]:
            link.tick()
        self._sockets.drop_silent(self.limits.greeting_timeout)
        self.guard.sweep(time.monotonic())
        self._measure()

    def _measure(self) -> None:
        links = self._books.links.values()
        away = sum(link.transport is None for link in links)
        telemetry.sessions.set(len(links) - away, {"state": "connected"})
        telemetry.sessions.set(away, {"state": "resumable"})
        telemetry.connections_open.set(len(self._sockets.door))
        telemetry.characters_held.set(self.guard.holdings.total)
        banned = self.guard.bans.count()
        for kind in ("address", "identity"):
            telemetry.bans_now.set(banned.get(kind, 0), {"of": kind})

    # --- configuration

    async def _serve_config(self, request: web.Request) -> web.Response:
        """`ver` is the version of the client's configuration format: 2.1 reads KVIN v9, 2.0 up to v8."""
        version = re.fullmatch(r"2\.(\d{1,4})(\.\d{1,4})?", request.query.get("ver", ""))
        if version is None:
            return web.Response(status=400, text="the query must name a format: ?ver=2.1.0 or ?ver=2.0.0\n")
        text = self._config_text(9 if int(version[1]) >= 1 else 8, self._origin(request))
        headers = {"Access-Control-Allow-Origin": "*", "Cache-Control": "no-cache"}
        return web.Response(body=text.encode(), content_type="application/x-kvin", charset="utf-8", headers=headers)

    def _origin(self, request: web.Request) -> str:
        """Under which origin the client reached us; a trusted proxy in between says so."""
        scheme, host = request.scheme, request.host
        if self._proxies.trusts(request.remote):
            said = request.headers.get("X-Forwarded-Proto", "").strip().lower()
            scheme = said if said in ("http", "https") else scheme
            named = request.headers.get("X-Forwarded-Host", "").strip()
            host = named if _HOST.fullmatch(named) else host
        return f"{scheme}://{host}/"
