"""A flood against a real Scheduler: what strangers do to it while an honest client works, and what that client sees.

The attackers come from another loopback address than the honest client, with raw websockets, from one process.
"""

from __future__ import annotations

import asyncio
import collections
import contextlib
import dataclasses
import json
import pathlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable

import aiohttp

from orchestrator.protocol import js_json, messages, signing
from orchestrator.protocol.client import DcpClient
from orchestrator.wallet.keys import PrivateKey
from tests.e2e import harness

ATTACKER = "127.0.0.2"
_SOCKET = "pheme/dcp5/socketio/?EIO=4&transport=websocket"


@dataclasses.dataclass
class Report:
    connections: int = 0
    refused: int = 0
    sent: int = 0
    dropped: int = 0
    said: dict[str, int] = dataclasses.field(default_factory=collections.Counter)
    """what the server answered to attackers, by error code"""
    honest_ms: list[float] = dataclasses.field(default_factory=list)
    honest_errors: list[str] = dataclasses.field(default_factory=list)
    seconds: float = 0.0
    memory_before: int = 0
    memory_most: int = 0

    def p(self, share: float) -> float:
        times = sorted(self.honest_ms)
        return times[min(len(times) - 1, int(share * len(times)))] if times else float("nan")

    def to_json(self) -> dict[str, object]:
        return {
            "seconds": round(self.seconds, 1),
            "connections": self.connections,
            "refused_connections": self.refused,
            "packets_sent": self.sent,
            "packets_per_s": round(self.sent / self.seconds) if self.seconds else 0,
            "dropped_sockets": self.dropped,
            "answers": dict(self.said),
            "honest_requests": len(self.honest_ms),
            "honest_errors": self.honest_errors[:10],
            "honest_p50_ms": round(self.p(0.5), 1),
            "honest_p99_ms": round(self.p(0.99), 1),
            "memory_before_mib": self.memory_before >> 20,
            "memory_most_mib": self.memory_most >> 20,
        }


def memory_of(pid: int) -> int:
    """Resident bytes."""
    for line in pathlib.Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    return 0


