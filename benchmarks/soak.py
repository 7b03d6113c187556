"""Random jobs under random faults, for minutes or hours: every result right, nothing left behind, memory flat.

Starts a Scheduler, two Workers and (as root) a Docker Engine of its own. Jobs of every kind are deployed all the time; every
few seconds something breaks: a Worker, the Scheduler or a sandbox is killed, a part or the Engine is frozen, the Engine
is restarted. One Worker is never killed: its memory, and that of the Scheduler between two kills, must not grow.

Ends with status 1 when a result was wrong or missing, money was lost, a container or cgroup was left, or memory grew.
The same --seed gives the same jobs and faults (their moments differ with the machine).
"""

from __future__ import annotations

import argparse
import asyncio
import collections
import contextlib
import dataclasses
import json
import os
import pathlib
import random
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from typing import Any

from orchestrator.compute.job import Job, JobFailed, Range
from orchestrator.errors import OrchestratorError
from orchestrator.protocol.client import DcpClient
from orchestrator.protocol.config import fetch_config
from orchestrator.wallet.keys import PrivateKey
from orchestrator.worker.cgroups import CgroupFailure, CgroupTree
from tests.e2e import harness
from tests.faults.parts import Engine, free_port
from tests.parts.containers import containers_of

SAMPLE_S = 2.0
SETTLE_S = 240.0
"""How long the last jobs may take once nothing breaks any more."""
WORD = 2**64


@dataclasses.dataclass(frozen=True)
class Kind:
    """A kind of job. `expected(n)` is the result of slice n; None: it is not judged. `fails`: the job may be stopped."""

    name: str
    work: str
    most: int
    expected: Callable[[int], Any]
    fails: bool = False


KINDS = (
    Kind("empty", "(i) => { progress(); return i * 2 }", 300, lambda n: 2 * n),
    Kind("compute", "(i) => { progress(); const end = Date.now() + 25; while (Date.now() < end); return i + 0.5 }", 60, lambda n: n + 0.5),
    Kind("wait", "async (i) => { progress(); await new Promise(r => setTimeout(r, 120)); return -i }", 60, lambda n: -n),
    Kind("large", "(i) => { progress(); return String(i % 10).repeat(60000) }", 40, lambda n: str(n % 10) * 60000),
    Kind("talk", "(i) => { for (let k = 0; k < 20; k++) console.log('line', k % 3); work.emit('e', i); progress(); return i }", 80, lambda n: n),
    Kind("throw", "(i) => { progress(); if (i % 7 === 0) throw new Error('seven'); return i }", 60, lambda n: n if n % 7 else None),
    Kind("silent", "(i) => i", 6, lambda _n: None, fails=True),
    Kind("loop", "(i) => { progress(); for (;;); }", 2, lambda _n: None, fails=True),
    Kind("bomb", "(i) => { progress(); const held = []; for (;;) held.push(new Uint8Array(8 << 20).fill(1)) }", 2, lambda _n: None, fails=True),
    Kind("syntax", "(i) => {", 3, lambda _n: None, fails=True),
)  # fmt: skip
WEIGHTS = (6, 6, 5, 3, 4, 3, 1, 0.5, 0.5, 1)


@dataclasses.dataclass
class Report:
    """What a soak saw. `wrong` is empty when all is well."""

    seconds: float = 0.0
    jobs: collections.Counter[str] = dataclasses.field(default_factory=collections.Counter)
    endings: collections.Counter[str] = dataclasses.field(default_factory=collections.Counter)
    faults: collections.Counter[str] = dataclasses.field(default_factory=collections.Counter)
    results: int = 0
    memory: dict[str, dict[str, float]] = dataclasses.field(default_factory=dict)
    wrong: list[str] = dataclasses.field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        return dataclasses.asdict(self)


