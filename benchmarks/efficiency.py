"""How much of the machine reaches the work functions: slices of 10 ms, 100 ms and 1 s of pure CPU on all cores.

Through a Scheduler and a Worker, as processes of their own, and real containers, against the same function in bare
Node: one process per core, each given the next slice as soon as it is free. Both do the same work, counted in
iterations. Our time runs from the first lease to the last accepted result, bare Node's from the first slice given to
the last answered. They take turns in rounds; ratios are medians over the rounds.

Whoever else uses the machine takes some of it from either side, and never the same. So besides the plain ratio there is
one of slices per core-second that was there to be had: what we used ourselves (for our side: Scheduler, Worker, Docker
Engine, sandboxes) and what the cores stood idle. On a machine of our own both are the same. And one of what the
Worker's machine would give if the Scheduler were elsewhere, as it is for fleets: without the Scheduler's processor time.
"""

from __future__ import annotations

import asyncio
import contextlib
import pathlib
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterator

from benchmarks import common
from orchestrator.compute.job import Job
from orchestrator.protocol.client import DcpClient
from orchestrator.protocol.config import fetch_config
from orchestrator.wallet.keys import PrivateKey

GOALS = {0.01: 0.80, 0.1: 0.97, 1.0: 0.99}
"""Length of a slice in seconds → the part of bare Node's throughput that is wanted."""
JOB_S = 60.0
WORK = "function work(n) { let s = 1; for (let i = 0; i < n; i++) s = (s * 31 + i) % 1000003; return s; }"
BARE = f"""
    {WORK}
    require('readline').createInterface({{ input: process.stdin }}).on('line', (n) => console.log(work(Number(n))));
    console.log('ready');
"""
OURS = f"(n) => {{ {WORK} const s = work(n); progress(1); return s; }}"


class Available:
    """Core-seconds that were there to be had since it was made, given what our own side used so far."""

    def __init__(self, own: Callable[[], float]) -> None:
        self._own = own
        self._before = own() + common.idle_seconds()

    def seconds(self) -> float:
        return self._own() + common.idle_seconds() - self._before


class BareNode:
    """One Node process per core, waiting for iterations to count."""

    def __init__(self, processes: list[common.LineProcess]) -> None:
        self._processes = processes

    @classmethod
    @contextlib.asynccontextmanager
    async def start(cls) -> AsyncIterator[BareNode]:
        """Fresh processes: our containers are fresh for each job, too."""
        async with contextlib.AsyncExitStack() as stack:
            processes = []
            for _ in range(common.CORES):
                processes.append(await common.LineProcess.start(str(common.NODE), "-e", BARE))
                stack.push_async_callback(processes[-1].close)
            for process in processes:
                await process.line()
            yield cls(processes)

    def cpu_seconds(self) -> float:
        return sum(common.cpu_seconds(process.process.pid) for process in self._processes)

    async def run(self, slices: int, iterations: int) -> float:
        """Seconds for all slices."""
        start = time.perf_counter()
        left = iter(range(slices))
        async with asyncio.TaskGroup() as group:
            for process in self._processes:
                group.create_task(self._serve(process, left, iterations))
        return time.perf_counter() - start

    @staticmethod
    async def _serve(process: common.LineProcess, left: Iterator[int], iterations: int) -> None:
        for _ in left:
            process.write(b"%d\n" % iterations)
            await process.line()


async def calibrate() -> float:
    """Iterations in a second of bare Node on every core at once, when nothing else runs."""
    probe = 50_000_000
    async with BareNode.start() as bare:
        await bare.run(common.CORES, probe)
        best = min([await bare.run(common.CORES, probe) for _ in range(3)])
    return probe / best


