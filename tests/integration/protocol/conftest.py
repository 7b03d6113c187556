from __future__ import annotations

import asyncio
import contextlib
import functools
import json
import os
import pathlib
from collections.abc import AsyncIterator, Callable
from typing import Any

import aiohttp
import pytest

from orchestrator.errors import NotEnoughFunds, OrchestratorError
from orchestrator.protocol import config
from orchestrator.protocol.server import DcpServer, Request, ServerLimits
from orchestrator.protocol.vocabulary import SessionLimits
from orchestrator.telemetry import Readings
from orchestrator.wallet.keys import PrivateKey
from tests.integration.protocol.besieged import Setup

HERE = pathlib.Path(__file__).parent
LARGE = "x\U0001f600" * 400_000


class WireService:
    """Does whatever the drivers beside this file ask for."""

    def __init__(self) -> None:
        self.server: FaultyServer
        self.seen: list[Any] = []

    async def handle(self, request: Request) -> Any:
        call = request.connection.request
        match request.operation:
            case "fail":
                raise NotEnoughFunds("no money", info={"needed": "5"})
            case "bug":
                raise RuntimeError("a bug in the service")
            case "unserialisable":
                return float("nan")
            case "numeric":
                return {"b": 1, "10": "ten", "2": {"z": 1, "0": 0}, "f": 1.0, "g": 1e21, "h": 1e-7, "i": -0.0}
            case "authorized":
                return sorted(request.authorized)
            case "call-me":
                answers = await asyncio.gather(*(call("event", {"i": i}) for i in range(request.data["count"])))
                return [answer["data"]["i"] for answer in answers] == list(range(request.data["count"]))
            case "call-refuse":
                try:
                    return await call("refuse", 1)
                except OrchestratorError as error:
                    return [error.code, error.message]
            case "call-large":
                return (await call("large", LARGE))["data"] == LARGE
            case "call-lost":
                return (await call("lost-event", {"n": 1}))["data"]
            case "close-me":
                request.connection.close()
            case "forget":
                self.server.forget_sessions()
            case "drop":
                self.server.abort_sockets()
            case _:
                self.seen.append(request.data)
        return request.data


class FaultyServer(DcpServer):
    """A server whose network fails on demand: when a marked text passes for the first time."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.faults = {"lose-request", "lose-ack", "lose-response", "lost-event"}
        self._deaf: set[Any] = set()
        self._really_post = self._sockets.post
        self._sockets.post = self._faulty_post  # type: ignore[method-assign]
        self._really_receive = self._sockets._on_message
        self._sockets._on_message = self._faulty_receive

    def _fails(self, mark: str, packet: str | None) -> bool:
        if packet is not None and mark in self.faults and mark in packet:
            self.faults.discard(mark)
            return True
        return False

    def _faulty_receive(self, socket: Any, packet: str) -> None:
        if socket in self._deaf:
            return
        if self._fails("lose-request", packet):
            self._cut(socket)
            return
        if self._fails("lose-ack", packet):
            super_post, self._sockets.post = self._sockets.post, lambda *_: None  # type: ignore[method-assign]
            self._really_receive(socket, packet)
            self._sockets.post = super_post  # type: ignore[method-assign]
            self._cut(socket)
            return
        self._really_receive(socket, packet)

    def _faulty_post(self, socket: Any, packet: str | None) -> None:
        if self._fails("lost-event", packet) or (
            packet is not None and '"response"' in packet and self._fails("lose-response", packet)
        ):
            self._cut(socket)
        elif socket not in self._deaf or packet is None:
            self._really_post(socket, packet)

    def _cut(self, socket: Any) -> None:
        self._deaf.add(socket)
        self._really_post(socket, None)

    def abort_sockets(self) -> None:
        """Break TCP connections without a word."""
        for socket in list(self._sockets._sockets.values()):
            environ = self._sockets._sio.get_environ(socket.sid)
            environ["aiohttp.request"].transport.abort()

    def forget_sessions(self) -> None:
        self._books.links.clear()
        for socket in list(self._sockets._sockets.values()):
            self._cut(socket)


@pytest.fixture
async def setup(request: pytest.FixtureRequest) -> AsyncIterator[Setup]:
    made = Setup(getattr(request, "param", ServerLimits()))
    async with made.server, aiohttp.ClientSession() as made.http:
        await made.server.listen()
        yield made
        made.service.go.set()


@pytest.fixture
def service() -> WireService:
    return WireService()


@pytest.fixture
async def server(service: WireService) -> AsyncIterator[FaultyServer]:
    def config_text(version: Any, _origin: str) -> str:
        return config.config_text(config.build_config(f"http://127.0.0.1:{made.port}/"), version)

    limits = ServerLimits(session=SessionLimits(batch_messages=200))
    made = FaultyServer(PrivateKey.generate(), {"pheme": service, "jobSubmit": service}, config_text, limits=limits)
    service.server = made
    counted = Readings()
    async with made:
        await made.listen()
        yield made
    # Whatever is lost, repeated or resumed: honest clients have nothing held against them.
    assert counted.total("dcp.scheduler.offences") == 0


class Driver:
    """A Node program that prints JSON lines."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process

    async def line(self) -> Any:
        assert self.process.stdout is not None
        async with asyncio.timeout(60):
            text = await self.process.stdout.readline()
        assert text, "the driver ended"
        return json.loads(text)

    async def tell(self, word: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(word.encode() + b"\n")
        await self.process.stdin.drain()
        assert await self.line() == {"done": True}


@contextlib.asynccontextmanager
async def _run_driver(
    node: pathlib.Path, home: pathlib.Path, script: str, *arguments: str, scheduler: str
) -> AsyncIterator[Driver]:
    """Run a script of this folder with the environment that dcp-client needs."""
    environment = {
        **os.environ,
        "DCP_SCHEDULER_LOCATION": scheduler,
        "DCP_RESOURCE_DIR": str(home),
        "DCP_ETCDIR": str(home),
        "HOME": str(home),
        "DCP_CLIENT_ALLOW_INSECURE_CONFIGURATION": "1",
    }
    process = await asyncio.create_subprocess_exec(
        node,
        str(HERE / script),
        *arguments,
        env=environment,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        limit=64 * 1024 * 1024,
    )
    try:
        yield Driver(process)
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()
        # Closes the pipes' transports while the loop still runs.
        process._transport.close()  # type: ignore[attr-defined]


@pytest.fixture
def run_driver(node: pathlib.Path, tmp_path: pathlib.Path) -> Callable[..., Any]:
    """`async with run_driver(script, *arguments, scheduler=url) as driver`."""
    return functools.partial(_run_driver, node, tmp_path)


@pytest.fixture
def run_scenarios(run_driver: Callable[..., Any], package: pathlib.Path, server: FaultyServer) -> Callable[..., Any]:
    """Run scenarios of `wire_driver.js` on one connection; results by name."""

    async def run(*names: str) -> dict[str, Any]:
        results: dict[str, Any] = {}
        scheduler = f"http://127.0.0.1:{server.port}/"
        async with run_driver("wire_driver.js", str(package), "pheme", *names, scheduler=scheduler) as driver:
            for name in names:
                line = await driver.line()
                assert line["scenario"] == name
                assert "error" not in line, line["error"]
                results[name] = line["result"]
            await driver.process.wait()
        return results

    return run
