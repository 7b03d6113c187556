"""The pool: ready ahead of need, replaced when lost, bounded."""

# ruff: noqa: ASYNC110  (these tests poll the Engine and the kernel, which send no events)

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import pytest

from orchestrator.worker import pool as pool_module
from orchestrator.worker import sandbox_events as ev
from orchestrator.worker.docker_runtime import ContainerRefused, RuntimeUnavailable
from orchestrator.worker.pool import PoolSettings, SandboxPool
from orchestrator.worker.pool_sizing import Deferral
from orchestrator.worker.sandbox import Sandbox, State

pytestmark = pytest.mark.docker


async def until(pool: SandboxPool, ready: int) -> None:
    async with asyncio.timeout(30):
        while pool.ready != ready:
            await asyncio.sleep(0.02)


async def test_a_warm_sandbox_is_handed_out_at_once(runtime: Any) -> None:
    async with runtime() as made, SandboxPool(made, PoolSettings(capacity=4, warm=2)) as pool:
        await until(pool, 2)
        for _ in range(2):
            assert (await pool.take()).state is State.READY
        statistics = pool.statistics()
        assert statistics["hit_rate"] == 1.0
        assert statistics["hand_out_s"]["p99"] < 0.005
        await until(pool, 2)  # refilled while two are in use
        assert pool.statistics()["in_use"] == 2
        assert (await pool.describe()).pipeline_depth == 256


async def test_taking_waits_for_a_cold_start(runtime: Any) -> None:
    async with runtime() as made, SandboxPool(made, PoolSettings(capacity=2, warm=0)) as pool:
        sandboxes = await asyncio.gather(pool.take(), pool.take())
        assert len({sandbox.id for sandbox in sandboxes}) == 2
        assert pool.statistics()["hit_rate"] == 0.0
        assert pool.ready == 0


async def test_capacity_bounds_what_is_in_use(runtime: Any, containers: Any, worker_id: str) -> None:
    async with runtime() as made, SandboxPool(made, PoolSettings(capacity=1, warm=1)) as pool:
        first = await pool.take()
        await until(pool, 1)
        waiting = asyncio.ensure_future(pool.take())
        await asyncio.sleep(0)
        assert not waiting.done()
        assert len(containers(worker_id)) == 2
        await first.kill()
        second = await waiting
        assert second is not first
        assert pool.statistics()["in_use"] == 1


async def test_a_cancelled_taker_takes_none(runtime: Any) -> None:
    async with runtime() as made, SandboxPool(made, PoolSettings(capacity=1, warm=0)) as pool:
        waiting = asyncio.ensure_future(pool.take())
        await asyncio.sleep(0)
        waiting.cancel()
        sandbox = await pool.take()
        assert sandbox.alive
        statistics = pool.statistics()
        assert (statistics["in_use"], statistics["waiting"]) == (1, 0)


async def test_a_ready_sandbox_that_dies_is_replaced(runtime: Any, engine: Any) -> None:
    async with runtime() as made, SandboxPool(made, PoolSettings(capacity=2, warm=1)) as pool:
        await until(pool, 1)
        [victim] = pool._ready
        died: asyncio.Future[Sandbox] = asyncio.get_running_loop().create_future()
        victim.on_end(died.set_result)
        await asyncio.to_thread(engine.containers.get(victim._container.id).kill)
        async with asyncio.timeout(10):
            await died
        assert pool.ready == 0
        await until(pool, 1)
        assert (await pool.take()).id != victim.id


async def told_when_starts_fail(
    runtime: Any, monkeypatch: pytest.MonkeyPatch, *failures: Exception
) -> tuple[list[Any], dict[str, Any]]:
    """What a pool says of its availability until it has a sandbox after these failures, and its statistics then."""
    real, left = Sandbox.start, list(failures)

    async def start(*arguments: Any, **options: Any) -> Sandbox:
        if left:
            raise left.pop(0)
        return await real(*arguments, **options)

    monkeypatch.setattr(Sandbox, "start", start)
    told: list[Any] = []
    async with runtime() as made, SandboxPool(made, PoolSettings(capacity=1, warm=0, creates_at_once=1)) as pool:
        pool.on_availability(told.append)
        async with asyncio.timeout(20):
            await pool.take()
        assert pool.failure is None
        return told, pool.statistics()


