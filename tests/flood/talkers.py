"""Attackers that keep to the form: they open sessions, and abuse them."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import aiohttp

from orchestrator import kvin
from orchestrator.protocol import js_json, signing
from orchestrator.wallet.keys import PrivateKey
from tests.flood.ammunition import connect_message, fragment

ATTACKER = "127.0.0.2"


class Peer:
    """A session over a raw websocket, message by message, that can break every rule."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse, key: PrivateKey | None = None) -> None:
        self.socket = socket
        self.key = key or PrivateKey.generate()
        self.sent = 0
        self.dcpsid = ""
        self._nonce: str | None = None
        self._turn = 0

    @classmethod
    @contextlib.asynccontextmanager
    async def open(
        cls, http: aiohttp.ClientSession, url: str, service: str = "pheme", key: PrivateKey | None = None
    ) -> AsyncIterator[Peer]:
        """A socket without a session."""
        query = f"{url}{service}/dcp5/socketio/?EIO=4&transport=websocket"
        async with http.ws_connect(query, max_msg_size=0, timeout=aiohttp.ClientWSTimeout(ws_close=0.2)) as socket:
            await socket.send_str("40")
            yield cls(socket, key)

    async def send(self, message: str) -> None:
        if self.socket.closed:
            raise ConnectionResetError("the server has closed the socket")
        await self.socket.send_str("42" + json.dumps(["message", message]))
        self.sent += 1

    async def message(self, *, is_ack: bool = False) -> dict[str, Any]:
        """The body of the next message that is no ack, or of the next that is one. Raises ConnectionResetError."""
        async for packet in self.socket:
            if packet.type is not aiohttp.WSMsgType.TEXT:
                break
            if packet.data == "2":
                await self.socket.send_str("3")
            text = json.loads(packet.data[2:])[1] if packet.data.startswith("42") else ""
            if not text.startswith("{"):
                continue
            body: dict[str, Any] = json.loads(text)["body"]
            if body["type"] == "ack":
                self._nonce = body["nonce"]
            if (body["type"] == "ack") == is_ack:
                return body
        raise ConnectionResetError("the server has closed the socket")

    async def establish(self) -> None:
        await self.send(connect_message(self.key))
        self.dcpsid = (answer := await self.message())["dcpsid"]
        await self.acknowledge(answer)

    async def acknowledge(self, body: dict[str, Any]) -> None:
        self._turn += 1
        ack = {
            "type": "ack", "dcpsid": self.dcpsid, "token": body["ackToken"], "messageId": body["id"],
            "nonce": f"N-{self._turn}-abcdefgh",
        }  # fmt: skip
        await self.send(signing.seal(self.key, js_json.dumps(ack)))

    def requests(
        self, operation: str, data: Any = None, *, offset: float = 0.0, stamp: str = "", count: int = 0,
        nonce: str | None = None,
    ) -> str:  # fmt: skip
        """A signed message with `count` requests in a batch, or one alone, without any authorisation."""
        self._turn += 1
        common = {"dcpsid": self.dcpsid, "time": time.time()}
        members = []
        for number in range(count or 1):
            validity = {"stamp": stamp or os.urandom(20).hex(), "time": time.time() + offset}
            payload = {"operation": operation, "data": data or {}, "validity": validity}
            members.append({"type": "request", "id": f"{number}-{self._turn}-abcdefgh", "payload": payload, **common})
        whole = {"type": "batch", "id": f"b-{self._turn}-abcdefgh", "payload": members} if count else members[0]
        head = {"ackToken": f"AT-{self._turn}-abcdefgh", "nonce": nonce or self._nonce}
        return signing.seal(self.key, js_json.dumps({**whole, **common, **head}))

    async def answers(self) -> list[tuple[bool, Any]]:
        """Whether each request of the next message was done, and what it was answered."""
        body = await self.message()
        await self.acknowledge(body)
        return [
            (one["success"], one.get("payload")) for one in (body["payload"] if body["type"] == "batch" else [body])
        ]

    async def ask(self, operation: str, data: Any = None, **how: Any) -> list[tuple[bool, Any]]:
        await self.send(self.requests(operation, data, **how))
        return await self.answers()


