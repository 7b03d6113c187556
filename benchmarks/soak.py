"""Random jobs under random faults, for minutes or hours: every result right, nothing left behind, memory flat.

Starts a Scheduler, two Workers and (as root) a Docker Engine of its own. Jobs of every kind are deployed all the time; every
few seconds something breaks: a Worker, the Scheduler or a sandbox is killed, a part or the Engine is frozen, the Engine
is restarted. One Worker is never killed: its memory, and that of the Scheduler between two kills, must not grow.

Ends with status 1 when a result was wrong or missing, money was lost, a part ended by itself or would not end, a container or
process was left, or memory grew. Each final check waits as long as the documented rules take, and says what is left and why
it should not be. The same --seed gives the same jobs and faults (their moments differ with the machine).
"""

from __future__ import annotations

import argparse
import asyncio
import collections
import contextlib
import dataclasses
import functools
import json
import os
import pathlib
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import docker.errors

from orchestrator.compute.job import Job, JobFailed, Range
from orchestrator.errors import OrchestratorError
from orchestrator.protocol.client import DcpClient
from orchestrator.protocol.config import fetch_config
from orchestrator.wallet.keys import PrivateKey
from tests.e2e import harness
from tests.faults.parts import Engine, free_port
from tests.parts import leavings
from tests.parts.containers import containers_of

SAMPLE_S = 2.0
SETTLE_S = 240.0
"""How long the last jobs may take once nothing breaks any more."""
REAPED_S = 75.0
"""A reaper's period and a look: by then a living Worker has removed what a killed one left."""
END_S = 120.0
"""A Worker's soft end: slices in work, 30 s for the Scheduler's word, 3 s for the goodbye, twice 30 s for the Engine."""
REMOVED_S = 30.0
"""After the ends: removals that the Engine has taken on, processes that are just ending."""
UNDER_WAY_S = 10.0
"""By then an Engine that answers has carried out what it was asked for."""
EXPLAINED_S = 10.0
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
        # `asdict` makes a Counter anew from its pairs, and so counts the pairs.
        return {name: dict(value) if isinstance(value, dict) else value for name, value in vars(self).items()}


