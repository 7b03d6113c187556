"""Slices leased and returned per second by one Scheduler process, on SQLite and on PostgreSQL, in one run.

Simulated workers (`benchmarks.swarm`, processes of their own) ask over real sockets, and return the results of a task
together, as our Worker does. The Scheduler has one core for itself, its threads and SQLite included; workers, clients
and PostgreSQL have the others, so that what is returned per second is what one core of a Scheduler does. Nobody else
may need that core: where the machine is shared, or the swarm is slower than the Scheduler, slices per second of the
Scheduler's own CPU are told besides. `--no-pin` lets all of them run where they like, as on a machine with one core.
Both databases wait for the disk at every commit.

`flat out`: workers ask again at once. `each result a request`: as official workers send them, where ours send piles.
`paced`: 200 workers compute so long that they could return 2,000 slices a second together, and the time that a
`requestTask` takes is that of a Scheduler with so much to do. `heard`: as flat out, and a client takes every result.

    python -m benchmarks.scheduler [--quick] [--database sqlite] [--versus FOLDER] [--no-pin] [--output json]
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import dataclasses
import json
import os
import pathlib
import resource
import signal
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from typing import Any

from benchmarks import common
from benchmarks.common import LineProcess, cpu_seconds, percentile
from orchestrator.database import Database, sqlite_url
from orchestrator.wallet.keys import PrivateKey
from tests.e2e import harness
from tests.integration.scheduler.actors import deployer
from tests.postgres import PostgresServer

GOAL = 2_000
JOBS = 4
"""each of an owner of its own"""
SLICES = 2_000_000
WARM_UP_S = 2.0
IDLE = 400
"""workers that are only there, to see what a connection takes"""
QUEUED = 20_000
"""slices with listed inputs, to see what one takes"""


@dataclasses.dataclass(frozen=True)
class Case:
    name: str
    task: int
    """slices per task"""
    workers: int
    pause_s: float = 0.0
    heard: bool = False
    weighed: bool = False
    singly: bool = False


CASES = (
    Case("flat out, tasks of 10", 10, 40),
    Case("flat out, tasks of 10, each result a request", 10, 40, singly=True),
    Case("flat out, tasks of 1", 1, 40),
    Case("flat out, tasks of 100", 100, 20),
    Case("paced, tasks of 10", 10, 200, pause_s=1.0),
    Case("heard, tasks of 10", 10, 40, heard=True),
    Case("weighed, tasks of 10", 10, 40, weighed=True),
)


@dataclasses.dataclass
class Scheduler:
    """A process of the command, and the database it works on."""

    command: harness.Command
    url: str
    database_url: str
    postgres: PostgresServer | None
    weights: pathlib.Path

    @property
    def pid(self) -> int:
        return self.command.process.pid

    def rss(self) -> int:
        """Bytes of memory."""
        fields = pathlib.Path(f"/proc/{self.pid}/statm").read_text().split()
        return int(fields[1]) * os.sysconf("SC_PAGE_SIZE")

    def database_cpu(self) -> float:
        """CPU seconds of PostgreSQL's processes; SQLite works inside the Scheduler."""
        return 0.0 if self.postgres is None else _family_cpu(self.postgres)

    async def database_bytes(self) -> int:
        database = await Database.open(self.database_url, migrate=False)
        try:
            return (await database.describe())[1]
        finally:
            await database.close()


