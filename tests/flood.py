"""A flood against a real Scheduler: what strangers do to it while honest clients work, and what those see.

Attackers, honest clients and the Scheduler are processes of their own. Most attackers are connections of a small C
program that writes prepared bytes; those that need answers to go on are Python. Attackers and honest clients share one
core and the Scheduler has another, as if they came from other machines.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import contextlib
import dataclasses
import json
import os
import pathlib
import struct
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any

import aiohttp
from yarl import URL

from orchestrator import kvin
from orchestrator.protocol import js_json, messages, signing
from orchestrator.protocol.client import DcpClient
from orchestrator.wallet.keys import PrivateKey
from tests.e2e import harness

ATTACKER = "127.0.0.2"
HONEST = "127.0.0.3"
_PATH = "pheme/dcp5/socketio/?EIO=4&transport=websocket"
_GUN = pathlib.Path(__file__).parent / "flood_gun.c"

# --- ammunition


def websocket_frame(text: str | bytes) -> bytes:
    """A text frame of a client; its mask is zero."""
    data = text.encode() if isinstance(text, str) else text
    return _frame_head(len(data)) + data


def _frame_head(size: int) -> bytes:
    if size < 126:
        head = struct.pack("!BB", 0x81, 0x80 | size)
    elif size < 65_536:
        head = struct.pack("!BBH", 0x81, 0x80 | 126, size)
    else:
        head = struct.pack("!BBQ", 0x81, 0x80 | 127, size)
    return head + bytes(4)


def dcp(message: str) -> bytes:
    return websocket_frame("42" + json.dumps(["message", message]))


def connect_message(key: PrivateKey) -> str:
    token = PrivateKey.generate().address[2:]
    body = {
        "type": "request", "id": f"1-1-{token}", "time": time.time(), "ackToken": f"AT-{token}",
        "payload": {"operation": "connect", "data": {"version": messages.WIRE_VERSION, "sid": token}},
    }  # fmt: skip
    return signing.seal(key, js_json.dumps(body))


def fragment(message_id: int, number: int, total: int, size: int) -> str:
    header = f'{{"msgId":{message_id},"seq":{number},"total":{total}}}'
    return f"E{len(header):04x}C{header}{'x' * size}"


@dataclasses.dataclass(frozen=True)
class Kind:
    """What one connection of the gun writes: some frames once, others again and again."""

    name: str
    once: Sequence[bytes]
    repeated: Sequence[bytes]
    reads: bool = True


def kinds() -> list[Kind]:
    key = base64.b64encode(os.urandom(16)).decode()
    upgrade = (
        f"GET /{_PATH} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
        f"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {key}\r\n\r\n"
    ).encode()
    begin = [upgrade, websocket_frame("40")]
    owner = PrivateKey.generate()
    connect = connect_message(owner)
    forged = connect.replace(owner.address, PrivateKey.generate().address)
    garbage = [dcp(f'{{"owner":"0x{n}","signature":{{}},"body":{{"type":"garbage"}}}}') for n in range(20)]
    rubbish = [websocket_frame(f"42[{n},{{]"[: 2 + n]) for n in range(6)]
    post = f"POST /{_PATH.replace('websocket', 'polling')}&sid=x HTTP/1.1\r\nHost: x\r\nContent-Length: 8000000\r\n\r\n"
    config = b"GET /etc/dcp-config.kvin?ver=2.1.0 HTTP/1.1\r\nHost: x\r\n\r\n"
    return [
        Kind("garbage", begin, garbage),
        Kind("no socket.io", begin, rubbish),
        Kind("forged", begin, [dcp(forged)]),
        Kind("replayed", begin, [dcp(connect)]),
        Kind("giant of fragments", begin, [dcp(fragment(5, n, 10_000, 60_000)) for n in range(20)]),
        Kind("giant frame", [*begin, _frame_head(8_000_000)], [b"x" * 60_000]),
        Kind("half open", [*begin, dcp(connect)], []),
        Kind("silent", [upgrade], []),
        Kind("slow reader", begin, [dcp(connect_message(PrivateKey.generate()))], reads=False),
        Kind("slow request", [b"GET / HTTP/1.1\r\n"], [b"X-A: b\r\n"]),
        Kind("giant body", [post.encode()], [b"x" * 60_000]),
        Kind("configuration", [config], [config], reads=False),
    ]


def ammunition(all_kinds: Sequence[Kind]) -> bytes:
    """The gun's file."""
    parts: list[bytes] = []
    for kind in all_kinds:
        parts.append(struct.pack("=III", len(kind.once), len(kind.repeated), kind.reads))
        parts += [struct.pack("=I", len(frame)) + frame for frame in (*kind.once, *kind.repeated)]
    return b"".join(parts)