class Soak:
    """One run. `async with` it, then `run`."""

    def __init__(self, seconds: float, seed: int, engine: Engine | None, last: Sequence[str] = ()) -> None:
        """`last`: faults (see `FAULTS`) that come in this order when the time is over, before all is left in peace."""
        self.seconds = seconds
        self.random = random.Random(seed)
        self.engine = engine
        self.last = last
        self.report = Report()
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="dcp-soak-"))
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}/"
        self.env = dict(engine.env) if engine is not None else {}
        self.scheduler: harness.Command
        self.workers: dict[str, harness.Command] = {}
        self.disturbed_at = 0.0  # the last fault that a deploying client may feel
        self.engine_away_at = 0.0  # the last moment when a Worker that was just started may have found no Engine
        self.killed_at = 0.0  # the last kill of a Worker
        self.running: dict[str, tuple[Kind, Job, float]] = {}
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
        """Kill what still runs: after `run` nothing does."""
        started = [self.scheduler] if hasattr(self, "scheduler") else []
        for command in (*self.workers.values(), *started):
            if command.process.returncode is None:
                await command.kill()

    async def _end(self, name: str, command: harness.Command) -> None:
        """Stop a part softly. That it cannot be, or was dead already, is wrong."""
        if command.process.returncode is not None:
            await self._ended_by_itself(name, command)
            return
        try:
            status = await command.stop(within=END_S)
        except TimeoutError:
            self.report.wrong.append(f"{name} did not end within {END_S:g} s of SIGTERM. {_last_words(command)}")
            await command.kill()
        else:
            if status:
                self.report.wrong.append(f"{name} ended with status {status} when stopped. {_last_words(command)}")

    async def _ended_by_itself(self, name: str, command: harness.Command) -> None:
        status, words = await command.process.wait(), _last_words(command)
        engine_away = time.monotonic() - self.engine_away_at < 60 and "Docker Engine" in words
        if name == "mortal" and status == 1 and engine_away:
            # As documented: it waits for an Engine that it has had, and a service manager starts it anew.
            self.report.endings["worker started without an Engine"] += 1
        else:
            self.report.wrong.append(f"{name} ended by itself with status {status}. {words}")

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
            _, late = await asyncio.wait(deployers, timeout=SETTLE_S)
            if late:
                await self._tell_what_runs(client, config)
            for task in (*side, *late):
                task.cancel()
        self.report.seconds = time.monotonic() - self.began
        await self._judge_what_is_left()
        self._judge_memory()
        self._judge_money()
        return self.report

    async def _tell_what_runs(self, client: DcpClient, config: Any) -> None:
        """Jobs that should long have ended, with the Scheduler's word on why they have not."""
        for job_id, (kind, job, began) in self.running.items():
            pheme = client.connect(config["scheduler"]["services"]["pheme"]["location"])
            try:
                async with asyncio.timeout(EXPLAINED_S):
                    why = json.dumps(await pheme.request("explainJob", {"job": job_id}))
            except (OrchestratorError, TimeoutError) as error:
                why = f"the Scheduler does not say why: {error!r}"
            finally:
                await pheme.close()
            self.report.wrong.append(
                f"job {job_id} ({kind.name}, {time.monotonic() - began:.0f} s old, {len(job.results)} results) was still "
                f"running {SETTLE_S:g} s after the last fault: {why}"
            )

    async def _deploy(self, client: DcpClient, config: Any, key: PrivateKey, until: float) -> None:
        while time.monotonic() < until:
            [kind] = self.random.choices(KINDS, WEIGHTS)
            job = Job(
                kind.work, Range(1, self.random.randint(1, kind.most)), name=f"soak {kind.name}", slice_payment=0.001
            )
            self.report.jobs[kind.name] += 1
            self.running[job.id] = kind, job, time.monotonic()
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
            except Exception as error:  # the run goes on: it may find more
                self.report.wrong.append(f"deploying {job.id} ({kind.name}) raised what it must not: {error!r}")
                traceback.print_exception(error)
            else:
                self.report.endings[f"{kind.name}: finished"] += 1
                self._check(job, kind, results)
            del self.running[job.id]

    def _check(self, job: Job, kind: Kind, results: Sequence[Any]) -> None:
        for number, result in enumerate(results, 1):
            expected = kind.expected(number)
            self.report.results += result is not None
            if expected is not None and result != expected:
                self.report.wrong.append(f"job {job.id} ({kind.name}): slice {number} gave {str(result)[:60]!r}")
                return

    # -- faults

    async def _break(self, until: float) -> None:
        faults = {fault: weight for fault, weight in FAULTS.items() if self.engine is not None or "engine" not in fault}
        while (left := until - time.monotonic()) > 0:
            await asyncio.sleep(min(self.random.uniform(3, 15), left))
            # The Scheduler is left alone in the second half, so that its memory can be followed.
            allowed = {
                fault: weight
                for fault, weight in faults.items()
                if fault != "kill scheduler" or left > self.seconds / 2
            }
            [fault] = self.random.choices(list(allowed), list(allowed.values()))
            await self._do(fault)
        for fault in self.last:
            await self._do(fault)

    async def _do(self, fault: str) -> None:
        self.report.faults[fault] += 1
        mortal = self.workers["mortal"]
        if mortal.process.returncode is not None:
            await self._ended_by_itself("mortal", mortal)
            await self._start_worker("mortal")
        try:
            await getattr(self, f"_{fault.replace(' ', '_')}")()
        except (AssertionError, OSError, subprocess.SubprocessError, docker.errors.DockerException) as error:
            self.report.wrong.append(f"after {time.monotonic() - self.began:.0f} s, at the fault {fault!r}: {error!r}")

    async def _kill_worker(self) -> None:
        await self.workers["mortal"].kill()
        self.killed_at = time.monotonic()
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
        self.engine_away_at = time.monotonic()

    async def _restart_engine(self) -> None:
        assert self.engine is not None
        await asyncio.to_thread(self.engine.stop)
        await asyncio.to_thread(self.engine.start)
        self.engine_away_at = time.monotonic()

    async def _quiet(self) -> None:
        """Everything runs again."""
        if self.engine is not None:
            await asyncio.to_thread(self.engine.ensure_running)
        for name, worker in list(self.workers.items()):
            try:
                await worker.wait_for_line("ready ", within=SETTLE_S)
            except AssertionError:
                await self._ended_by_itself(name, worker)
                await self._start_worker(name)
                await self.workers[name].wait_for_line("ready ", within=SETTLE_S)
            except TimeoutError:
                self.report.wrong.append(f"{name} was not ready {SETTLE_S:g} s after its start. {_last_words(worker)}")

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
        told = 0
        while True:
            await asyncio.sleep(15)
            for wrong in self.report.wrong[told:]:
                tell(f"WRONG: {wrong}")
            told = len(self.report.wrong)
            memory = ", ".join(f"{name} {points[-1][1]:.0f} MiB" for name, points in self.samples.items() if points)
            tell(
                f"{time.monotonic() - self.began:6.0f} s  {sum(self.report.jobs.values())} jobs, {self.report.results} results, "
                f"{sum(self.report.faults.values())} faults, {memory}, {len(self.report.wrong)} wrong"
            )

    async def _judge_what_is_left(self) -> None:
        """While the Workers live, nothing of the killed ones may stay; and nothing at all after their soft end."""
        workers, host = self.worker_ids(), self.engine.host if self.engine else None
        # What a Worker asked the Engine for just before it was killed may come up yet.
        await asyncio.sleep(max(self.killed_at + UNDER_WAY_S - time.monotonic(), 0))
        left = await leavings.once_gone(lambda: leavings.orphans(workers, host), REAPED_S)
        self.report.wrong += [f"{REAPED_S:g} s after the last fault, two Workers alive: {one}" for one in left]
        for name, command in (*self.workers.items(), ("scheduler", self.scheduler)):
            await self._end(name, command)
        left = await leavings.once_gone(lambda: leavings.containers(workers, host), REMOVED_S)
        left += await leavings.once_gone(lambda: leavings.processes(workers), REMOVED_S)
        self.report.wrong += [f"{REMOVED_S:g} s after the Workers' end: {one}" for one in left]

    def _judge_memory(self) -> None:
        for name, points in self.samples.items():
            self.report.memory[name] = figures = _growth(points)
            # Caches fill and heaps fragment for some minutes; a leak goes on. A tenth and 24 MiB are the noise of both.
            if figures["late_mib"] > figures["early_mib"] * 1.1 + 24:
                self.report.wrong.append(f"the memory of the {name} grew: {figures}")

    def _judge_money(self) -> None:
        (path,) = (self.folder / "scheduler").glob("*.sqlite")
        with contextlib.closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as database:
            balances = database.execute("SELECT high, low FROM bank_accounts").fetchall()
            forgotten = database.execute(
                "SELECT jobs.id, jobs.status FROM jobs JOIN bank_holds ON bank_holds.id = 'job:' || jobs.id "
                "WHERE bank_holds.is_open AND jobs.status IN ('finished', 'cancelled', 'corrupted')"
            ).fetchall()
            unended = database.execute(
                "SELECT count(*) FROM jobs WHERE status NOT IN ('finished', 'cancelled', 'corrupted')"
            ).fetchone()[0]
        if total := sum(high * WORD + low % WORD for high, low in balances):
            self.report.wrong.append(f"all accounts sum to {total}, not to zero")
        self.report.wrong += [
            f"the hold of job {job} ({status}) is still open. The rule: the end of a job returns what is left of it"
            for job, status in forgotten
        ]
        if unended:  # whose client gave up deploying
            self.report.endings["not ended: without a client"] = unended

    def keep_engine_log(self) -> None:
        """Beside the logs of the parts: an Engine that is disposed of takes its own along."""
        if self.engine is not None:
            with contextlib.suppress(OSError):
                shutil.copy(self.engine.folder / "dockerd.log", self.folder)