class Soak:
    """One run. `async with` it, then `run`."""

    def __init__(self, seconds: float, seed: int, engine: Engine | None) -> None:
        self.seconds = seconds
        self.random = random.Random(seed)
        self.engine = engine
        self.report = Report()
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="dcp-soak-"))
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}/"
        self.env = dict(engine.env) if engine is not None else {}
        self.scheduler: harness.Command
        self.workers: dict[str, harness.Command] = {}
        self.disturbed_at = 0.0  # the last fault that a deploying client may feel
        self.samples: dict[str, list[tuple[float, float]]] = collections.defaultdict(list)
        self.began = time.monotonic()

    # -- parts

    async def start(self) -> None:
        await self._start_scheduler()
        for name in ("steady", "mortal"):
            await self._start_worker(name)

    async def _start_scheduler(self) -> None:
        self.scheduler = await harness.Command.start(
            "scheduler", "run", "--port", str(self.port), "--state", str(self.folder / "scheduler"),
            "--initial-credit", "1000000", "--progress-timeout", "5", log=self.folder / "scheduler.log", env=self.env,
        )  # fmt: skip
        await self.scheduler.wait_for_line("ready ")
        self.samples["scheduler"].clear()  # another process: another memory

    async def _start_worker(self, name: str) -> None:
        self.workers[name] = await harness.Command.start(
            "worker", "run", "--scheduler", self.url, "--state", str(self.folder / name), "--sandboxes", "2", "--warm", "1",
            "--memory", "256", "--docker-timeout", "5", log=self.folder / f"{name}.log", env=self.env,
        )  # fmt: skip

    async def stop(self) -> None:
        for command in (*self.workers.values(), self.scheduler):
            if command.process.returncode is None:
                with contextlib.suppress(TimeoutError):
                    await command.stop(within=60)
                await command.kill()

    def worker_ids(self) -> list[str]:
        return [path.read_text().strip() for path in self.folder.glob("*/worker-id")]

    # -- the run

    async def run(self, tell: Callable[[str], None] = lambda _line: None) -> Report:
        """Jobs and faults for the given time, then quiet until the last job has ended."""
        identity = PrivateKey.generate()
        config = await fetch_config(self.url)
        until = self.began + self.seconds
        async with DcpClient(identity, self.folder / "client-cache.json") as client, asyncio.TaskGroup() as group:
            side = [group.create_task(self._sample()), group.create_task(self._tell(tell))]
            deployers = [group.create_task(self._deploy(client, config, identity, until)) for _ in range(8)]
            await self._break(until)
            await self._quiet()
            try:
                async with asyncio.timeout(SETTLE_S):
                    await asyncio.gather(*deployers)
            except TimeoutError:
                self.report.wrong.append(f"jobs were still running {SETTLE_S:g} s after the last fault")
            for task in side:
                task.cancel()
        self.report.seconds = time.monotonic() - self.began
        await self.stop()
        await asyncio.to_thread(self._judge)
        return self.report

    async def _deploy(self, client: DcpClient, config: Any, key: PrivateKey, until: float) -> None:
        while time.monotonic() < until:
            [kind] = self.random.choices(KINDS, WEIGHTS)
            job = Job(
                kind.work, Range(1, self.random.randint(1, kind.most)), name=f"soak {kind.name}", slice_payment=0.001
            )
            self.report.jobs[kind.name] += 1
            try:
                results = await job.exec(client, config, key)
            except JobFailed as error:
                self.report.endings[f"{kind.name}: {error.code}"] += 1
                if not kind.fails:
                    self.report.wrong.append(f"job {job.id} ({kind.name}) failed: {error}")
            except OrchestratorError as error:
                # Deploying is not resumed by our client: a Scheduler that was killed meanwhile may end it.
                self.report.endings[f"{kind.name}: client {error.code}"] += 1
                if time.monotonic() - self.disturbed_at > 60:
                    self.report.wrong.append(f"deploying {job.id} ({kind.name}) failed without a cause: {error}")
                await asyncio.sleep(1)
            else:
                self.report.endings[f"{kind.name}: finished"] += 1
                self._check(job, kind, results)

    def _check(self, job: Job, kind: Kind, results: Sequence[Any]) -> None:
        for number, result in enumerate(results, 1):
            expected = kind.expected(number)
            self.report.results += result is not None
            if expected is not None and result != expected:
                self.report.wrong.append(f"job {job.id} ({kind.name}): slice {number} gave {str(result)[:60]!r}")
                return

    # -- faults

    async def _break(self, until: float) -> None:
        faults = {
            self._kill_worker: 3, self._kill_sandbox: 5, self._freeze_worker: 2, self._freeze_scheduler: 2,
            self._kill_scheduler: 1,
        }  # fmt: skip
        if self.engine is not None:
            faults |= {self._freeze_engine: 2, self._restart_engine: 1}
        while (left := until - time.monotonic()) > 0:
            await asyncio.sleep(min(self.random.uniform(3, 15), left))
            # The Scheduler is left alone in the second half, so that its memory can be followed.
            allowed = {
                fault: weight
                for fault, weight in faults.items()
                if fault != self._kill_scheduler or left > self.seconds / 2
            }
            [fault] = self.random.choices(list(allowed), list(allowed.values()))
            self.report.faults[fault.__name__.strip("_").replace("_", " ")] += 1
            await fault()

    async def _kill_worker(self) -> None:
        await self.workers["mortal"].kill()
        await asyncio.sleep(self.random.uniform(0, 3))
        await self._start_worker("mortal")

    async def _kill_sandbox(self) -> None:
        found = [one for worker in self.worker_ids() for one in await self._containers(worker)]
        if found:
            command = ["docker", "kill", self.random.choice(found)]
            await asyncio.to_thread(
                subprocess.run, command, capture_output=True, env={**os.environ, **self.env}, timeout=30
            )

    async def _freeze_worker(self) -> None:
        await self._freeze(self.random.choice(list(self.workers.values())))

    async def _freeze_scheduler(self) -> None:
        self.disturbed_at = time.monotonic()
        await self._freeze(self.scheduler)

    async def _freeze(self, command: harness.Command) -> None:
        command.process.send_signal(signal.SIGSTOP)
        await asyncio.sleep(self.random.uniform(1, 8))
        command.process.send_signal(signal.SIGCONT)

    async def _kill_scheduler(self) -> None:
        self.disturbed_at = time.monotonic()
        await self.scheduler.kill()
        await asyncio.sleep(self.random.uniform(0, 3))
        await self._start_scheduler()
        self.disturbed_at = time.monotonic()

    async def _freeze_engine(self) -> None:
        assert self.engine is not None
        self.engine.pause()
        await asyncio.sleep(self.random.uniform(1, 8))
        self.engine.resume()

    async def _restart_engine(self) -> None:
        assert self.engine is not None
        await asyncio.to_thread(self.engine.stop)
        await asyncio.to_thread(self.engine.start)

    async def _quiet(self) -> None:
        """Everything runs again."""
        if self.engine is not None:
            await asyncio.to_thread(self.engine.ensure_running)

    async def _containers(self, worker: str) -> list[str]:
        return await asyncio.to_thread(containers_of, worker, self.engine.host if self.engine else None)

    # -- measures

    async def _sample(self) -> None:
        while True:
            for name, command in (("scheduler", self.scheduler), ("worker", self.workers["steady"])):
                with contextlib.suppress(OSError, IndexError):
                    pages = int(pathlib.Path(f"/proc/{command.process.pid}/statm").read_text().split()[1])
                    self.samples[name].append(
                        (time.monotonic() - self.began, pages * os.sysconf("SC_PAGE_SIZE") / 2**20)
                    )
            await asyncio.sleep(SAMPLE_S)

    async def _tell(self, tell: Callable[[str], None]) -> None:
        while True:
            await asyncio.sleep(15)
            memory = ", ".join(f"{name} {points[-1][1]:.0f} MiB" for name, points in self.samples.items() if points)
            tell(
                f"{time.monotonic() - self.began:6.0f} s  {sum(self.report.jobs.values())} jobs, {self.report.results} results, "
                f"{sum(self.report.faults.values())} faults, {memory}, {len(self.report.wrong)} wrong"
            )

    def _judge(self) -> None:
        for name, points in self.samples.items():
            self.report.memory[name] = figures = _growth(points)
            # Caches fill and heaps fragment for some minutes; a leak goes on. A tenth and 24 MiB are the noise of both.
            if figures["late_mib"] > figures["early_mib"] * 1.1 + 24:
                self.report.wrong.append(f"the memory of the {name} grew: {figures}")
        for worker in self.worker_ids():
            if left := containers_of(worker, self.engine.host if self.engine else None):
                self.report.wrong.append(f"{len(left)} containers of worker {worker} are left")
            if boxes := _populated(worker):
                self.report.wrong.append(f"processes of worker {worker} are left in {', '.join(boxes)}")
        self._judge_money()

    def _judge_money(self) -> None:
        (path,) = (self.folder / "scheduler").glob("*.sqlite")
        with contextlib.closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as database:
            balances = database.execute("SELECT high, low FROM bank_accounts").fetchall()
            open_jobs = database.execute("SELECT count(*) FROM bank_holds WHERE is_open").fetchone()[0]
        if total := sum(high * WORD + low % WORD for high, low in balances):
            self.report.wrong.append(f"all accounts sum to {total}, not to zero")
        if open_jobs:
            self.report.endings["holds still open"] = open_jobs

    def keep_logs(self) -> pathlib.Path:
        return self.folder