@contextlib.contextmanager
def on_cores(cores: frozenset[int]) -> Iterator[None]:
    """What is started in the block runs on these cores."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


@dataclasses.dataclass(frozen=True)
class Cores:
    """Where the Scheduler runs, and where everything else does."""

    scheduler: frozenset[int]
    others: frozenset[int]

    @classmethod
    def shared(cls) -> Cores:
        everywhere = frozenset(os.sched_getaffinity(0))
        return cls(everywhere, everywhere)

    @classmethod
    def apart(cls) -> Cores:
        """The last core for the Scheduler: the first ones serve the interrupts."""
        *others, last = sorted(os.sched_getaffinity(0))
        return cls(frozenset({last}), frozenset(others)) if others else cls.shared()

    @property
    def are_apart(self) -> bool:
        return self.scheduler.isdisjoint(self.others)


def _family_cpu(server: PostgresServer) -> float:
    assert server._process is not None
    parent, total = server._process.pid, cpu_seconds(server._process.pid)
    for entry in pathlib.Path("/proc").iterdir():
        with contextlib.suppress(OSError, IndexError):
            if entry.name.isdigit() and int((entry / "stat").read_text().rsplit(")", 1)[1].split()[1]) == parent:
                total += cpu_seconds(int(entry.name))
    return total


@contextlib.asynccontextmanager
async def scheduler(
    kind: str,
    postgres: PostgresServer | None,
    *,
    task: int,
    weighed: bool = False,
    code: pathlib.Path | None = None,
    cores: Cores | None = None,
) -> AsyncIterator[Scheduler]:
    """A new Scheduler on an empty database. `code`: the folder of another version of it."""
    with tempfile.TemporaryDirectory() as name:
        state = pathlib.Path(name)
        weights = state / "weights.json"
        prefix = (sys.executable, "-m", "benchmarks.weighed", str(weights)) if weighed else (sys.executable,)
        server = postgres if kind == "postgresql" else None
        url = sqlite_url(state / "scheduler.sqlite") if server is None else server.create(migrated=False)
        with on_cores((cores or Cores.shared()).scheduler):
            command = await harness.Command.start(
                "scheduler", "run", "--port", "0", "--state", str(state), "--database", url,
                "--initial-credit", "1000000", "--max-task-slices", str(task),
                log=state / "log", prefix=prefix, env={} if code is None else {"PYTHONPATH": str(code)},
            )  # fmt: skip
        try:
            address = (await command.wait_for_line("ready ")).split()[1]
            yield Scheduler(command, address, url, server, weights)
        finally:
            await command.stop()
            if server is not None:
                server.drop(url)


@contextlib.asynccontextmanager
async def swarms(url: str, workers: int, **orders: Any) -> AsyncIterator[list[LineProcess]]:
    """Workers in as many processes as there are cores for them."""
    cores = len(os.sched_getaffinity(0))
    share = [workers // cores + (one < workers % cores) for one in range(cores)]
    given = [json.dumps({"url": url, "workers": many, **orders}) for many in share if many]
    processes = [await LineProcess.start(sys.executable, "-m", "benchmarks.swarm", one) for one in given]
    try:
        for one in processes:
            if await one.line() != b"ready\n":
                raise SystemExit("a swarm did not get its sessions")
        yield processes
    finally:
        for one in processes:
            await one.close()


async def told(processes: Sequence[LineProcess]) -> list[dict[str, Any]]:
    for one in processes:
        one.write(b"stop\n")
    return [json.loads(await one.line()) for one in processes]


async def measure(
    case: Case, kind: str, postgres: PostgresServer | None, seconds: float, code: pathlib.Path | None, cores: Cores
) -> dict[str, float]:
    async with contextlib.AsyncExitStack() as stack:
        served = await stack.enter_async_context(
            scheduler(kind, postgres, task=case.task, weighed=case.weighed, code=code, cores=cores)
        )
        for _ in range(JOBS):
            client = await stack.enter_async_context(deployer(served.url, PrivateKey.generate()))
            job, _ = await client.submit(dataRange={"start": 1, "end": SLICES, "step": 1})
            if case.heard:
                await client.subscribe(job, "result")
            await client.join(job)
        processes = await stack.enter_async_context(
            swarms(served.url, case.workers, pause_s=case.pause_s, singly=case.singly or not _takes_piles(code))
        )
        for one in processes:
            one.write(b"go\n")
        await asyncio.sleep(WARM_UP_S + 2 * case.pause_s)
        for one in processes:
            one.write(b"mark\n")
        before = await _spent(served, case)
        await asyncio.sleep(seconds)
        found = await told(processes)
        after = await _spent(served, case)
    return _figures(found, before, after)


def _takes_piles(code: pathlib.Path | None) -> bool:
    return code is None or (code / "orchestrator" / "jobs" / "piles.py").exists()


async def _spent(served: Scheduler, case: Case) -> tuple[float, float, float, float]:
    """CPU seconds so far: of the Scheduler, of the database, of the client (this process), and on signatures."""
    signing = 0.0
    if case.weighed:
        served.weights.unlink(missing_ok=True)
        os.kill(served.pid, signal.SIGUSR1)
        while not served.weights.exists():  # noqa: ASYNC110 — another process makes it
            await asyncio.sleep(0.01)
        signing = sum(seconds for _, seconds in json.loads(served.weights.read_text()).values())
    return cpu_seconds(served.pid), served.database_cpu(), time.process_time(), signing


def _figures(found: Sequence[dict[str, Any]], before: Sequence[float], after: Sequence[float]) -> dict[str, float]:
    slices, seconds = sum(one["slices"] for one in found), max(one["seconds"] for one in found)
    cpu, database, client, signing = (one - other for one, other in zip(after, before, strict=True))
    asked = [value for one in found for value in one["task_s"]] or [float("nan")]
    sent = [value for one in found for value in one["result_s"]] or [float("nan")]
    return {
        "slices_per_s": slices / seconds,
        "slices_per_cpu_s": slices / max(cpu, 1e-9),
        "scheduler_cores": cpu / seconds,
        "database_cores": database / seconds,
        "client_cores": client / seconds,
        "swarm_cores": sum(one["cpu"] for one in found) / seconds,
        "tasks_per_s": len(asked) / seconds,
        "request_p50_ms": percentile(asked, 0.5) * 1000,
        "request_p99_ms": percentile(asked, 0.99) * 1000,
        "results_p50_ms": percentile(sent, 0.5) * 1000,
        "results_p99_ms": percentile(sent, 0.99) * 1000,
        "signing_share": signing / max(cpu, 1e-9),
        "refused": sum(one["refused"] for one in found),
        "errors": sum(one["errors"] for one in found),
    }


async def sizes(kind: str, postgres: PostgresServer | None) -> dict[str, float]:
    """Bytes that connections and queued slices take in the Scheduler's memory and in its database."""
    async with scheduler(kind, postgres, task=10) as served:
        bare = served.rss()
        async with swarms(served.url, IDLE, idle=True):
            idle = served.rss()
            async with swarms(served.url, IDLE) as processes:
                connected = served.rss()
                for one in processes:
                    one.write(b"go\n")
                await asyncio.sleep(3)
                waiting = served.rss()
        async with deployer(served.url, PrivateKey.generate()) as client:
            job, _ = await client.submit()
            await client.add(job, [0])
            memory, stored = served.rss(), await served.database_bytes()
            for first in range(0, QUEUED, 1000):
                await client.add(job, list(range(first, first + 1000)))
            listed_memory, listed_stored = served.rss() - memory, await served.database_bytes() - stored
            memory, stored = served.rss(), await served.database_bytes()
            for _ in range(10):
                await client.submit(dataRange={"start": 1, "end": SLICES, "step": 1})
            ranged_memory, ranged_stored = served.rss() - memory, await served.database_bytes() - stored
    return {
        "connection": (idle - bare) / IDLE,
        "worker_of_two_connections": (connected - idle) / IDLE,
        "waiting_request": (waiting - connected) / IDLE,
        "listed_slice_memory": listed_memory / QUEUED,
        "listed_slice_database": listed_stored / QUEUED,
        "range_slice_memory": ranged_memory / (10 * SLICES),
        "range_slice_database": ranged_stored / (10 * SLICES),
    }