def build_gun(folder: pathlib.Path) -> pathlib.Path:
    gun = folder / "flood_gun"
    subprocess.run(["cc", "-O2", "-o", str(gun), str(_GUN)], check=True, capture_output=True, timeout=120)
    return gun


# --- attackers that keep to the form


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


# --- honest clients


async def _resident(url: str, seconds: float) -> None:
    """Has a session, and asks one thing after the other. Prints when it asked and how many milliseconds it took."""
    async with DcpClient(PrivateKey.generate()) as client:
        pheme = client.connect(f"{url}pheme/")
        await _ask_for(seconds, 0.02, lambda: pheme.request("listJobs", {}))


async def _newcomer(url: str, seconds: float) -> None:
    """Opens a new session for every question."""

    async def ask() -> None:
        async with DcpClient(PrivateKey.generate()) as client:
            await client.connect(f"{url}pheme/").request("listJobs", {})

    await _ask_for(seconds, 0.2, ask)


async def _ask_for(seconds: float, pause: float, ask: Any) -> None:
    until: float | None = None
    while until is None or time.monotonic() < until:
        begun = time.monotonic()
        try:
            async with asyncio.timeout(30):
                await ask()
            print(json.dumps([begun, (time.monotonic() - begun) * 1000]), flush=True)
        except Exception as error:  # whatever it is, the honest client was not served
            print(json.dumps([begun, repr(error)]), flush=True)
        # Counted from the first answer on.
        until = until or time.monotonic() + seconds
        await asyncio.sleep(pause)


def _come_from(address: str) -> None:
    """All of aiohttp's connections in this process."""
    whole = aiohttp.TCPConnector.__init__

    def bound(self: aiohttp.TCPConnector, **options: Any) -> None:
        whole(self, **{"local_addr": (address, 0), **options})

    aiohttp.TCPConnector.__init__ = bound  # type: ignore[method-assign,assignment]


# --- all together


@dataclasses.dataclass
class Times:
    """Answers of one honest client, before the flood and in it."""

    calm_ms: list[float] = dataclasses.field(default_factory=list)
    flood_ms: list[float] = dataclasses.field(default_factory=list)
    errors: list[str] = dataclasses.field(default_factory=list)

    @classmethod
    def parse(cls, text: str, flood_at: float) -> Times:
        times = cls()
        for begun, took in map(json.loads, text.splitlines()):
            if isinstance(took, str):
                times.errors.append(took)
            else:
                (times.flood_ms if begun >= flood_at else times.calm_ms).append(took)
        return times

    def to_json(self) -> dict[str, object]:
        return {
            "calm": _percentiles(self.calm_ms), "flood": _percentiles(self.flood_ms), "errors": len(self.errors),
            "first_errors": self.errors[:3],
        }  # fmt: skip


def _percentiles(times: list[float]) -> dict[str, object]:
    ordered = sorted(times)

    def at(share: float) -> float | None:
        return round(ordered[min(len(ordered) - 1, int(share * len(ordered)))], 1) if ordered else None

    return {"answers": len(ordered), "p50_ms": at(0.5), "p99_ms": at(0.99), "most_ms": at(1)}


@dataclasses.dataclass
class Report:
    seconds: float
    gun: dict[str, dict[str, float]]
    talkers: dict[str, Any]
    honest: dict[str, Times]
    memory_before: int
    memory_most: int
    scheduler_cpu: float
    """cores that the Scheduler used during the flood"""
    log: str

    @property
    def offered_per_s(self) -> float:
        return sum(kind["sent"] for kind in self.gun.values()) / self.seconds

    def to_json(self) -> dict[str, object]:
        return {
            "seconds": round(self.seconds, 1),
            "offered_frames_per_s": round(self.offered_per_s),
            "gun": {name: {key: round(value) for key, value in kind.items()} for name, kind in self.gun.items()},
            "talkers": self.talkers,
            "honest": {name: times.to_json() for name, times in self.honest.items()},
            "memory_before_mib": self.memory_before >> 20,
            "memory_most_mib": self.memory_most >> 20,
            "scheduler_cores": round(self.scheduler_cpu, 2),
            "bans": self.log.count("is banned"),
        }


def memory_of(pid: int) -> int:
    """Resident bytes."""
    for line in pathlib.Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    return 0


def cpu_of(pid: int) -> float:
    """CPU seconds so far."""
    fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


