"""Memory: of an idle Worker, and of each sandbox more.

A Worker against a Scheduler, both processes of their own, with 0, 4 and 8 warm sandboxes and nothing to do. Per sandbox are
counted: what the kernel charges to its cgroup, the Engine's shim process (private memory), and what the Worker and
dockerd grow by. Beside it the same evaluator in bare Node. Pages of files, which all of them share, are left out.
"""

from __future__ import annotations

import asyncio
import contextlib
import pathlib
import re
import tempfile
from collections.abc import AsyncIterator
from typing import Any

import docker

from benchmarks import common
from orchestrator.worker.cgroups import CgroupTree, parse_flat_keyed
from orchestrator.worker.docker_runtime.reaper import LABEL_WORKER
from orchestrator.worker.line_protocol import request_line
from tests.e2e import harness

WARM = (0, 4, 8)
_LOOK_S = 0.1
_SETTLE_S = 3.0
HOST = pathlib.Path(__file__).parent.parent / "sandbox_image" / "host" / "main.js"


def private_mib(pid: int) -> float:
    """Memory that would be free if the process ended, MiB."""
    rollup = pathlib.Path(f"/proc/{pid}/smaps_rollup").read_text()
    kib = [int(value) for value in re.findall(r"^Private_\w+:\s+(\d+)", rollup, re.MULTILINE)]
    return sum(kib) / 1024


def anonymous_mib(pid: int) -> float:
    """Memory that no file stands behind, as the kernel charges it to a sandbox, MiB."""
    rollup = pathlib.Path(f"/proc/{pid}/smaps_rollup").read_text()
    return sum(int(value) for value in re.findall(r"^Anonymous:\s+(\d+)", rollup, re.MULTILINE)) / 1024


def processes(name: str) -> list[int]:
    """Processes with this name."""
    found = []
    for entry in pathlib.Path("/proc").iterdir():
        with contextlib.suppress(OSError):  # gone meanwhile
            if entry.name.isdigit() and (entry / "comm").read_text().strip() == name[:15]:
                found.append(int(entry.name))
    return found


def charged_mib(worker: str) -> list[float]:
    """Anonymous memory that the kernel charges to each sandbox of a worker, MiB (page cache left out)."""
    tree = CgroupTree.of_this_machine(worker)
    found = []
    for sandbox in tree.sandboxes():
        directories = tree.directories(f"{tree.base}/{sandbox}")
        folder = directories.get("memory", directories.get(""))
        assert folder is not None
        stat = parse_flat_keyed((folder / "memory.stat").read_bytes())
        found.append(stat.get("total_rss", stat.get("anon", 0)) / 2**20)
    return found


@contextlib.asynccontextmanager
async def worker(url: str, folder: pathlib.Path, warm: int) -> AsyncIterator[harness.Command]:
    """An idle Worker whose pool is full."""
    command = await harness.Command.start(
        "worker", "run", "--scheduler", url, "--state", str(folder / f"w{warm}"), "--sandboxes", "8",
        "--warm", str(warm), log=folder / "worker.log",
    )  # fmt: skip
    try:
        identifier = (await command.wait_for_line("ready ")).split()[1]
        client = docker.from_env()
        try:
            async with asyncio.timeout(120):
                while len(client.api.containers(filters={"label": f"{LABEL_WORKER}={identifier}"})) != warm:  # noqa: ASYNC110
                    await asyncio.sleep(_LOOK_S)
        finally:
            client.close()
        await asyncio.sleep(_SETTLE_S)
        yield command
    finally:
        await command.stop()


async def bare_evaluator() -> float:
    """Anonymous memory of the evaluator in bare Node, once it has described itself."""
    process = await common.LineProcess.start(str(common.NODE), str(HOST))
    try:
        process.write(request_line({"request": "describe"}))
        await process.line()
        await asyncio.sleep(1)
        return anonymous_mib(process.process.pid)
    finally:
        await process.close()


async def measure() -> dict[str, Any]:
    found: dict[str, Any] = {"bare evaluator": await bare_evaluator()}
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        scheduler = await harness.Command.start(
            "scheduler", "run", "--port", "0", "--state", str(folder / "scheduler"), log=folder / "scheduler.log"
        )
        try:
            url = (await scheduler.wait_for_line("ready ")).split()[1]
            for warm in WARM:
                async with worker(url, folder, warm) as command:
                    identifier = command.lines[0].split()[1]
                    shims = [private_mib(pid) for pid in processes("containerd-shim")]
                    found[str(warm)] = {
                        "worker": private_mib(command.process.pid),
                        "sandbox": common.median(charged_mib(identifier)) if warm else 0.0,
                        "shim": common.median(shims) if shims else 0.0,
                        "engine": sum(private_mib(pid) for pid in processes("dockerd") + processes("containerd")),
                    }
        finally:
            await scheduler.stop()
    return found


def main() -> None:
    options = common.parse_options(__doc__)
    machine = common.machine()
    found = asyncio.run(measure())
    most = found[str(WARM[-1])]
    idle = found[str(WARM[0])]["worker"]
    per = (most["worker"] - idle) / WARM[-1]
    bare = found["bare evaluator"]
    each = most["sandbox"] + most["shim"] + per
    text = [
        f"an idle Worker without sandboxes: {idle:.0f} MiB",
        f"each sandbox: {most['sandbox']:.1f} MiB charged to it, {most['shim']:.1f} MiB for its shim, {per:.2f} MiB in the Worker",
        f"the evaluator in bare Node: {bare:.1f} MiB",
    ]
    goals = [common.Goal("a sandbox in all / the evaluator in bare Node", each / bare)]
    common.report(options.output, {"machine": machine, "mib": found}, goals, text)


if __name__ == "__main__":
    main()