async def measure_all(options: argparse.Namespace) -> dict[str, Any]:
    seconds, rounds = (4.0, 1) if options.quick else (15.0, 3)
    cases = [one for one in CASES if options.only is None or one.name.endswith(options.only)]
    codes: list[pathlib.Path | None] = [None] if options.versus is None else [None, options.versus]
    cores = Cores.shared() if options.no_pin else Cores.apart()
    os.sched_setaffinity(0, cores.others)
    kinds = ["sqlite", "postgresql"] if options.database == "both" else [options.database]
    rates: dict[str, Any] = {}
    taken: dict[str, Any] = {}
    with contextlib.ExitStack() as stack:
        postgres = stack.enter_context(PostgresServer(durable=True)) if "postgresql" in kinds else None
        for kind in kinds:
            for case in cases:
                found: list[list[dict[str, float]]] = [[] for _ in codes]
                for _ in range(rounds):
                    for code, into in zip(codes, found, strict=True):
                        if code is None or not case.weighed:
                            into.append(await measure(case, kind, postgres, seconds, code, cores))
                middles = [_middle(one) for one in found if one]
                rates[f"{kind}, {case.name}"] = {"now": middles[0], "before": middles[1] if middles[1:] else None}
            if options.only is None:
                taken[kind] = await sizes(kind, postgres)
    return {"apart": cores.are_apart, "rates": rates, "bytes": taken}