class Deployer:
    """Deploys jobs on a computer of ours."""

    def __init__(self, computer: common.Computer, client: DcpClient) -> None:
        self._computer = computer
        self._client = client
        self._account = PrivateKey.generate()

    async def run(self, slices: int, iterations: int) -> tuple[float, float]:
        """Seconds from first lease to last accepted result, and from deploying to the end as the client sees it."""
        config = await fetch_config(self._computer.url)
        job = Job(OURS, [iterations] * slices, slice_payment=0.001)
        start = time.perf_counter()
        results = await job.exec(self._client, config, self._account)
        wall = time.perf_counter() - start
        if len(results) != slices or len(set(results)) != 1 or results[0] is None:
            raise SystemExit(f"wrong results: {results}")
        return self._computer.lease_to_accept_s(job.id), wall


Rates = dict[str, list[float]]


async def measure(rounds: int, job_s: float) -> dict[float, Rates]:
    """By length of slices: slices per second of each round; "… available" per core-second there was, times the cores."""
    per_second = await calibrate()
    found: dict[float, Rates] = {}
    with tempfile.TemporaryDirectory() as folder:
        cache = pathlib.Path(folder) / "identity-cache.json"
        async with common.computer() as computer, DcpClient(PrivateKey.generate(), cache) as client:
            deployer = Deployer(computer, client)
            await deployer.run(common.CORES, 1000)  # connections open
            for slice_s in GOALS:
                slices = max(round(job_s / slice_s), 5) * common.CORES
                found[slice_s] = await compare(computer, deployer, rounds, slices, round(per_second * slice_s))
    return found


async def compare(computer: common.Computer, deployer: Deployer, rounds: int, slices: int, iterations: int) -> Rates:
    """Both sides in turns."""
    rates: Rates = {
        "bare": [],
        "ours": [],
        "client": [],
        "bare available": [],
        "ours available": [],
        "ours elsewhere": [],
    }
    for _ in range(rounds):
        async with BareNode.start() as bare:
            available = Available(bare.cpu_seconds)
            rates["bare"].append(slices / await bare.run(slices, iterations))
            rates["bare available"].append(slices * common.CORES / available.seconds())
        available = Available(computer.cpu_seconds)
        scheduler = common.cpu_seconds(computer.scheduler.process.pid)
        ours, wall = await deployer.run(slices, iterations)
        # Deploying and stopping idle the cores, and are not measured here.
        there = available.seconds() - (wall - ours) * common.CORES
        rates["ours available"].append(slices * common.CORES / there)
        scheduler = common.cpu_seconds(computer.scheduler.process.pid) - scheduler
        rates["ours elsewhere"].append(slices * common.CORES / (there - scheduler))
        rates["ours"].append(slices / ours)
        rates["client"].append(slices / wall)
    return rates


def _ratio(rates: Rates, mine: str, bare: str) -> float:
    return common.median(one / other for one, other in zip(rates[mine], rates[bare], strict=True))


def main() -> None:
    options = common.parse_options(__doc__)
    machine = common.machine()
    found = asyncio.run(measure(*((2, 5.0) if options.quick else (3, JOB_S))))
    goals, lines = [], []
    for slice_s, rates in found.items():
        name = f"slices of {slice_s * 1000:g} ms"
        available = _ratio(rates, "ours available", "bare available")
        goals.append(common.Goal(f"{name}: ours / bare Node, per core-second available", available, GOALS[slice_s]))
        elsewhere = _ratio(rates, "ours elsewhere", "bare available")
        goals.append(common.Goal(f"{name}: the same, were the Scheduler on another machine", elsewhere))
        goals.append(common.Goal(f"{name}: ours / bare Node, per second", _ratio(rates, "ours", "bare")))
        goals.append(common.Goal(f"{name}: the same, deploying and stopping included", _ratio(rates, "client", "bare")))
        lines.append(f"{name}: " + ", ".join(f"{side} {common.median(all):.4g}/s" for side, all in rates.items()))
        pairs = zip(rates["ours available"], rates["bare available"], strict=True)
        lines.append("  rounds: " + ", ".join(f"{mine / bare:.3f}" for mine, bare in pairs))
    rates_by_name = {f"{slice_s:g}": rates for slice_s, rates in found.items()}
    common.report(options.output, {"machine": machine, "slices_per_second": rates_by_name}, goals, lines)


if __name__ == "__main__":
    main()
