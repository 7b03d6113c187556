"""Whoever waits for a sandbox may give up at any point: nothing of it stays."""

# ruff: noqa: ASYNC110  (these tests poll the Engine and the kernel, which send no events)

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections.abc import Callable, Coroutine, Generator
from typing import Any

import pytest

from orchestrator.worker import sandbox_events as ev
from orchestrator.worker.cgroups import CgroupTree
from orchestrator.worker.docker_runtime import DockerRuntime
from orchestrator.worker.pool import PoolSettings, SandboxPool
from orchestrator.worker.sandbox import Sandbox

pytestmark = pytest.mark.docker


class Suspensions:
    """Awaits a coroutine, counts the times it waits for something, and calls `reached` at the one of that number."""

    def __init__(self, work: Coroutine[Any, Any, Any], at: int = -1, reached: Callable[[], object] = lambda: None):
        self._work = work
        self._at = at
        self._reached = reached
        self.count = 0

    def __await__(self) -> Generator[Any, Any, Any]:
        inner = self._work.__await__()
        failure: BaseException | None = None
        while True:
            try:
                waited = inner.send(None) if failure is None else inner.throw(failure)
            except StopIteration as end:
                return end.value
            if self.count == self._at:
                self._reached()
            self.count += 1
            failure = None
            try:
                yield waited
            except BaseException as exc:
                failure = exc


async def cancelled_at(work: Callable[[], Coroutine[Any, Any, Any]], at: int, after_s: float) -> None:
    """Run `work`, and cancel it so long after it began to wait for the time `at`."""
    loop = asyncio.get_running_loop()

    async def run() -> None:
        task = asyncio.current_task()
        assert task is not None
        await Suspensions(work(), at, lambda: loop.call_later(after_s, task.cancel))

    await asyncio.wait([asyncio.create_task(run())])


async def nothing_stays(made: DockerRuntime, containers: Any, worker: str) -> None:
    """Once the Engine has carried out the last create that nobody waits for, and the reaper has seen it."""

    def left() -> tuple[Any, ...]:
        return containers(worker), made._live, made._containers, CgroupTree.of_this_machine(worker).sandboxes()

    async with asyncio.timeout(60):
        while made._given_up.open(time.monotonic()) or made._cleanups or any(await asyncio.to_thread(left)):
            await asyncio.sleep(0.05)


async def test_a_start_given_up_at_every_await(runtime: Any, containers: Any, worker_id: str) -> None:
    async with runtime() as made:
        counted = Suspensions(Sandbox.start(made))
        await (await counted).kill()
        assert counted.count >= 4, "create, attach, start, describe"
        for at in range(counted.count):
            for after_s in (0.0, 0.01):
                await cancelled_at(lambda: Sandbox.start(made), at, after_s)
        await nothing_stays(made, containers, worker_id)


async def test_a_life_given_up_at_every_await(runtime: Any, containers: Any, worker_id: str) -> None:
    async with runtime() as made:
        async with SandboxPool(made, PoolSettings(capacity=1, warm=0)) as pool:

            async def life() -> None:
                sandbox = await pool.take()
                try:
                    await sandbox.assign(ev.Assignment("job", "(x) => { progress(); return x }", ()))
                    sandbox.submit(1, "data:application/json,1")
                    async for _batch in sandbox.batches():
                        break
                finally:
                    await sandbox.kill()

            counted = Suspensions(life())
            await counted
            assert counted.count >= 4, "take, assign, the answer, the end"
            for at in range(counted.count):
                for after_s in (0.0, 0.005):
                    await cancelled_at(life, at, after_s)
            async with asyncio.timeout(20):
                await (await pool.take()).kill()
        await nothing_stays(made, containers, worker_id)


async def test_starts_given_up_at_random_moments(runtime: Any, containers: Any, worker_id: str) -> None:
    chance = random.Random(21)
    async with runtime() as made:

        async def give_up(seconds: float) -> None:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    await (await Sandbox.start(made)).kill()

        for _ in range(10):
            async with asyncio.TaskGroup() as group:
                for _ in range(4):
                    group.create_task(give_up(chance.uniform(0.0, 0.4)))
        await nothing_stays(made, containers, worker_id)