async def run(
    folder: pathlib.Path, *, seconds: float, calm_s: float, connections: int, frames_per_s: float, talkers: int = 60,
    settings: Sequence[str] = (),
) -> Report:  # fmt: skip
    """Flood a Scheduler of our own for so long, after a while in peace."""
    cores = sorted(os.sched_getaffinity(0))
    gun = await asyncio.to_thread(build_gun, folder)
    all_kinds = kinds()
    (folder / "ammunition").write_bytes(ammunition(all_kinds))
    scheduler = await harness.Command.start(
        "scheduler", "run", "--port", "0", "--state", str(folder / "state"), *settings, log=folder / "scheduler.log",
        prefix=("taskset", "-c", str(cores[0])),
    )  # fmt: skip
    processes: dict[str, asyncio.subprocess.Process] = {}

    async def start(name: str, *words: str, nice: int = 0) -> None:
        processes[name] = await asyncio.create_subprocess_exec(
            "nice", "-n", str(nice), "taskset", "-c", str(cores[-1]), *words, stdout=asyncio.subprocess.PIPE,
            limit=2**26,
        )  # fmt: skip

    def role(name: str, *words: str) -> list[str]:
        return [sys.executable, "-m", "tests.flood", name, url, *words]

    try:
        url = (await scheduler.wait_for_line("ready ")).split()[1]
        honest_s = str(calm_s + seconds + 1)
        for name, kind, address in (
            ("own address", "resident", HONEST), ("attackers' address", "resident", ATTACKER),
            ("newcomer", "newcomer", HONEST),
        ):  # fmt: skip
            await start(name, *role(kind, "--seconds", honest_s, "--address", address))
        # The flood finds them at work.
        first = {name: await _first_line(one) for name, one in processes.items()}
        await asyncio.sleep(calm_s)
        flood_at, cpu = time.monotonic(), cpu_of(scheduler.process.pid)
        before = most = memory_of(scheduler.process.pid)
        port = str(URL(url).port)
        await start("talkers", *role("talk", "--connections", str(talkers), "--seconds", str(seconds)), nice=5)
        await _first_line(processes["talkers"])
        await start(
            "gun", str(gun), ATTACKER, port, str(connections - talkers), str(frames_per_s), str(seconds),
            str(folder / "ammunition"), nice=5,
        )  # fmt: skip
        while time.monotonic() - flood_at < seconds:
            await asyncio.sleep(0.25)
            most = max(most, memory_of(scheduler.process.pid))
        took = time.monotonic() - flood_at
        cpu = (cpu_of(scheduler.process.pid) - cpu) / took
        async with asyncio.timeout(90):
            outputs = {
                name: first.get(name, "") + (await one.communicate())[0].decode() for name, one in processes.items()
            }
    finally:
        for one in processes.values():
            if one.returncode is None:
                with contextlib.suppress(ProcessLookupError):
                    one.kill()
                await one.wait()
        await scheduler.kill()
    shots = [json.loads(line) for line in outputs.pop("gun").splitlines()]
    return Report(
        seconds=took,
        gun={all_kinds[one.pop("kind")].name: one for one in shots},
        talkers=json.loads(outputs.pop("talkers")),
        honest={name: Times.parse(text, flood_at) for name, text in outputs.items()},
        memory_before=before,
        memory_most=most,
        scheduler_cpu=cpu,
        log=(folder / "scheduler.log").read_text(),
    )


async def _first_line(process: asyncio.subprocess.Process) -> str:
    assert process.stdout is not None
    async with asyncio.timeout(60):
        return (await process.stdout.readline()).decode()


async def _talk(url: str, connections: int, seconds: float) -> None:
    talker = Talker(url)

    async def tell() -> None:
        await talker.told_enough.wait()
        print("talking", flush=True)

    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds), asyncio.TaskGroup() as group:
            group.create_task(tell())
            group.create_task(talker.run(connections))
    print(json.dumps({"opened": talker.opened, "dropped": talker.dropped, "sent": talker.sent, "said": talker.said}))


def main() -> None:
    """One of the processes of a flood."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("role", choices=["resident", "newcomer", "talk"])
    parser.add_argument("url")
    parser.add_argument("--seconds", type=float, required=True)
    parser.add_argument("--address", default=ATTACKER)
    parser.add_argument("--connections", type=int, default=1)
    options = parser.parse_args()
    if options.role == "talk":
        asyncio.run(_talk(options.url, options.connections, options.seconds))
        return
    _come_from(options.address)
    asyncio.run((_resident if options.role == "resident" else _newcomer)(options.url, options.seconds))


if __name__ == "__main__":
    main()
