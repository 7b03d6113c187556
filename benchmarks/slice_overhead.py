"""What a slice costs in a warm sandbox: empty slices through ours, and through the official sandbox scripts in Node.

Ours is a real container under the full lock-down, reached through the Worker's own pool and sandbox, metering included:
one slice at a time, and pipelined as the Worker uses it (the queue is filled up when it is half empty). The official
scripts run in a bare process, without any container, and get `resetState` and `main` in one write, as fast as they
allow. All take turns in rounds; ratios are medians over the rounds.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import time
from collections.abc import AsyncIterator
from typing import Any

from benchmarks import common
from orchestrator.worker import sandbox_events as ev
from orchestrator.worker.pool import PoolSettings, SandboxPool
from orchestrator.worker.sandbox import Sandbox

GOAL = 10.0
WORK_FUNCTION = "() => { progress(); return 0; }"  # no Scheduler accepts a slice that never calls progress
DEPTH = 256  # what the Worker queues in a sandbox at most
#: The order of the official definitions for Node, without Pyodide.
SCRIPTS = (
    "sa-ww-simulation",
    "script-load-wrapper",
    "timer-classes",
    "wrap-event-listeners",
    "event-loop-virtualization",
    "lift-webgl",
    "lift-wasm",
    "lift-webgpu",
    "url",
    "polyfills",
    "access-lists",
    "fetch-factory",
    "bravojs-init",
    "bravo",
    "bravojs-env",
    "worktimes",
    "map-basic-worktime",
    "calculate-capabilities",
    "bootstrap",
)


class Official:
    """The official sandbox scripts, assigned to a job."""

    def __init__(self, process: common.LineProcess) -> None:
        self._process = process
        self._slice = self._text({"request": "resetState"}) + self._text({"request": "main", "data": 0})

    @classmethod
    @contextlib.asynccontextmanager
    async def start(cls) -> AsyncIterator[Official]:
        folder = common.NPM_MODULES / "dcp-client" / "libexec"
        bravo = common.NPM_MODULES / "bravojs" / "bravo.js"
        files = [bravo if name == "bravo" else folder / "sandbox" / f"{name}.js" for name in SCRIPTS]
        command = [common.NODE, folder / "evaluator-node.js", common.NPM_MODULES / "kvin" / "kvin.js", *files]
        # The official evaluator refuses to run as root.
        user: dict[str, Any] = {"user": 65534, "group": 65534, "extra_groups": []} if os.getuid() == 0 else {}
        process = await common.LineProcess.start(*map(str, command), stderr=asyncio.subprocess.DEVNULL, **user)
        official = cls(process)
        try:
            await official._assign()
            yield official
        finally:
            await process.close()

    @staticmethod
    def _text(value: dict[str, Any]) -> bytes:
        message = {"type": "workerMessage", "message": {"_serializeVerId": "v9", "what": {"raw": value}}}
        return json.dumps(message).encode() + b"\n"

    async def _until(self, request: str) -> None:
        wanted = f'"{request}"'.encode()
        while wanted not in (line := await self._process.line()):
            if b'"workError"' in line or b'"reject"' in line:
                raise SystemExit(f"the official scripts failed: {line[:500]!r}")

    async def _assign(self) -> None:
        worktime = {"name": "map-basic", "version": "1.0.0"}
        job = {"id": "j", "workFunction": WORK_FUNCTION, "arguments": [], "worktime": worktime, "public": {"name": "j"}}
        job |= {"dependencies": [], "requirePath": [], "modulePath": []}
        self._process.write(self._text({"request": "applyRequirements", "worktime": "map-basic"}))
        await self._until("applyRequirementsDone")
        self._process.write(self._text({"request": "assign", "job": job, "sandboxConfig": {}}))
        await self._until("assigned")

    async def one_by_one(self, count: int) -> list[float]:
        """Milliseconds of each slice."""
        took = []
        for _ in range(count):
            start = time.perf_counter()
            self._process.write(self._slice)
            await self._until("complete")
            took.append((time.perf_counter() - start) * 1000)
        return took


class Ours:
    """A sandbox of the Worker, assigned to a job."""

    def __init__(self, sandbox: Sandbox) -> None:
        self._sandbox = sandbox
        self._batches = sandbox.batches()

    @classmethod
    @contextlib.asynccontextmanager
    async def start(cls) -> AsyncIterator[Ours]:
        settings = PoolSettings(capacity=1, warm=1)
        async with common.docker_runtime() as runtime, SandboxPool(runtime, settings) as pool:
            sandbox = await pool.take()
            await sandbox.assign(ev.Assignment("j", WORK_FUNCTION))
            yield cls(sandbox)

    async def _answers(self) -> int:
        """How many slices completed in the next batch of events."""
        batch = await anext(self._batches)
        done = sum(isinstance(event, ev.SliceCompleted) for event in batch)
        if not done and not isinstance(batch[0], ev.Progress):
            raise SystemExit(f"our sandbox failed: {batch[0]}")
        return done

    async def one_by_one(self, count: int) -> list[float]:
        """Milliseconds of each slice."""
        took = []
        for key in range(count):
            start = time.perf_counter()
            self._sandbox.submit(key, "data:application/json,0")
            while not await self._answers():
                pass
            took.append((time.perf_counter() - start) * 1000)
        return took

    async def pipelined(self, count: int) -> float:
        """Milliseconds per slice over `count`, with up to DEPTH of them in the sandbox."""
        start = time.perf_counter()
        submitted = done = 0
        while done < count:
            if (submitted - done) * 2 <= DEPTH:
                more = min(count - submitted, DEPTH - (submitted - done))
                for key in range(submitted, submitted + more):
                    self._sandbox.submit(key, "data:application/json,0")
                submitted += more
            done += await self._answers()
        return (time.perf_counter() - start) * 1000 / count


async def measure(rounds: int, count: int) -> dict[str, list[float]]:
    """Milliseconds per slice, one figure per round: `count` slices each, ten times as many where they are pipelined."""
    times: dict[str, list[float]] = {"official": [], "ours": [], "ours, pipelined": []}
    async with Official.start() as official, Ours.start() as ours:
        # Warm means that the engine has compiled what is hot.
        await official.one_by_one(count)
        await ours.one_by_one(count)
        await ours.pipelined(count * 10)
        for _ in range(rounds):
            times["official"].append(common.median(await official.one_by_one(count)))
            times["ours"].append(common.median(await ours.one_by_one(count)))
            times["ours, pipelined"].append(await ours.pipelined(count * 10))
    return times


def main() -> None:
    options = common.parse_options(__doc__)
    machine = common.machine()
    times = asyncio.run(measure(*((5, 100) if options.quick else (15, 200))))
    ratios = {
        name: common.median(theirs / mine for theirs, mine in zip(times["official"], times[name], strict=True))
        for name in ("ours", "ours, pipelined")
    }
    middle = {name: common.median(figures) for name, figures in times.items()}
    goals = [
        common.Goal("official time / ours, pipelined as the Worker does", ratios["ours, pipelined"], GOAL),
        common.Goal("official time / ours, one slice at a time", ratios["ours"], GOAL),
    ]
    lines = [
        f"{name}: {middle[name]:.3f} ms per slice (rounds {min(figures):.3f} to {max(figures):.3f})"
        for name, figures in times.items()
    ]
    common.report(options.output, {"machine": machine, "milliseconds_per_slice": middle}, goals, lines)


if __name__ == "__main__":
    main()
