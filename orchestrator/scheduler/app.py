"""The whole Scheduler: its services, its bank, its server, and the tasks that keep them going."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import socket
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any, Literal, Self

from orchestrator.bank import Bank
from orchestrator.bank.ethereum import running as ethereum
from orchestrator.bank.measuring import Measuring
from orchestrator.clock import SteadyClock
from orchestrator.database import Database, sqlite_url
from orchestrator.errors import InvalidInput
from orchestrator.exporting import data, text
from orchestrator.exporting.metrics_server import MetricsServer
from orchestrator.protocol.server import DcpServer
from orchestrator.protocol.session_memory import Memory, SessionMemory
from orchestrator.scheduler.assembly import Side, assemble
from orchestrator.scheduler.blob_places import place_of, store_at
from orchestrator.scheduler.blobs import Blobs
from orchestrator.scheduler.config import config_text
from orchestrator.scheduler.core import Clock, Core
from orchestrator.scheduler.dialects import speaking_all
from orchestrator.scheduler.exposure import server_limits, tls_context, trusted_proxies
from orchestrator.scheduler.measuring import Gauges
from orchestrator.scheduler.opening import opened
from orchestrator.scheduler.shared_bans import SharedBans
from orchestrator.scheduler.shared_limits import SharedLimits
from orchestrator.scheduler.shared_sessions import SharedSessions
from orchestrator.settings import SchedulerSettings
from orchestrator.task_groups import TaskGroup
from orchestrator.wallet import files

KEYSTORE = "scheduler.keystore"
DATABASE = "scheduler.sqlite"
SESSIONS = "sessions"
DRAIN_S = 2.0
"""how long a Scheduler that stops waits for clients to answer"""


class SchedulerApp:
    """Use as `async with SchedulerApp(settings) as app: await app.run()`.

    Inside the block it serves; `url` is where. A failed side task ends `run()` with its error. When the block ends,
    sockets are closed and the database too, unless it was handed in.
    """

    def __init__(
        self, settings: SchedulerSettings, database: Database | None = None, *, clock: Clock | None = None
    ) -> None:
        self.settings = settings
        self._given_database = database
        self._clock = clock or SteadyClock()
        self._stack = contextlib.AsyncExitStack()
        self.core: Core
        self.server: DcpServer
        self.url = ""
        self.metrics: MetricsServer | None = None

    async def __aenter__(self) -> Self:
        async with contextlib.AsyncExitStack() as stack:
            await self._open(stack)
            self._stack = stack.pop_all()
        return self

    async def _open(self, stack: contextlib.AsyncExitStack) -> None:
        settings = self.settings
        await asyncio.to_thread(settings.state_dir.mkdir, parents=True, exist_ok=True)
        identity = await asyncio.to_thread(files.load_or_create, settings.state_dir / KEYSTORE, "scheduler")
        database = self._given_database
        if database is None:
            url = settings.database_url or sqlite_url(settings.state_dir / DATABASE)
            database = await opened(url, migrate=settings.migrate, wait_s=settings.database_wait_s)
            stack.push_async_callback(database.close)
        bank = Bank(self._clock)
        values = store_at(place_of(settings, is_shared=database.is_shared), settings)
        blobs = Blobs(values, settings.blob_threshold)
        stack.push_async_callback(blobs.close)
        chain = await ethereum.connected(stack, settings, bank, database, self._clock)
        place = f"{socket.gethostname()}:{settings.port}"
        parts = await assemble(settings, database, bank, identity, self._clock, place=place, blobs=blobs, chain=chain)
        self.core, self.roster, self.router, self.results = parts.core, parts.roster, parts.router, parts.results
        self.distributor, self.reconciler, self.keeper = parts.distributor, parts.reconciler, parts.keeper
        memory: Memory
        shared: SharedSessions | None = None
        if self.core.cluster is not None:
            memory = shared = SharedSessions(database, self.core.cluster, self._clock)
            self.core.cluster.hear("session", self._sessions_moved)
        else:
            memory = SessionMemory(settings.state_dir / SESSIONS, clock=self._clock)
            stack.callback(memory.close)
        services = {name: speaking_all(service, identity) for name, service in parts.services.items()}
        tls = await asyncio.to_thread(tls_context, settings)
        self.server = DcpServer(
            identity,
            services,
            self._config_text,
            limits=server_limits(settings),
            memory=memory,
            proxies=trusted_proxies(settings),
            clock=self._clock,
        )
        # The side tasks outlive the server: what it still has in hand when it closes must be carried out.
        self._tasks = await stack.enter_async_context(_Tasks())
        if settings.metrics_listen is not None:
            page = text.Page(data.resource("dcp-scheduler", identity.address)).text
            server = MetricsServer(settings.metrics_listen, page=page, live=Health, ready=Health)
            self.metrics = await stack.enter_async_context(server)
            self._tasks.start(Measuring(bank, database).run())
            self._tasks.start(Gauges(self.core, self.roster, self.distributor).run())
        sides: list[Side] = [*parts.sides, SharedBans(self.server, database, self._clock, self.core.cluster)]
        if self.core.cluster is not None and shared is not None:
            sides += [shared, SharedLimits(self.server, self.core.cluster)]
        for side in sides:
            self._tasks.start(side.run())
        await stack.enter_async_context(self.server)
        try:
            port = await self.server.listen(settings.host, settings.port, tls)
        except OSError as error:
            problem = f"cannot listen on {settings.host} port {settings.port}: {error.strerror or error}"
            raise InvalidInput(f"{problem}; another --port, or 0 for a free one, may help") from error
        stack.push_async_callback(self.router.drain, DRAIN_S)
        scheme = "http" if tls is None else "https"
        self.url = settings.public_url or f"{scheme}://{_url_host(settings.host)}:{port}/"

    def _sessions_moved(self, items: Sequence[Any]) -> None:
        for (dcpsid,) in items:
            self.server.surrender(dcpsid)

    def _config_text(self, version: Literal[8, 9], origin: str) -> str:
        """A client goes on using the address under which it found us, unless the operator has named one."""
        base_url = self.settings.public_url or origin
        return config_text(base_url if base_url.endswith("/") else f"{base_url}/", self.settings, version)

    async def run(self) -> None:
        """Serve until cancelled; raises when a part of the Scheduler has failed."""
        await self._tasks.failed()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool | None:
        return await self._stack.__aexit__(kind, error, trace)

    def statistics(self) -> dict[str, Any]:
        return {"server": self.server.statistics(), "router": self.router.statistics()}


@dataclasses.dataclass(frozen=True)
class Health:
    """Of a Scheduler that serves: a failed part ends the process."""

    ok: bool = True
    reason: str = ""
    detail: Mapping[str, Any] = dataclasses.field(default_factory=dict)


class _Tasks:
    """Side tasks that run as long as the block; `failed()` waits for the first that ends and raises its error."""

    def __init__(self) -> None:
        self._tasks: list[asyncio.Task[None]] = []
        self._group = TaskGroup()
        self._over: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def __aenter__(self) -> Self:
        await self._group.__aenter__()
        return self

    def start(self, work: Any) -> None:
        self._tasks.append(self._group.create_task(self._guard(work)))

    async def _guard(self, work: Any) -> None:
        try:
            await work
        except Exception as error:
            if not self._over.done():
                self._over.set_exception(error)

    async def failed(self) -> None:
        await asyncio.shield(self._over)

    async def __aexit__(self, *exception: Any) -> None:
        for task in self._tasks:
            task.cancel()
        self._over.cancel()
        # The block's own error passes by unwrapped.
        await self._group.__aexit__(None, None, None)


def _url_host(host: str) -> str:
    if host in ("", "0.0.0.0", "::"):  # noqa: S104 — comparing, not binding
        return "127.0.0.1"
    return f"[{host}]" if ":" in host else host
