"""Several workers at one Docker Engine: a dead one is cleared away, a living one is left alone, even when frozen."""

# ruff: noqa: ASYNC110  (these tests poll the Engine, which sends no events)

from __future__ import annotations

import asyncio
import contextlib
import pathlib
import signal
import sys
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest

from orchestrator.worker.docker_runtime import runtime as runtime_module

pytestmark = pytest.mark.docker

ROOT = pathlib.Path(__file__).parents[3]
WORKER = """
import asyncio, sys
from orchestrator.worker import sandbox_events as ev
from orchestrator.worker.docker_runtime import DockerRuntime, RuntimeSettings
from orchestrator.worker.pool import PoolSettings, SandboxPool

async def main():
    settings = RuntimeSettings(reap_period_s=0.2, lease_s=2.0, lease_patience_s=0.0)
    async with DockerRuntime(sys.argv[1], settings) as runtime, SandboxPool(runtime, PoolSettings(1, 1)) as pool:
        sandbox = await pool.take()
        await sandbox.assign(ev.Assignment("job", "(x) => { progress(); return x }", ()))
        loop = asyncio.get_running_loop()
        key = 0
        events = sandbox.batches()
        while line := await loop.run_in_executor(None, sys.stdin.readline):
            key += 1
            sandbox.submit(key, "data:application/json,1")
            batch = await anext(events)
            print(type(batch[-1]).__name__, pool.ready, flush=True)
        await sandbox.kill()

asyncio.run(main())
"""


class Other:
    """A worker in a process of its own, with a sandbox at work and one ready."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process

    async def compute(self) -> str:
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.write(b"\n")
        async with asyncio.timeout(30):
            return (await self.process.stdout.readline()).decode().strip()


@contextlib.asynccontextmanager
async def worker(name: str) -> AsyncIterator[Other]:
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", WORKER, name, cwd=ROOT, stdin=pipe, stdout=pipe
    )
    other = Other(process)
    try:
        while not (await other.compute()).endswith("SliceCompleted 1"):
            await asyncio.sleep(0.05)
        yield other
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(signal.SIGCONT)
        if process.returncode is None:
            assert process.stdin is not None
            process.stdin.close()
            async with asyncio.timeout(30):
                await process.wait()


async def test_one_is_killed_and_the_others_go_on(runtime: Any, containers: Any, worker_id: str) -> None:
    dead, alive = f"{worker_id}-dead", f"{worker_id}-alive"
    async with worker(alive) as living, worker(dead) as doomed:
        before = {container.id for container in containers(alive)}
        assert len(before) == len(containers(dead)) == 2
        doomed.process.kill()
        await doomed.process.wait()
        async with asyncio.timeout(20):
            while containers(dead):  # by the other one, within its period
                await asyncio.sleep(0.05)
        async with runtime() as third:
            await third.reap()
            assert {container.id for container in containers(alive)} == before
            assert await living.compute() == "SliceCompleted 1"
    assert containers(alive) == []


async def test_one_that_is_frozen_keeps_its_sandboxes(
    runtime: Any, containers: Any, worker_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It cannot renew its lease, and whoever sees that its process is there does not mind."""
    name = f"{worker_id}-frozen"
    async with worker(name) as frozen:
        before = {container.id for container in containers(name)}
        frozen.process.send_signal(signal.SIGSTOP)
        async with runtime(lease_patience_s=0.0) as other:
            tomorrow = time.time() + 24 * 3600
            monkeypatch.setattr(runtime_module.time, "time", lambda: tomorrow)
            await other.reap()
            monkeypatch.undo()
            assert {container.id for container in containers(name)} == before
        frozen.process.send_signal(signal.SIGCONT)
        assert await frozen.compute() == "SliceCompleted 1"
    assert containers(name) == []
