"""Starts that the Worker gave up and the Engine did not, and Workers that end while it is away."""

# ruff: noqa: ASYNC110  (these tests poll the Engine, which sends no events of creates)

from __future__ import annotations

import asyncio
import pathlib
from collections.abc import AsyncIterator
from typing import Any

import pytest

from orchestrator.worker.docker_runtime import RuntimeUnavailable
from orchestrator.worker.pool import PoolSettings, SandboxPool
from orchestrator.worker.sandbox import Sandbox
from tests.parts.docker_proxy import DockerProxy

pytestmark = pytest.mark.docker

ENGINE = pathlib.Path("/var/run/docker.sock")
LATE_S = 2.0
CALL_S = 1.0


@pytest.fixture
async def late(tmp_path: pathlib.Path) -> AsyncIterator[DockerProxy]:
    """In front of the Engine; creates reach it when nobody waits for them any more."""
    proxy = DockerProxy(ENGINE, tmp_path / "p.sock")
    proxy.delay = lambda line: LATE_S if "/containers/create" in line else 0.0
    async with proxy.serve():
        yield proxy


async def test_a_create_that_the_engine_takes_up_late_is_removed_before_the_end(
    runtime: Any, containers: Any, worker_id: str, late: DockerProxy
) -> None:
    async with runtime(docker_host=late.host, call_timeout_s=CALL_S) as made:
        with pytest.raises(RuntimeUnavailable):
            await Sandbox.start(made)
    async with asyncio.timeout(20):
        await late.created.wait()
    assert await asyncio.to_thread(containers, worker_id) == []


async def test_it_is_removed_soon_while_the_worker_goes_on(
    runtime: Any, containers: Any, worker_id: str, late: DockerProxy
) -> None:
    async with runtime(docker_host=late.host, call_timeout_s=CALL_S, reap_period_s=3600.0) as made:
        with pytest.raises(RuntimeUnavailable):
            await Sandbox.start(made)
        async with asyncio.timeout(20):
            await late.created.wait()
            while await asyncio.to_thread(containers, worker_id):
                await asyncio.sleep(0.1)


async def test_an_engine_that_is_frozen_while_the_worker_ends_removes_all_when_it_goes_on(
    runtime: Any, containers: Any, worker_id: str, tmp_path: pathlib.Path
) -> None:
    proxy = DockerProxy(ENGINE, tmp_path / "p.sock")
    async with proxy.serve(), runtime(docker_host=proxy.host, call_timeout_s=CALL_S) as made:
        await Sandbox.start(made)
        proxy.delay = lambda _line: 60.0
        asyncio.get_running_loop().call_later(2.5 * CALL_S, setattr, proxy, "delay", lambda _line: 0.0)
    assert await asyncio.to_thread(containers, worker_id) == []


async def test_a_pool_ends_although_the_engine_is_away(runtime: Any, tmp_path: pathlib.Path) -> None:
    """Its starts wait for the Engine to be back; whoever ends the Worker does not."""
    proxy, lost = DockerProxy(ENGINE, tmp_path / "p.sock"), asyncio.Event()
    async with proxy.serve(), runtime(docker_host=proxy.host) as made:
        async with asyncio.timeout(20), SandboxPool(made, PoolSettings(capacity=1, warm=1)) as pool:
            await (await pool.take()).kill()
            pool.on_availability(lambda failure: lost.set() if isinstance(failure, RuntimeUnavailable) else None)
            proxy.go_away()
            taking = asyncio.ensure_future(pool.take())
            await lost.wait()
            taking.cancel()
        proxy.away = False
