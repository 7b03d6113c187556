"""Workers killed at two hundred random moments: whatever they were at, the next look of a reaper leaves nothing."""

from __future__ import annotations

import asyncio
import os
import pathlib
import random
import sys
from typing import Any

import pytest

from orchestrator.worker.docker_runtime.reaper import LABEL_SANDBOX, LABEL_WORKER

pytestmark = pytest.mark.docker

ROOT = pathlib.Path(__file__).parents[3]
LIVES = 200
NURSERIES = 4
#: Longest life; most of it is used by the first two sandboxes, from their creation to their removal.
LONGEST_S = 0.7


class Nursery:
    """The other end of `churn.py`."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process

    @classmethod
    async def open(cls) -> Nursery:
        pipe = asyncio.subprocess.PIPE
        return cls(
            await asyncio.create_subprocess_exec(
                sys.executable, "-m", "tests.integration.worker_runtime.churn", cwd=ROOT, stdin=pipe, stdout=pipe
            )
        )

    async def live(self, worker: str, seconds: float, since: str) -> None:
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.write(f"{worker} {seconds:.4f} {since}\n".encode())
        assert (await self.process.stdout.readline()).decode().strip() == worker

    async def close(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        await self.process.wait()


def containers_of(engine: Any, prefix: str) -> list[Any]:
    labelled = engine.api.containers(all=True, filters={"label": LABEL_SANDBOX})
    return [item for item in labelled if item["Labels"].get(LABEL_WORKER, "").startswith(prefix)]


def cgroups_of(prefix: str) -> list[pathlib.Path]:
    return list(pathlib.Path("/sys/fs/cgroup").glob(f"**/dcp-sandboxes/{prefix}*"))


@pytest.mark.timeout(300)
async def test_nothing_stays_of_workers_killed_at_random_moments(
    runtime: Any, worker_id: str, engine: Any, working: Any, take: Any
) -> None:
    chance = random.Random(20)
    prefix = f"{worker_id}-killed-"
    moments = [
        (f"{prefix}{number}", chance.uniform(0.0, LONGEST_S), chance.choice(["birth", "ready", "ready", "ready"]))
        for number in range(LIVES)
    ]
    stranger = engine.containers.create("dcp-evaluator:local", labels={LABEL_SANDBOX: "0b", "owner": "somebody"})
    try:
        async with runtime(reap_period_s=3600.0) as living:
            mine = await working(living, "(x) => x")

            async def raise_some(lives: list[tuple[str, float, str]]) -> None:
                nursery = await Nursery.open()
                for life in lives:
                    await nursery.live(*life)
                await nursery.close()

            async with asyncio.TaskGroup() as nurseries:
                for number in range(NURSERIES):
                    nurseries.create_task(raise_some(moments[number::NURSERIES]))
            await asyncio.sleep(1.0)  # a create that was under way in the Engine
            await living.reap()
            left = await asyncio.to_thread(containers_of, engine, prefix)
            assert left == []
            for _ in range(2):  # first what sandboxes had, then the empty folders of workers
                for folder in cgroups_of(prefix):
                    for one in (*folder.glob("*/"), folder):
                        os.utime(one, (1.0, 1.0))  # half an hour later
                await living.reap()
            assert cgroups_of(prefix) == []
            mine.submit(1, "data:application/json,1")
            assert len(await take(mine, 1)) == 1
            assert len(cgroups_of(worker_id)) > 0
            await mine.kill()
        stranger.reload()
    finally:
        stranger.remove(force=True)