def _populated(worker: str) -> list[str]:
    """Sandboxes of a worker in whose cgroups something runs. An empty one, of a worker killed between making it and the
    container, is removed after half an hour."""
    try:
        tree = CgroupTree.of_this_machine(worker)
    except CgroupFailure:
        return []
    return [
        sandbox
        for sandbox in tree.sandboxes()
        for directory in tree.everywhere(f"{tree.base}/{sandbox}")
        if any(path.read_text().strip() for path in directory.rglob("cgroup.procs"))
    ]


def _growth(points: Sequence[tuple[float, float]]) -> dict[str, float]:
    """Median memory in the second quarter of a process's life and in its last, MiB."""
    if len(points) < 8:
        return {"early_mib": 0.0, "late_mib": 0.0, "samples": len(points)}
    quarter = len(points) // 4
    values = [mib for _, mib in points]
    early, late = sorted(values[quarter : 2 * quarter]), sorted(values[-quarter:])
    return {"early_mib": early[len(early) // 2], "late_mib": late[len(late) // 2], "samples": len(points)}


async def soak(
    seconds: float, seed: int, engine: Engine | None, tell: Callable[[str], None] = lambda _line: None
) -> tuple[Report, pathlib.Path]:
    """Run one; the report, and the folder with the parts' logs."""
    run = Soak(seconds, seed, engine)
    await run.start()
    try:
        report = await run.run(tell)
    finally:
        await run.stop()
    return report, run.folder


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=60.0, help="how long jobs and faults go on (default: 60)")
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(10**6))
    parser.add_argument("--quick", action="store_true", help="two minutes")
    parser.add_argument("--output", choices=["text", "json"], default="text")
    options = parser.parse_args()
    engine = Engine.make() if os.geteuid() == 0 else None
    try:
        if engine is not None:
            engine.start()
            engine.load_image()
        seconds = 120.0 if options.quick else options.minutes * 60
        print(f"seed {options.seed}, {seconds / 60:g} minutes", file=sys.stderr)
        report, folder = asyncio.run(soak(seconds, options.seed, engine, lambda line: print(line, file=sys.stderr)))
    finally:
        if engine is not None:
            engine.dispose()
    if options.output == "json":
        print(json.dumps({"seed": options.seed, **report.to_json()}))
    else:
        print(f"{sum(report.jobs.values())} jobs, {report.results} results, faults: {dict(report.faults)}")
        print(f"endings: {dict(report.endings)}")
        for name, figures in report.memory.items():
            print(f"memory of the {name}: {figures['early_mib']:.0f} MiB early, {figures['late_mib']:.0f} MiB late")
        print("\n".join(f"WRONG: {wrong}" for wrong in report.wrong) or "nothing wrong")
    if report.wrong:
        print(f"logs: {folder}", file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    main()