FAULTS: Mapping[str, float] = {
    "kill worker": 3,
    "kill sandbox": 5,
    "freeze worker": 2,
    "freeze scheduler": 2,
    "kill scheduler": 1,
    "freeze engine": 2,
    "restart engine": 1,
}
"""What breaks, by its weight. The Engine only where it is the soak's own."""


def _last_words(command: harness.Command) -> str:
    return f"The end of its log: {command.log.read_text(errors='replace')[-1500:]}"


def _growth(points: Sequence[tuple[float, float]]) -> dict[str, float]:
    """Median memory in the second quarter of a process's life and in its last, MiB."""
    if len(points) < 8:
        return {"early_mib": 0.0, "late_mib": 0.0, "samples": len(points)}
    quarter = len(points) // 4
    values = [mib for _, mib in points]
    early, late = sorted(values[quarter : 2 * quarter]), sorted(values[-quarter:])
    return {"early_mib": early[len(early) // 2], "late_mib": late[len(late) // 2], "samples": len(points)}


async def soak(
    seconds: float,
    seed: int,
    engine: Engine | None,
    tell: Callable[[str], None] = lambda _line: None,
    last: Sequence[str] = (),
) -> tuple[Report, pathlib.Path]:
    """Run one; the report, and the folder with the parts' logs, which is removed when nothing is wrong."""
    run = Soak(seconds, seed, engine, last)
    tell(f"logs: {run.folder}")
    try:
        await run.start()
        report = await run.run(tell)
    finally:
        await run.stop()
        run.keep_engine_log()
        (run.folder / "report.json").write_text(json.dumps(run.report.to_json()))
    if not report.wrong:
        shutil.rmtree(run.folder)
    return report, run.folder


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=60.0, help="how long jobs and faults go on (default: 60)")
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(10**6))
    parser.add_argument("--quick", action="store_true", help="two minutes")
    parser.add_argument(
        "--last", metavar="FAULT", action="append", default=[], choices=list(FAULTS),
        help=f"a fault for the very end; may be repeated: {', '.join(FAULTS)}",
    )  # fmt: skip
    parser.add_argument("--output", choices=["text", "json"], default="text")
    options = parser.parse_args()
    engine = Engine.make() if os.geteuid() == 0 else None
    if engine is None and any("engine" in fault for fault in options.last):
        parser.error("--last: only root has a Docker Engine of its own to break")
    try:
        if engine is not None:
            engine.start()
            engine.load_image()
        seconds = 120.0 if options.quick else options.minutes * 60
        print(f"seed {options.seed}, {seconds / 60:g} minutes", file=sys.stderr)
        told = functools.partial(print, file=sys.stderr, flush=True)
        report, folder = asyncio.run(soak(seconds, options.seed, engine, told, options.last))
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
