"""All processes of a flood together: the Scheduler, honest clients, attackers."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import pathlib
import re
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass

import aiohttp
from yarl import URL

from tests.e2e import harness
from tests.flood.ammunition import ammunition, kinds
from tests.flood.honest import HONEST, Times
from tests.flood.report import Report
from tests.flood.talkers import ATTACKER

_GUN = pathlib.Path(__file__).parent / "gun.c"
_METRIC = re.compile(r'dcp_scheduler_(\w+?)(?:_total)?(?:\{(?:\w+="([^"]*)")?.*?\})? ([0-9.e+-]+)$')
_LINGERS_S = 90
_NICE = 5
"""Attackers give way to honest clients, who share their core only here."""


@dataclass(frozen=True)
class Force:
    """What the Scheduler is attacked with."""

    seconds: float
    connections: int = 2_000
    messages_per_s: float = 52_000
    volley: int = 50
    """messages that are written at once, with the handshake before them"""
    talkers: int = 60
    """connections among those that keep to the form"""


async def flood(folder: pathlib.Path, force: Force, *, calm_s: float, settings: Sequence[str] = ()) -> Report:
    """Flood a Scheduler of our own, after a while in peace."""
    all_kinds = kinds()
    gun = await asyncio.to_thread(build_gun, folder)
    (folder / "ammunition").write_bytes(ammunition(all_kinds, force.volley))
    async with _Siege.begin(folder, settings) as siege:
        await siege.let_honest_ones_work()
        await asyncio.sleep(calm_s)
        calm_until = time.monotonic()
        await siege.start("talkers", *siege.role("talk", "--connections", str(force.talkers)), nice=_NICE)
        await siege.first_line("talkers")
        watch = _Watch(siege.scheduler.process.pid, before=await siege.metrics())
        port, ours = str(URL(siege.url).port), str(force.connections - force.talkers)
        how = (port, ours, str(force.messages_per_s), str(force.seconds), str(folder / "ammunition"))
        await siege.start("gun", str(gun), ATTACKER, *how, nice=_NICE)
        await watch.look(force.seconds)
        after = await siege.metrics()
        outputs = await siege.outputs()
    *shots, itself = [json.loads(line) for line in outputs.pop("gun").splitlines()]
    return Report(
        seconds=watch.took,
        gun={all_kinds[one.pop("kind")].name: one for one in shots},
        talkers=json.loads(outputs.pop("talkers")),
        honest={name: Times.parse(text, calm_until, watch.begun) for name, text in outputs.items()},
        memory_before=watch.memory_before,
        memory_most=watch.memory_most,
        kernel_memory_most=watch.kernel_most,
        scheduler_cpu=watch.cpu,
        gun_cpu=itself["cores"],
        metrics={name: value - watch.before.get(name, 0) for name, value in after.items()},
        log=(folder / "scheduler.log").read_text(),
    )


def build_gun(folder: pathlib.Path) -> pathlib.Path:
    gun = folder / "gun"
    subprocess.run(["cc", "-O2", "-o", str(gun), str(_GUN)], check=True, capture_output=True, timeout=120)
    return gun


class _Siege:
    """The processes, each on its core."""

    def __init__(self, scheduler: harness.Command, metrics_port: int, core: int) -> None:
        self.scheduler = scheduler
        self.url = ""
        self._metrics_port = metrics_port
        self._core = core
        self._processes: dict[str, asyncio.subprocess.Process] = {}
        self._first: dict[str, str] = {}

    @classmethod
    @contextlib.asynccontextmanager
    async def begin(cls, folder: pathlib.Path, settings: Sequence[str]) -> AsyncIterator[_Siege]:
        cores, port = sorted(os.sched_getaffinity(0)), _free_port()
        scheduler = await harness.Command.start(
            "scheduler", "run", "--port", "0", "--state", str(folder / "state"), "--metrics-listen", f":{port}",
            *settings, log=folder / "scheduler.log", prefix=("taskset", "-c", str(cores[0])),
        )  # fmt: skip
        siege = cls(scheduler, port, cores[-1])
        try:
            siege.url = (await scheduler.wait_for_line("ready ")).split()[1]
            yield siege
        finally:
            for one in siege._processes.values():
                if one.returncode is None:
                    with contextlib.suppress(ProcessLookupError):
                        one.kill()
                    await one.wait()
            await scheduler.kill()

    async def start(self, name: str, *words: str, nice: int = 0) -> None:
        self._processes[name] = await asyncio.create_subprocess_exec(
            "nice", "-n", str(nice), "taskset", "-c", str(self._core), *words, stdout=asyncio.subprocess.PIPE,
            limit=2**26,
        )  # fmt: skip

    def role(self, name: str, *words: str) -> list[str]:
        return [sys.executable, "-m", "tests.flood", name, self.url, *words]

    async def let_honest_ones_work(self) -> None:
        """Each has had its first answer when this returns."""
        roles = (
            ("own address", "resident", HONEST),
            ("attackers' address", "resident", ATTACKER),
            ("newcomer", "newcomer", HONEST),
        )
        for name, kind, address in roles:
            await self.start(name, *self.role(kind, "--address", address))
        for name, _, _ in roles:
            await self.first_line(name)

    async def first_line(self, name: str) -> None:
        stream = self._processes[name].stdout
        assert stream is not None
        async with asyncio.timeout(60):
            self._first[name] = (await stream.readline()).decode()

    async def metrics(self) -> dict[str, float]:
        """What the Scheduler counts of its peers, by name and label."""
        async with aiohttp.ClientSession() as http, http.get(f"http://127.0.0.1:{self._metrics_port}/metrics") as page:
            lines = (await page.text()).splitlines()
        found = (_METRIC.match(line) for line in lines)
        return {f"{one[1]} {one[2]}" if one[2] else one[1]: float(one[3]) for one in found if one is not None}

    async def outputs(self) -> dict[str, str]:
        """Ask each process to end; what it has said."""
        for one in self._processes.values():
            if one.returncode is None:
                with contextlib.suppress(ProcessLookupError):
                    one.terminate()
        async with asyncio.timeout(_LINGERS_S):
            said = {name: (await one.communicate())[0].decode() for name, one in self._processes.items()}
        del self._first["talkers"]  # that they talk
        return {name: self._first.get(name, "") + text for name, text in said.items()}


class _Watch:
    """The Scheduler's memory and CPU time during a flood."""

    def __init__(self, pid: int, before: dict[str, float]) -> None:
        self._pid = pid
        self.before = before
        self.begun = time.monotonic()
        self.took = self.cpu = 0.0
        self._cpu_before = _cpu_of(pid)
        self.memory_before = self.memory_most = _memory_of(pid)
        self.kernel_most = _tcp_memory()

    async def look(self, seconds: float) -> None:
        while time.monotonic() - self.begun < seconds:
            await asyncio.sleep(0.25)
            self.memory_most = max(self.memory_most, _memory_of(self._pid))
            self.kernel_most = max(self.kernel_most, _tcp_memory())
        self.took = time.monotonic() - self.begun
        self.cpu = (_cpu_of(self._pid) - self._cpu_before) / self.took


def _free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


def _memory_of(pid: int) -> int:
    """Resident bytes."""
    found = re.search(r"^VmRSS:\s+(\d+)", pathlib.Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
    return int(found[1]) * 1024 if found else 0


def _tcp_memory() -> int:
    """Bytes that the kernel has in buffers of all TCP connections of this machine."""
    found = re.search(r"^TCP:.* mem (\d+)", pathlib.Path("/proc/net/sockstat").read_text(), re.MULTILINE)
    return int(found[1]) * os.sysconf("SC_PAGE_SIZE") if found else 0


def _cpu_of(pid: int) -> float:
    """CPU seconds so far."""
    fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
