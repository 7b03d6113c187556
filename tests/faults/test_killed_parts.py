"""Parts are killed in the middle of a job: it completes, no result comes twice, no container is left."""

from __future__ import annotations

import asyncio
import pathlib
import subprocess

import pytest

from tests.e2e import harness
from tests.faults.parts import Engine, Parts, assert_complete, deployed, running_parts
from tests.parts.containers import containers_of

pytestmark = [pytest.mark.docker, pytest.mark.npm, pytest.mark.timeout(600)]


async def test_the_worker_is_killed_and_restarted(
    parts: Parts, wallet: harness.Wallet, node: pathlib.Path, npm_modules: pathlib.Path
) -> None:
    async with deployed(parts, wallet, node, npm_modules) as client:
        await client.wait_for("result", count=20)
        assert parts.worker
        await parts.worker.kill()
        await parts.start_worker()
        await assert_complete(client, parts)


async def test_the_scheduler_is_killed_and_restarted(
    parts: Parts, wallet: harness.Wallet, node: pathlib.Path, npm_modules: pathlib.Path
) -> None:
    async with deployed(parts, wallet, node, npm_modules) as client:
        await client.wait_for("result", count=20)
        assert parts.scheduler
        await parts.scheduler.kill()
        await parts.start_scheduler()
        # An event whose acknowledgement died with the Scheduler comes again: the client tells such repeats apart.
        await assert_complete(client, parts, duplicates_allowed=True)


async def test_a_sandbox_is_killed_from_outside(
    parts: Parts, wallet: harness.Wallet, node: pathlib.Path, npm_modules: pathlib.Path
) -> None:
    async with deployed(parts, wallet, node, npm_modules) as client:
        await client.wait_for("result", count=20)
        for container in containers_of(parts.worker_id()):
            await asyncio.to_thread(subprocess.run, ["docker", "kill", container], check=False, capture_output=True)
        await assert_complete(client, parts)


@pytest.mark.timeout(240)
async def test_the_docker_engine_is_restarted(
    engine: Engine, tmp_path: pathlib.Path, wallet: harness.Wallet, node: pathlib.Path, npm_modules: pathlib.Path
) -> None:
    async with running_parts(tmp_path, engine.env) as parts, deployed(parts, wallet, node, npm_modules) as client:
        await client.wait_for("result", count=20)
        await asyncio.to_thread(engine.stop)
        await asyncio.to_thread(engine.start)
        await assert_complete(client, parts)
    assert containers_of(parts.worker_id(), engine.host) == []