_CODES = 5
"""different errors that talkers are answered with"""


class Talker:
    """Opens sessions and abuses them, one way each, until cancelled. `said` counts the server's errors by code."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.said: dict[str, int] = {}
        self.told_enough = asyncio.Event()
        self.sent = self.opened = self.dropped = 0
        self.ways = [
            self.past, self.future, self.without_auth, self.unknown, self.used_stamp, self.giant, self.deaf,
        ]  # fmt: skip

    async def run(self, connections: int) -> None:
        async with bound_session(ATTACKER) as http, asyncio.TaskGroup() as group:
            for number in range(connections):
                group.create_task(self._again_and_again(http, self.ways[number % len(self.ways)]))

    async def _again_and_again(self, http: aiohttp.ClientSession, way: Callable[[Peer], Awaitable[None]]) -> None:
        service = "jobSubmit" if way == self.without_auth else "pheme"
        while True:
            # What a session that ends under it leaves half said is no error of the flood.
            with contextlib.suppress(aiohttp.ClientError, OSError, TimeoutError, KeyError):
                async with Peer.open(http, self.url, service) as peer:
                    self.opened += 1
                    try:
                        await peer.establish()
                        await way(peer)
                    finally:
                        self.sent += peer.sent
            self.dropped += 1
            await asyncio.sleep(0.2)

    async def past(self, peer: Peer) -> None:
        await self._ask_for_ever(peer, "listJobs", offset=-86_400.0)

    async def future(self, peer: Peer) -> None:
        await self._ask_for_ever(peer, "listJobs", offset=86_400.0)

    async def without_auth(self, peer: Peer) -> None:
        data = {
            "job": "j" * 22, "paymentAccount": "0x" + "12" * 20, "workFunctionURI": "data:,(x)=>x", "requirements": 64,
            "mvMultSlicePayment": 1, "absoluteSlicePayment": 0, "worktime": {"name": "map-basic", "version": "^1.0.0"},
            "marshaledArguments": kvin.marshal([]),
        }  # fmt: skip
        await self._ask_for_ever(peer, "submit@5", data, count=50)

    async def unknown(self, peer: Peer) -> None:
        await self._ask_for_ever(peer, "makeMoney", count=50)

    async def used_stamp(self, peer: Peer) -> None:
        await self._ask_for_ever(peer, "listJobs", stamp="a" * 40)

    async def giant(self, peer: Peer) -> None:
        """Fragments of a message that never ends."""
        for number in range(10_000):
            await peer.send(fragment(5, number, 10_000, 200_000))

    async def deaf(self, peer: Peer) -> None:
        """Asks for much and reads nothing of it."""
        for _ in range(20):
            await peer.ask("listJobs", count=100)
        await peer.send(peer.requests("listJobs", count=5_000))
        await asyncio.sleep(3600)

    async def _ask_for_ever(self, peer: Peer, operation: str, data: Any = None, **how: Any) -> None:
        while True:
            for done, payload in await peer.ask(operation, data, **how):
                if not done:
                    code = str(payload.get("code"))
                    self.said[code] = self.said.get(code, 0) + 1
                    if len(self.said) >= _CODES:
                        self.told_enough.set()


@contextlib.asynccontextmanager
async def bound_session(address: str) -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0, local_addr=(address, 0)), timeout=aiohttp.ClientTimeout(total=None)
    ) as session:
        yield session


async def talk(url: str, connections: int) -> None:
    """Until SIGTERM comes. Prints a line when every way was tried, and a report at the end."""
    talker, stop = Talker(url), asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    async with asyncio.TaskGroup() as group:
        running = group.create_task(talker.run(connections))
        await talker.told_enough.wait()
        print("talking", flush=True)
        await stop.wait()
        running.cancel()
    print(json.dumps({"opened": talker.opened, "dropped": talker.dropped, "sent": talker.sent, "said": talker.said}))
