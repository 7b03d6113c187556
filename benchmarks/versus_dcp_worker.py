"""The unmodified dcp-worker 3.3.19 and our Worker take the same jobs from our Scheduler, in turns, one at a time.

Jobs of empty slices and of slices of 10 ms, 100 ms and 1 s of CPU, counted in iterations, on all cores. The official
worker has its own Node evaluator (its V8 evaluator is not on npm), a process per sandbox and no container; ours has
its containers.
Both work for the same time, not on the same number of slices: each job has far more slices than can be computed and is
cancelled that long after its first result. A job that lasts a minute on one side and half a second on the other
would compare the one's steady state with the other's start. For each job: accepted slices per second from the first
lease to the last accepted result, CPU time per slice of all that belongs to the worker (evaluators; containers and
Docker Engine), and the most memory that these processes had in proportional shares. Each worker has computed a small job
before, so both are awake, and starts anew for each kind: dcp-worker computes what it holds of a cancelled job to the
end. Besides, how long both take for one small job of empty slices, start and end included.
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
from orchestrator.compute.job import Job, JobEvent, Range
from orchestrator.protocol.client import DcpClient
from orchestrator.protocol.config import fetch_config
from orchestrator.wallet.keys import PrivateKey
from tests.e2e import harness, official

KINDS = {"empty": 0.0, "10 ms": 0.01, "100 ms": 0.1, "1 s": 1.0}
ENDLESS = 1_000_000
SMALL = 200
"""slices of the job that both finish"""
FUNCTION = f"(x, n) => {{ {efficiency.WORK} const s = work(n); progress(1); return s; }}"
GOALS = {"empty": 100.0, "10 ms": 1.0, "100 ms": 1.0, "1 s": 1.0}
SAMPLE_S = 0.5


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

    async def run(self, side: Side, seconds: float, iterations: int) -> Figures:
        """Work for so long, from the first result on."""
        job, begun = _job(ENDLESS, iterations), asyncio.Event()
        before, memory = side.cpu_seconds(), [memory_mib(side.pids())]
        async with asyncio.TaskGroup() as group:
            watching = group.create_task(self._watch(side, memory))
            work = asyncio.ensure_future(
                self._exec(job, lambda event: begun.set() if event.label == "result" else None)
            )
            async with asyncio.timeout(60 + seconds):
                await begun.wait()
                await asyncio.sleep(seconds)
            work.cancel()
            await asyncio.wait([work])
            used = side.cpu_seconds() - before
            watching.cancel()
        count, took = common.accepted(self._database, job.id)
        if not count or len(set(job.results.values())) != 1 or len(job.results) > count:
            raise SystemExit(f"{count} results, and the client has {len(job.results)}")
        return Figures(count / took, used / count * 1000, max(memory))

    async def finish(self, slices: int) -> float:
        """Compute all slices of a small job; the seconds from its first lease to its last accepted result."""
        job = _job(slices, 0)
        async with asyncio.timeout(300):
            results = await self._exec(job)
        if len(results) != slices or len(set(results)) != 1 or results[0] is None:
            raise SystemExit(f"wrong results: {results}")
        return common.accepted(self._database, job.id)[1]

    async def _exec(self, job: Job, on_event: Callable[[JobEvent], None] = lambda _: None) -> list[Any]:
        return await job.exec(self._client, await fetch_config(self.url), self._account, on_event)

    @staticmethod
    async def _watch(side: Side, memory: list[float]) -> None:
        while True:
            memory.append(await asyncio.to_thread(lambda: memory_mib(side.pids())))
            await asyncio.sleep(SAMPLE_S)


def _job(slices: int, iterations: int) -> Job:
    return Job(FUNCTION, Range(1, slices), [iterations], slice_payment=0.001)


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


@dataclasses.dataclass
class Found:
    """Of one side, by round."""

    kinds: dict[str, list[Figures]] = dataclasses.field(default_factory=lambda: {kind: [] for kind in KINDS})
    small_s: list[float] = dataclasses.field(default_factory=list)

    def median(self, kind: str) -> Figures:
        return Figures(*map(common.median, zip(*map(dataclasses.astuple, self.kinds[kind]), strict=True)))


async def measure(rounds: int, seconds: float, per_second: float) -> dict[str, Found]:
    found = {side: Found() for side in SIDES}
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
                        for number, (kind, slice_s) in enumerate(KINDS.items()):
                            async with start(url, state / f"{side}-{turn}-{number}") as running:
                                await bench.finish(4 * common.CORES)
                                if number == 0:
                                    found[side].small_s.append(await bench.finish(SMALL))
                                work = round(slice_s * per_second)
                                found[side].kinds[kind].append(await bench.run(running, seconds, work))
        finally:
            await scheduler.stop()
    return found


def main() -> None:
    options = common.parse_options(__doc__)
    machine, began = common.machine(), time.perf_counter()
    rounds, seconds = (1, 6.0) if options.quick else (2, 12.0)
    per_second = asyncio.run(iterations_per_cpu_second())
    found = asyncio.run(measure(rounds, seconds, per_second))
    ours, theirs = found["ours"], found["dcp-worker"]
    text, goals = [], []
    for kind, wanted in GOALS.items():
        for side, one in found.items():
            middle = one.median(kind)
            text.append(
                f"{kind:>6} slices, {side:<10}: {middle.rate:8.2f} slices/s, {middle.cpu_ms:8.2f} ms CPU a slice, "
                f"{middle.memory_mib:5.0f} MiB"
            )
        rates = [mine.rate / other.rate for mine, other in zip(ours.kinds[kind], theirs.kinds[kind], strict=True)]
        goals.append(common.Goal(f"{kind}: slices/s, ours / dcp-worker", common.median(rates), wanted))
        cpu = theirs.median(kind).cpu_ms / ours.median(kind).cpu_ms
        goals.append(common.Goal(f"{kind}: CPU a slice, dcp-worker / ours", cpu))
    small = {side: common.median(one.small_s) for side, one in found.items()}
    text.append(f"{SMALL} empty slices: " + ", ".join(f"{side} {took:.2f} s" for side, took in small.items()))
    goals.append(common.Goal(f"{SMALL} empty slices: time, dcp-worker / ours", small["dcp-worker"] / small["ours"]))
    figures: dict[str, Any] = {
        "machine": machine, "rounds": rounds, "seconds_a_job": seconds,
        "workers": {side: dataclasses.asdict(one) for side, one in found.items()},
        "load_after": round(os.getloadavg()[0], 2), "seconds": round(time.perf_counter() - began),
    }  # fmt: skip
    common.report(options.output, figures, goals, [*text, f"load average {figures['load_after']} after"])


if __name__ == "__main__":
    main()