class Attack:
    """Many kinds of bad peers; each connection does one kind, again and again, until cancelled."""

    def __init__(self, url: str, report: Report, pause: float) -> None:
        self.url = url
        self.report = report
        self.pause = pause
        """seconds between packets of one connection"""
        self.key = PrivateKey.generate()
        self.kinds: list[Callable[[aiohttp.ClientWebSocketResponse], Awaitable[None]]] = [
            self.garbage, self.half_open, self.giant, self.slow_reader, self.replayed, self.forged, self.past,
            self.future, self.without_auth, self.unknown,
        ]  # fmt: skip

    @contextlib.asynccontextmanager
    async def _session(self) -> AsyncIterator[aiohttp.ClientSession]:
        connector = aiohttp.TCPConnector(limit=0, local_addr=(ATTACKER, 0))
        async with aiohttp.ClientSession(connector=connector) as session:
            yield session

    async def run(self, connections: int) -> None:
        async with self._session() as session, asyncio.TaskGroup() as group:
            for number in range(connections):
                group.create_task(self._again_and_again(session, self.kinds[number % len(self.kinds)]))

    async def _again_and_again(
        self, session: aiohttp.ClientSession, kind: Callable[[aiohttp.ClientWebSocketResponse], Awaitable[None]]
    ) -> None:
        while True:
            try:
                async with session.ws_connect(
                    self.url + _SOCKET, max_msg_size=0, timeout=aiohttp.ClientWSTimeout(ws_close=0.2)
                ) as socket:
                    self.report.connections += 1
                    await socket.send_str("40")
                    await kind(socket)
                self.report.dropped += 1
            except aiohttp.WSServerHandshakeError:
                self.report.refused += 1
            except (aiohttp.ClientError, OSError, TimeoutError):
                self.report.dropped += 1
            await asyncio.sleep(0.2)

    async def _send(self, socket: aiohttp.ClientWebSocketResponse, message: str) -> None:
        if socket.closed:
            raise ConnectionResetError
        await socket.send_str("42" + json.dumps(["message", message]))
        self.report.sent += 1
        if self.pause:
            await asyncio.sleep(self.pause)

    # --- kinds

    async def garbage(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        while True:
            await self._send(socket, '{"owner":"0x","signature":{},"body":{"type":"garbage"}}')

    async def half_open(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        await self._send(socket, self._connect(self.key))
        await asyncio.sleep(3600)

    async def giant(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        """Fragments of a message that never ends."""
        for number in range(10_000):
            header = f'{{"msgId":5,"seq":{number},"total":10000}}'
            await self._send(socket, f"E{len(header):04x}C{header}{'x' * 200_000}")

    async def slow_reader(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        """Asks, and reads nothing of what is answered."""
        frame = self._connect(PrivateKey.generate())
        while True:
            await self._send(socket, frame)

    async def replayed(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        frame = self._connect(self.key)
        for _ in range(1_000):
            await self._send(socket, frame)

    async def forged(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        """Signed by another than it says."""
        frame = self._connect(self.key).replace(self.key.address, PrivateKey.generate().address)
        while True:
            await self._send(socket, frame)

    async def past(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        await self._converse(socket, "listJobs", offset=-86_400.0)

    async def future(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        await self._converse(socket, "listJobs", offset=86_400.0)

    async def without_auth(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        await self._converse(socket, "cancelAllJobs", data={"paymentAccount": "0x" + "12" * 20}, batch=True)

    async def unknown(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        await self._converse(socket, "makeMoney")

    # --- a peer that keeps to the form

    def _connect(self, key: PrivateKey) -> str:
        token = PrivateKey.generate().address[2:]
        body = {
            "type": "request", "id": f"1-1-{token}", "time": time.time(), "ackToken": f"AT-{token}",
            "payload": {"operation": "connect", "data": {"version": messages.WIRE_VERSION, "sid": token}},
        }  # fmt: skip
        return signing.seal(key, js_json.dumps(body))

    async def _converse(
        self,
        socket: aiohttp.ClientWebSocketResponse,
        operation: str,
        *,
        data: object = None,
        offset: float = 0.0,
        batch: bool = False,
    ) -> None:
        key, count = PrivateKey.generate(), 0
        await self._send(socket, self._connect(key))
        async for packet in socket:
            if packet.type is not aiohttp.WSMsgType.TEXT:
                return
            if packet.data == "2":
                await socket.send_str("3")
            if not packet.data.startswith("42"):
                continue
            text = json.loads(packet.data[2:])[1]
            if not text.startswith("{"):
                continue
            body = json.loads(text)["body"]
            if body["type"] == "ack":
                nonce, dcpsid = body["nonce"], body.get("dcpsid")
                continue
            for one in body["payload"] if body["type"] == "batch" else [body]:
                if one.get("success") is False:
                    self.report.said[str(one["payload"].get("code"))] += 1
            dcpsid = body.get("dcpsid")
            count += 1
            ack = {
                "type": "ack",
                "dcpsid": dcpsid,
                "token": body["ackToken"],
                "id": body["id"],
                "nonce": f"N-{count}-abcdefgh",
            }
            await self._send(socket, signing.seal(key, js_json.dumps(ack)))
            stamp = PrivateKey.generate().address[2:]
            request = {
                "type": "request", "id": f"1-{count}-{stamp}", "dcpsid": dcpsid, "time": time.time() + offset,
                "payload": {
                    "operation": operation, "data": data if data is not None else {},
                    "validity": {"stamp": stamp, "time": time.time() + offset},
                },
            }  # fmt: skip
            head = {"ackToken": f"AT-{count}-{stamp}", "nonce": nonce}
            message = (
                {"type": "batch", "id": f"b-{count}-{stamp}", "dcpsid": dcpsid, "time": time.time(),
                 "payload": [request],
                 **head}
                if batch else {**request, **head}
            )  # fmt: skip
            await self._send(socket, signing.seal(key, js_json.dumps(message)))


async def _honest(url: str, report: Report) -> None:
    """Asks one thing after the other, with its own client, until cancelled."""
    async with DcpClient(PrivateKey.generate()) as client:
        pheme = client.connect(f"{url}pheme/")
        while True:
            begun = time.monotonic()
            try:
                await pheme.request("listJobs", {})
                report.honest_ms.append((time.monotonic() - begun) * 1000)
            except Exception as error:  # whatever it is, the honest client was not served
                report.honest_errors.append(repr(error))
            await asyncio.sleep(0.02)


async def run(folder: pathlib.Path, *, seconds: float, connections: int, packets_per_s: float) -> Report:
    """Flood a Scheduler of our own for so long."""
    report = Report()
    scheduler = await harness.Command.start(
        "scheduler", "run", "--port", "0", "--state", str(folder / "state"), log=folder / "scheduler.log"
    )
    try:
        url = (await scheduler.wait_for_line("ready ")).split()[1]
        report.memory_before = report.memory_most = memory_of(scheduler.process.pid)
        attack = Attack(url, report, connections / packets_per_s)
        begun = time.monotonic()
        tasks = [asyncio.ensure_future(_honest(url, report)), asyncio.ensure_future(attack.run(connections))]
        try:
            while time.monotonic() - begun < seconds:
                done, _ = await asyncio.wait(tasks, timeout=0.25, return_when=asyncio.FIRST_COMPLETED)
                report.memory_most = max(report.memory_most, memory_of(scheduler.process.pid))
                for one in done:
                    one.result()
                    raise AssertionError("an attack ended by itself")
        finally:
            report.seconds = time.monotonic() - begun
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
    finally:
        await scheduler.kill()
    return report
