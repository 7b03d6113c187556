"""Honest clients, and how long they wait."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import signal
import time
from typing import Any

import aiohttp

from orchestrator.protocol.client import DcpClient
from orchestrator.wallet.keys import PrivateKey

HONEST = "127.0.0.3"


async def resident(url: str) -> None:
    """Has a session, and asks one thing after the other. Prints when it asked and how many milliseconds it took."""
    async with DcpClient(PrivateKey.generate()) as client:
        pheme = client.connect(f"{url}pheme/")
        await _ask(0.02, lambda: pheme.request("listJobs", {}))


async def newcomer(url: str) -> None:
    """Opens a new session for every question."""

    async def ask() -> None:
        async with DcpClient(PrivateKey.generate()) as client:
            await client.connect(f"{url}pheme/").request("listJobs", {})

    await _ask(0.2, ask)


async def _ask(pause: float, ask: Any) -> None:
    """Until SIGTERM comes; what is asked then is still answered."""
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    while not stop.is_set():
        begun = time.monotonic()
        try:
            async with asyncio.timeout(30):
                await ask()
            print(json.dumps([begun, (time.monotonic() - begun) * 1000]), flush=True)
        except Exception as error:  # whatever it is, the honest client was not served
            print(json.dumps([begun, repr(error)]), flush=True)
        await asyncio.sleep(pause)


def come_from(address: str) -> None:
    """All of aiohttp's connections in this process."""
    whole = aiohttp.TCPConnector.__init__

    def bound(self: aiohttp.TCPConnector, **options: Any) -> None:
        whole(self, **{"local_addr": (address, 0), **options})

    aiohttp.TCPConnector.__init__ = bound  # type: ignore[method-assign,assignment]


@dataclasses.dataclass
class Times:
    """Answers of one honest client, before the flood and in it."""

    calm_ms: list[float] = dataclasses.field(default_factory=list)
    flood_ms: list[float] = dataclasses.field(default_factory=list)
    errors: list[str] = dataclasses.field(default_factory=list)

    @classmethod
    def parse(cls, text: str, calm_until: float, flood_at: float) -> Times:
        times = cls()
        for begun, took in map(json.loads, text.splitlines()):
            if isinstance(took, str):
                times.errors.append(took)
            elif begun >= flood_at:
                times.flood_ms.append(took)
            elif begun < calm_until:
                times.calm_ms.append(took)
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