def _middle(rounds: Sequence[dict[str, float]]) -> dict[str, float]:
    return {name: common.median([one[name] for one in rounds]) for name in rounds[0]}


def _line(name: str, rate: dict[str, float], *, apart: bool) -> str:
    line = (
        f"{name}: {rate['slices_per_s']:,.0f} slices/s{' on one core' if apart else ''} in {rate['tasks_per_s']:.0f} tasks/s, "
        f"{rate['slices_per_cpu_s']:,.0f} per CPU second of the Scheduler ({rate['scheduler_cores']:.2f} cores; swarm "
        f"{rate['swarm_cores']:.2f}, PostgreSQL {rate['database_cores']:.2f}, client {rate['client_cores']:.2f}); "
        f"requestTask p50 {rate['request_p50_ms']:.1f} ms, p99 {rate['request_p99_ms']:.1f} ms"
    )
    if rate["signing_share"] > 0:
        line += f"; signatures {rate['signing_share']:.1%} of its CPU"
    if rate["refused"] or rate["errors"]:
        line += f"; {rate['refused']:.0f} results refused, {rate['errors']:.0f} errors"
    return line


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", choices=["text", "json"], default="text")
    parser.add_argument("--quick", action="store_true", help="one short round: two minutes instead of fifteen")
    parser.add_argument("--database", choices=["both", "sqlite", "postgresql"], default="both")
    parser.add_argument("--only", metavar="NAME", help="the cases whose names end so, and no sizes")
    parser.add_argument("--no-pin", action="store_true", help="no core for the Scheduler alone")
    parser.add_argument("--versus", type=pathlib.Path, metavar="FOLDER", help="another version's folder, in turns")
    options = parser.parse_args()
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    machine = common.machine()
    found = asyncio.run(measure_all(options))
    lines, goals = [], []
    apart = found["apart"]
    for name, rate in found["rates"].items():
        lines.append(_line(name, rate["now"], apart=apart))
        if rate["before"] is not None:
            lines.append(_line(f"  before: {name}", rate["before"], apart=apart))
            ratio = rate["now"]["slices_per_cpu_s"] / rate["before"]["slices_per_cpu_s"]
            goals.append(common.Goal(f"{name}, slices per CPU second now / before", ratio))
        if name.endswith("flat out, tasks of 10"):
            if apart:
                goals.append(common.Goal(f"{name}, on one core / {GOAL}", rate["now"]["slices_per_s"] / GOAL, 1.0))
            goals.append(common.Goal(f"{name}, per CPU second / {GOAL}", rate["now"]["slices_per_cpu_s"] / GOAL, 1.0))
    for kind, one in found["bytes"].items():
        lines.append(f"{kind}, bytes: " + ", ".join(f"{what.replace('_', ' ')} {n:,.1f}" for what, n in one.items()))
    common.report(options.output, {"machine": machine, **found}, goals, lines)


if __name__ == "__main__":
    main()
