"""A small Scheduler made of the real protocol server, and a real Worker with real containers against it."""

from __future__ import annotations

import asyncio
import collections
import contextlib
import itertools
import json
import pathlib
import socket
from collections.abc import AsyncIterator, Callable, Container, Sequence
from typing import Any

import pytest

from orchestrator import kvin
from orchestrator.errors import OrchestratorError
from orchestrator.jobs import piles
from orchestrator.protocol.config import build_config, config_text
from orchestrator.protocol.server import DcpServer, Request, ServerConnection
from orchestrator.settings import WorkerSettings
from orchestrator.wallet.keys import PrivateKey
from orchestrator.worker.service import Worker


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class ToyScheduler:
    """Hands out what it is told to, and writes down what the Worker says. One lease number per answer."""

    def __init__(self) -> None:
        self.identity = PrivateKey.generate()
        self.port = free_port()
        self.jobs: dict[str, dict[str, Any]] = {}
        self.waiting: collections.deque[tuple[str, int, str | None]] = collections.deque()
        self.per_task = 100
        self.leases = 0
        self.leased: dict[tuple[str, int], int] = {}
        self.results: dict[tuple[str, int], dict[str, Any]] = {}
        self.result_messages = 0
        self.in_pile = 1
        """How many results it says that it takes in one request."""
        self.piles: list[int] = []
        self.refuse_piles: OrchestratorError | None = None
        self.unwanted: Container[int] = ()
        """Slices whose results it says are another lease's."""
        self.returns: list[tuple[str, int, Any]] = []
        self.begun: set[tuple[str, int]] = set()
        self.emits: list[dict[str, Any]] = []
        self.order: list[str] = []
        self.requests: list[dict[str, Any]] = []
        self.sessions: list[str] = []
        """In which session each of the requests came."""
        self._events = itertools.count(1)
        self.goodbye = asyncio.Event()
        self.changed = asyncio.Condition()
        self.subscribed: dict[str, ServerConnection] = {}
        self.refuse_results: OrchestratorError | None = None
        self.extra: dict[str, Any] = {}
        self.packages: dict[str, Any] = {}
        """Answers of the package manager by module, besides that for `pkg/file.js`."""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/"

    @contextlib.asynccontextmanager
    async def serving(self) -> AsyncIterator[ToyScheduler]:
        names = ("taskDistributor", "resultSubmitter", "eventRouter", "packageManager")
        services = {name: _Door(getattr(self, f"on_{name}")) for name in names}
        config = build_config(self.url, services=names[:3], extra=self.extra)
        tuning = config["scheduler"]["services"]["resultSubmitter"].setdefault("tuning", {})

        def text(version: Any, _origin: str) -> str:
            tuning["resultsInPile"] = self.in_pile
            return config_text(config, version)

        server = DcpServer(self.identity, services, text)
        async with server:
            await server.listen("127.0.0.1", self.port)
            yield self

    def add(self, job_id: str, code: str, data: Sequence[str | None], **message: Any) -> None:
        self.jobs[job_id] = {
            "jobId": job_id,
            "jobCgId": f"{job_id}-public",
            "public": {"name": "a test", "description": "", "link": ""},
            "codeLocation": "data:," + code.replace("%", "%25"),
            "argumentsLocation": [],
            "dependencies": [],
            "requirePath": [],
            "modulePath": [],
            "worktime": {"name": "map-basic", "version": "1.0.0"},
            "needCapabilities": 64,
            "useStrict": True,
            "workerConsole": True,
            **message,
        }
        self.waiting.extend((job_id, number, datum) for number, datum in enumerate(data, 1))

    async def until(self, condition: Callable[[], bool], timeout_s: float = 30.0) -> None:
        try:
            async with asyncio.timeout(timeout_s), self.changed:
                await self.changed.wait_for(condition)
        except TimeoutError:
            pytest.fail(
                f"not within {timeout_s} s: {len(self.results)} results, returns {self.returns}, emits {self.emits}"
            )

    async def done(self, count: int, timeout_s: float = 30.0) -> None:
        await self.until(lambda: len(self.results) + len(self.returns) >= count, timeout_s)

    def value(self, job_id: str, number: int) -> Any:
        """A result as its owner would read it."""
        wrapped = self.results[job_id, number]["resultV2"]["what"]["raw"]
        return json.loads(wrapped["string"]) if wrapped["method"] == "json" else kvin.parse(wrapped["string"])

    async def command(self, command: str, payload: dict[str, Any]) -> None:
        token, connection = next(iter(self.subscribed.items()))
        event = {"eventId": f"event-{next(self._events)}", "data": {"command": command, "payload": payload}}
        assert await connection.request("event", {"token": token, "event": event}) == "success"

    # -- services

    async def on_taskDistributor(self, request: Request) -> Any:
        if request.operation != "requestTask@3":
            return {"success": True}
        self.requests.append(request.data)
        self.sessions.append(request.connection.dcpsid)
        await self._tell()
        if request.data["fetchState"] & 16:
            self.goodbye.set()
            return {}
        self.leases += 1
        authorization = {"owner": self.identity.address, "auth": {"lease": self.leases, "authSlices": {}}}
        task: dict[str, list[dict[str, Any]]] = {}
        if request.data["fetchState"] & 1:
            for _ in range(min(self.per_task, len(self.waiting))):
                job_id, number, datum = self.waiting.popleft()
                self.leased[job_id, number] = self.leases
                entry = {"jobId": job_id, "sliceNumber": number, "resultStorageType": "values"}
                entry |= self.jobs[job_id].get("slice", {})
                task.setdefault(job_id, []).append(entry | ({} if datum is None else {"datumUri": datum}))
        if not task:
            return {**authorization, "body": {}}
        return {**authorization, "body": {"newJobs": {job_id: self.jobs[job_id] for job_id in task}, "task": task}}

    async def on_resultSubmitter(self, request: Request) -> Any:
        if request.operation == "results":
            return await self.take_pile(request)
        data = request.data
        if request.operation == "status":
            for entry in data["slices"]:
                for number in entry["sliceNumbers"]:
                    if entry["status"] == "begin":
                        self.begun.add((entry["job"], number))
                    elif self.leased.get((entry["job"], number)) == entry["authorizationMessage"]["auth"]["lease"]:
                        self.returns.append((entry["job"], number, entry["reason"]))
                        self.order.append(f"return {number}")
        elif request.operation == "result":
            self.result_messages += 1
            if self.refuse_results is not None:
                raise self.refuse_results
            place = (data["job"], data["slice"])
            if (
                data["slice"] in self.unwanted
                or self.leased.get(place) != data["authorizationMessage"]["auth"]["lease"]
            ):
                raise OrchestratorError("another lease is newer", code="ELEASE")
            self.results[place] = data
            self.order.append(f"result {data['slice']}")
        await self._tell()
        return {"metrics": {}, "slicePaymentAmount": "0.001"}

    async def take_pile(self, request: Request) -> Any:
        members = piles.unfold(request.data)
        self.piles.append(len(members))
        if self.refuse_piles is not None:
            raise self.refuse_piles
        answers: list[Any] = []
        for data in members:
            try:
                single = Request("result", data, request.peer, request.authorized, request.connection)
                answers.append(await self.on_resultSubmitter(single))
            except OrchestratorError as error:
                answers.append(error)
        return piles.fold_answers(answers)

    async def on_eventRouter(self, request: Request) -> Any:
        if request.operation == "subscribeMany":
            labels = request.data["schedmsgEvents"]
            self.subscribed = {f"token-{label}": request.connection for label in labels}
            await self._tell()
            return {"tokens": [{"event": label, "token": f"token-{label}"} for label in labels]}
        if request.operation == "workEmit":
            self.emits.append(request.data)
            self.order.append(f"{request.data['eventName']} {request.data['slice']}")
            await self._tell()
        return {"success": True}

    async def on_packageManager(self, request: Request) -> Any:
        assert request.operation == "fetchModuleURL"
        (module,) = request.data["modules"]
        if module in self.packages:
            return self.packages[module]
        if request.data["modules"] != ["pkg/file.js"]:
            return {"code": "ENOENT"}
        source = "module.declare([], function(require, exports, module) { exports.three = 3; });"
        return {"pkg": {"file.js": "data:text/javascript," + source}}

    async def _tell(self) -> None:
        async with self.changed:
            self.changed.notify_all()


class _Door:
    """A service whose requests go to one method."""

    def __init__(self, handle: Callable[[Request], Any]) -> None:
        self._handle = handle

    async def handle(self, request: Request) -> Any:
        return await self._handle(request)


@pytest.fixture
async def scheduler() -> AsyncIterator[ToyScheduler]:
    async with ToyScheduler().serving() as toy:
        yield toy


@pytest.fixture
def worker(tmp_path: pathlib.Path) -> Callable[..., contextlib.AbstractAsyncContextManager[Worker]]:
    """`async with worker(scheduler, sandboxes=2) as w`: runs; stopped softly at the end."""

    @contextlib.asynccontextmanager
    async def running(scheduler: ToyScheduler, *, stops: bool = False, **settings: Any) -> AsyncIterator[Worker]:
        given = {"sandboxes": 1, "warm": 1, "state_dir": tmp_path / "worker", "idle_poll_s": 0.05, **settings}
        made = Worker(WorkerSettings(scheduler_url=scheduler.url, **given))
        async with asyncio.TaskGroup() as group:
            task = group.create_task(made.run())
            yield made
            if not stops:
                made.stop()
            async with asyncio.timeout(40):
                await asyncio.wait([task])
        made.supervisor.validate()

    return running