async def test_failures_are_told_and_tried_again(runtime: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    told, statistics = await told_when_starts_fail(runtime, monkeypatch, ContainerRefused("no"), ContainerRefused("no"))
    assert statistics["failed"] == 2
    assert [failure is None for failure in told] == [False, True]


async def test_leaving_kills_all(runtime: Any, containers: Any, worker_id: str) -> None:
    async with runtime() as made:
        async with SandboxPool(made, PoolSettings(capacity=2, warm=1)) as pool:
            taken = await pool.take()
            await until(pool, 1)
        assert taken.state is State.ENDED
        assert containers(worker_id) == []


async def test_a_burst_of_takers_makes_the_pool_grow(runtime: Any) -> None:
    """Four at once: how fast the machine makes the next ones does not matter."""
    sized = PoolSettings(capacity=4, warm=None, warm_least=1, warm_most=3)
    async with runtime() as made, SandboxPool(made, replace(sized, warm=4)) as pool:
        await until(pool, 4)
        pool.settings = sized
        assert pool.target == 1
        taken = await asyncio.gather(*(pool.take() for _ in range(4)))
        assert pool.target == 3
        await until(pool, 3)
        await asyncio.gather(*(sandbox.kill() for sandbox in taken))
        before = pool.statistics()["hits"]
        await asyncio.gather(*(pool.take() for _ in range(3)))
        assert pool.statistics()["hits"] - before == 3


async def test_one_that_waited_long_is_renewed_and_one_too_many_given_up(
    runtime: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pool_module, "_LOOK_EVERY_S", 0.05)
    async with runtime() as made, SandboxPool(made, PoolSettings(capacity=2, warm=1, warm_max_age_s=0.2)) as pool:
        await until(pool, 1)
        [old] = pool._ready
        async with asyncio.timeout(20):
            while old.state is not State.ENDED:
                await asyncio.sleep(0.02)
        assert old.cause is not None and old.cause.detail == "unused for long"
        async with asyncio.timeout(20):
            await (await pool.take()).kill()
    async with runtime() as made, SandboxPool(made, PoolSettings(capacity=2, warm=2)) as pool:
        await until(pool, 2)
        pool.settings = replace(pool.settings, warm=1)
        await until(pool, 1)
        assert pool.statistics()["dropped"] == {"more than are needed": 1}


async def test_starts_ahead_of_need_wait_while_slices_run_and_those_for_a_taker_do_not(
    runtime: Any, working: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The share is so small that the budget is used up by the first start."""
    settings = PoolSettings(capacity=3, warm=1, refill_cpu_share=0.0001, cores=1, creates_at_once=1)
    async with runtime() as made, SandboxPool(made, settings) as pool:
        pool._deferral = Deferral(longest_s=0.0)
        await until(pool, 1)
        busy = await pool.take()
        await busy.assign(ev.Assignment("job", "() => { for (;;); }", ()))
        await until(pool, 1)
        busy.submit(1, "data:,")
        async with asyncio.timeout(20):
            while not pool.statistics()["held_back"]:
                await (await pool.take()).kill()
        assert (pool.ready, pool.statistics()["starting"]) == (0, 0)
        async with asyncio.timeout(10):
            await pool.take()
        assert pool.ready == 0
        await busy.kill()
        await until(pool, 1)


async def test_starts_ahead_of_need_wait_for_a_free_core_as_long_as_one_is_at_work(runtime: Any) -> None:
    """No machine has as many cores as are to be free here."""
    async with runtime() as made, SandboxPool(made, PoolSettings(capacity=2, warm=1)) as pool:
        pool._deferral = Deferral(free=1e9)
        await until(pool, 1)
        sandbox = await pool.take()
        async with asyncio.timeout(20):
            while pool.statistics()["deferred"] < 3:
                await asyncio.sleep(0.02)
        assert (pool.ready, pool.statistics()["starting"]) == (0, 0)
        await (await pool.take()).kill()  # who needs one gets it
        assert pool.ready == 0
        await sandbox.kill()
        await until(pool, 1)


async def test_the_loss_of_the_engine_is_told_although_it_refused_a_start_before(
    runtime: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An Engine that is being stopped refuses at first, and is gone a moment later."""
    gone = RuntimeUnavailable("gone", "it is gone", "start it")
    told, _ = await told_when_starts_fail(runtime, monkeypatch, ContainerRefused("stopping"), gone)
    assert [type(failure) for failure in told] == [ContainerRefused, RuntimeUnavailable, type(None)]
