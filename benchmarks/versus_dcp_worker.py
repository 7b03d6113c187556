"""The unmodified dcp-worker 3.3.19 and our Worker take the same jobs from our Scheduler, in turns, one at a time.

Jobs of empty slices and of slices of 10 ms, 100 ms and 1 s of CPU, counted in iterations, on all cores. The official
worker has its own Node evaluator (its V8 evaluator is not on npm), a process per sandbox and no container; ours has
its containers.
For each job: slices per second from the first lease to the last accepted result, CPU time per slice of all that belongs
to the worker (evaluators; containers and Docker Engine), and the most memory that these processes had in proportional
shares. Each worker has computed a small job before, so both are awake.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import os
import pathlib
import tempfile
import time
from collections.abc import AsyncIterator, Callable
from typing import Any, Protocol

from benchmarks import common, efficiency
from orchestrator.compute.job import Job
from orchestrator.protocol.client import DcpClient
from orchestrator.protocol.config import fetch_config
from orchestrator.wallet.keys import PrivateKey
from tests.e2e import harness, official

KINDS = {"empty": 0.0, "10 ms": 0.01, "100 ms": 0.1, "1 s": 1.0}
SLICES = {"empty": 2000, "10 ms": 300, "100 ms": 100, "1 s": 20}
QUICK_SLICES = {"empty": 600, "10 ms": 60, "100 ms": 24, "1 s": 8}
GOALS = {"empty": 100.0, "10 ms": 1.0, "100 ms": 1.0, "1 s": 1.0}
SAMPLE_S = 0.1


class Side(Protocol):
    """A worker with all that belongs to it."""

    def cpu_seconds(self) -> float: ...

    def pids(self) -> set[int]: ...


class OfficialSide:
    def __init__(self, worker: int, evaluator: int) -> None:
        self._worker = worker
        self._evaluator = evaluator

    def cpu_seconds(self) -> float:
        return sum(common.cpu_seconds(pid) for pid in self.pids())

    def pids(self) -> set[int]:
        return {self._worker, self._evaluator} | _children(self._evaluator)


class OurSide:
    def __init__(self, worker: int, name: str) -> None:
        self._worker = worker
        self._name = name
        self._engine = common.docker_cpu_seconds()

    def cpu_seconds(self) -> float:
        # The Engine works for others as well; on a machine of our own it does not.
        engine = common.docker_cpu_seconds() - self._engine
        return common.cpu_seconds(self._worker) + common.sandboxes_cpu_seconds(self._name) + engine

    def pids(self) -> set[int]:
        mark = f"dcp-sandboxes/{self._name}"
        return {self._worker} | {pid for pid in _all_pids() if mark in _text(f"/proc/{pid}/cgroup")}


def _all_pids() -> set[int]:
    return {int(entry.name) for entry in pathlib.Path("/proc").iterdir() if entry.name.isdigit()}


def _text(path: str) -> str:
    try:
        return pathlib.Path(path).read_text()
    except OSError:  # it has ended
        return ""


def _children(pid: int) -> set[int]:
    return {int(child) for child in _text(f"/proc/{pid}/task/{pid}/children").split()}


def memory_mib(pids: set[int]) -> float:
    """Proportional set size: pages that several processes share are counted once."""
    total = 0
    for pid in pids:
        for line in _text(f"/proc/{pid}/smaps_rollup").splitlines():
            if line.startswith("Pss:"):
                total += int(line.split()[1])
    return total / 1024


@dataclasses.dataclass(frozen=True)
class Figures:
    rate: float
    cpu_ms: float
    memory_mib: float


class Bench:
    def __init__(self, url: str, database: pathlib.Path, client: DcpClient) -> None:
        self.url = url
        self._database = database
        self._client = client
        self._account = PrivateKey.generate()

    async def run(self, side: Side, slices: int, iterations: int) -> Figures:
        job = Job(efficiency.OURS, [iterations] * slices, slice_payment=0.001)
        config = await fetch_config(self.url)
        before = side.cpu_seconds()
        memory = [memory_mib(side.pids())]
        async with asyncio.timeout(600):
            async with asyncio.TaskGroup() as group:
                watching = group.create_task(self._watch(side, memory))
                results = await job.exec(self._client, config, self._account)
                watching.cancel()
        if len(results) != slices or len(set(results)) != 1 or results[0] is None:
            raise SystemExit(f"wrong results: {results}")
        used = side.cpu_seconds() - before
        took = common.lease_to_accept_s(self._database, job.id)
        return Figures(slices / took, used / slices * 1000, max(memory))

    @staticmethod
    async def _watch(side: Side, memory: list[float]) -> None:
        while True:
            memory.append(await asyncio.to_thread(lambda: memory_mib(side.pids())))
            await asyncio.sleep(SAMPLE_S)


@contextlib.asynccontextmanager
async def dcp_worker(url: str, state: pathlib.Path) -> AsyncIterator[Side]:
    packages = official.Packages(common.NODE, common.NPM_MODULES)
    payee = PrivateKey.generate().address
    with official.folder_of_nobody() as folder:
        async with official.evaluator(packages, 4, folder) as (port, evaluator):
            worker = official.OfficialWorker(
                packages, 4, scheduler=url, folder=folder, evaluator_port=port, payee=payee, cores=common.CORES
            )
            process = await worker.start()
            try:
                yield OfficialSide(process.process.pid, evaluator.process.pid)
                await worker.stop()
            finally:
                await process.kill()


@contextlib.asynccontextmanager
async def our_worker(url: str, state: pathlib.Path) -> AsyncIterator[Side]:
    worker = await harness.Command.start(
        "worker", "run", "--scheduler", url, "--state", str(state), "--sandboxes", str(common.CORES),
        log=state.with_suffix(".log"),
    )  # fmt: skip
    try:
        name = (await worker.wait_for_line("ready ", within=120)).split()[1]
        yield OurSide(worker.process.pid, name)
    finally:
        await worker.stop()


SIDES: dict[str, Callable[[str, pathlib.Path], contextlib.AbstractAsyncContextManager[Side]]] = {
    "dcp-worker": dcp_worker,
    "ours": our_worker,
}


async def iterations_per_cpu_second() -> float:
    """Of the work, in bare Node; whoever else computes at the time does not matter."""
    program = f"""{efficiency.WORK} const n = 50_000_000; work(n); const before = process.cpuUsage(); work(n);
        const used = process.cpuUsage(before); console.log(n / (used.user + used.system) * 1e6);"""
    process = await asyncio.create_subprocess_exec(str(common.NODE), "-e", program, stdout=asyncio.subprocess.PIPE)
    out, _ = await process.communicate()
    return float(out)


async def measure(rounds: int, slices: dict[str, int], per_second: float) -> dict[str, dict[str, list[Figures]]]:
    found: dict[str, dict[str, list[Figures]]] = {side: {kind: [] for kind in KINDS} for side in SIDES}
    with tempfile.TemporaryDirectory() as name:
        state = pathlib.Path(name)
        scheduler = await harness.Command.start(
            "scheduler", "run", "--port", "0", "--state", str(state / "scheduler"), "--initial-credit", "1000000",
            log=state / "scheduler.log",
        )  # fmt: skip
        try:
            url = (await scheduler.wait_for_line("ready ")).split()[1]
            (database,) = (state / "scheduler").glob("*.sqlite")
            async with DcpClient(PrivateKey.generate()) as client:
                bench = Bench(url, database, client)
                for turn in range(rounds):
                    for side, start in SIDES.items():
                        async with start(url, state / f"{side}-{turn}") as running:
                            await bench.run(running, 4 * common.CORES, 0)
                            for kind, seconds in KINDS.items():
                                work = round(seconds * per_second)
                                found[side][kind].append(await bench.run(running, slices[kind], work))
        finally:
            await scheduler.stop()
    return found


def main() -> None:
    options = common.parse_options(__doc__)
    machine, began = common.machine(), time.perf_counter()
    rounds, slices = (1, QUICK_SLICES) if options.quick else (2, SLICES)
    per_second = asyncio.run(iterations_per_cpu_second())
    found = asyncio.run(measure(rounds, slices, per_second))
    middle = {
        side: {
            kind: {
                field.name: common.median(getattr(one, field.name) for one in figures)
                for field in dataclasses.fields(Figures)
            }
            for kind, figures in kinds.items()
        }
        for side, kinds in found.items()
    }
    text = [
        f"{kind:>6} slices, {side:<10}: {one['rate']:8.2f} slices/s, {one['cpu_ms']:8.2f} ms CPU a slice, "
        f"{one['memory_mib']:5.0f} MiB"
        for kind in KINDS
        for side, one in ((side, middle[side][kind]) for side in SIDES)
    ]
    goals = [common.Goal(f"{kind}: slices/s, ours / dcp-worker", _ratio(found, kind), GOALS[kind]) for kind in KINDS]
    for kind in KINDS:
        goals.append(
            common.Goal(
                f"{kind}: CPU a slice, dcp-worker / ours",
                middle["dcp-worker"][kind]["cpu_ms"] / middle["ours"][kind]["cpu_ms"],
            )
        )
    figures: dict[str, Any] = {
        "machine": machine, "rounds": rounds, "slices": slices, "workers": middle,
        "load_after": round(os.getloadavg()[0], 2), "seconds": round(time.perf_counter() - began),
    }  # fmt: skip
    common.report(options.output, figures, goals, [*text, f"load average {figures['load_after']} after"])


def _ratio(found: dict[str, dict[str, list[Figures]]], kind: str) -> float:
    pairs = zip(found["ours"][kind], found["dcp-worker"][kind], strict=True)
    return common.median(ours.rate / theirs.rate for ours, theirs in pairs)


if __name__ == "__main__":
    main()
