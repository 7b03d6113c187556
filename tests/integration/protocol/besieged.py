"""A server with limits, and what its tests see of it."""

from __future__ import annotations

import asyncio
from typing import Any

import aiohttp

from orchestrator.protocol.guard import GuardLimits
from orchestrator.protocol.server import DcpServer, Request, ServerLimits
from orchestrator.wallet.keys import PrivateKey
from tests.flood.talkers import Peer

OTHER = "127.0.0.9"
POLICY = 1008


class Service:
    def __init__(self) -> None:
        self.go = asyncio.Event()
        self.waiting = 0
        self.handled = 0

    async def handle(self, request: Request) -> Any:
        self.handled += 1
        if request.operation == "wait":
            self.waiting += 1
            await self.go.wait()
        if request.operation == "large":
            return "x" * request.data
        return request.data


class Setup:
    def __init__(self, limits: ServerLimits) -> None:
        self.service = Service()
        self.server = DcpServer(PrivateKey.generate(), {"echo": self.service}, lambda *_: "", limits=limits)
        self.http: aiohttp.ClientSession

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server.port}/"

    @property
    def query(self) -> str:
        return f"{self.url}echo/dcp5/socketio/?EIO=4&transport=websocket"

    def peer(self, key: PrivateKey | None = None, http: aiohttp.ClientSession | None = None) -> Any:
        return Peer.open(http or self.http, self.url, "echo", key)

    async def refusal(self) -> str:
        async with self.http.get(self.query) as answer:
            assert answer.status == 429
            assert answer.headers["Retry-After"] == "5"
            return await answer.text()


def limits(**guard: Any) -> ServerLimits:
    return ServerLimits(guard=GuardLimits(**guard))


async def closed(peer: Peer) -> tuple[int | None, str]:
    """Code and reason with which the server closes a websocket."""
    async with asyncio.timeout(10):
        while True:
            packet = await peer.socket.receive()
            if packet.type is aiohttp.WSMsgType.CLOSE:
                return packet.data, packet.extra or ""
            if packet.type in (aiohttp.WSMsgType.CLOSED, aiohttp.WSMsgType.CLOSING, aiohttp.WSMsgType.ERROR):
                return peer.socket.close_code, ""


async def until(condition: Any) -> None:
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110 - what is waited for has no event
            await asyncio.sleep(0.005)
