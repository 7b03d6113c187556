"""Slices that were leased in an answer which their worker never read do not wait for the end of the lease."""

from __future__ import annotations

import asyncio

from orchestrator.protocol.client import DcpClient
from orchestrator.scheduler.app import SchedulerApp
from orchestrator.settings import SchedulerSettings
from tests.integration.scheduler.actors import deployer, fake_worker, until
from tests.integration.scheduler.test_when_things_go_wrong import Clock, numbers

ONE = {"start": 1, "end": 1, "step": 1}


async def test_what_was_leased_in_a_lost_answer_is_ready_once_the_worker_says_so(app: SchedulerApp) -> None:
    """It costs nothing of the slice's budget, and what the worker does hold stays its own."""
    async with deployer(app.url) as client, fake_worker(app.url) as worker, fake_worker(app.url) as other:
        job = await client.deploy(dataRange={"start": 1, "end": 2, "step": 1})
        kept = await worker.take(requestId="first", targetLoad={"cpu": 1})
        assert numbers(kept, job) == [1]
        for turn in range(app.settings.max_slice_losses + 1):
            for one in (worker, other):
                assert numbers(await one.take(requestId=f"turn {turn}"), job) == [2], (
                    "it did not come back, or slice 1 did"
                )
                await one.take(fetchState=2, lostRequests=[f"turn {turn}"])


async def test_names_of_requests_are_each_workers_own(app: SchedulerApp) -> None:
    async with deployer(app.url) as client, fake_worker(app.url) as worker, fake_worker(app.url) as thief:
        job = await client.deploy(dataRange=ONE)
        assert numbers(await worker.take(requestId="mine"), job) == [1]
        await thief.take(fetchState=2, lostRequests=["mine"])
        thief.id = worker.id  # the id alone is not enough
        await thief.take(fetchState=2, lostRequests=["mine"])
        assert numbers(await thief.take(), job) == []


async def test_a_request_that_nobody_waits_for_any_more_gets_nothing(app: SchedulerApp) -> None:
    """A session was lost while its request waited for work; the worker says so before there is any."""
    async with deployer(app.url) as client, fake_worker(app.url) as worker, fake_worker(app.url) as other:
        waiting = asyncio.ensure_future(worker.take(requestId="lost"))
        await until(lambda: app.roster.statistics()["workers"] == 1)
        await worker.take(fetchState=2, lostRequests=["lost"])
        job = await client.deploy(dataRange=ONE)
        assert numbers(await waiting, job) == []
        assert numbers(await worker.take(requestId="lost"), job) == [], "one that comes after its abandonment, neither"
        assert numbers(await other.take(), job) == [1]


async def test_a_worker_that_starts_again_leaves_no_request_behind(app: SchedulerApp) -> None:
    async with deployer(app.url) as client, fake_worker(app.url) as worker:
        await worker.take(fetchState=2)  # it has its session
        waiting = asyncio.ensure_future(worker.take())
        await until(lambda: app.roster.statistics()["workers"] == 1)
        await worker.take(fetchState=16, returnAllSlices=worker.holds_nothing())
        job = await client.deploy(dataRange=ONE)
        assert numbers(await waiting, job) == []
        assert numbers(await worker.take(), job) == [1]


async def test_nothing_is_leased_to_somebody_who_is_not_there(app: SchedulerApp) -> None:
    """A worker that was killed leaves a session that could be resumed, and in it a request that waits for work."""
    async with deployer(app.url) as client, fake_worker(app.url) as other:
        dead = DcpClient(other.client.identity)
        async with dead:
            tasks = dead.connect(f"{app.url}taskDistributor/")
            asked = asyncio.ensure_future(tasks.request("requestTask@3", other.request()))
            await until(lambda: app.roster.statistics()["workers"] == 1)
            async with asyncio.TaskGroup() as group:
                runner = tasks._runner
                assert runner is not None
                runner.cancel()  # killed: its socket goes, and nobody says goodbye
                group.create_task(asyncio.wait([runner]))
            job = await client.deploy(dataRange=ONE)
            assert numbers(await other.take(), job) == [1]
            asked.cancel()


async def test_a_lost_answer_is_remembered_across_a_restart(settings: SchedulerSettings) -> None:
    clock = Clock()
    async with fake_worker("http://127.0.0.1:9/") as worker:
        async with SchedulerApp(settings, clock=clock) as app, deployer(app.url) as client:
            worker.tasks = worker.client.connect(f"{app.url}taskDistributor/")
            job = await client.deploy(dataRange=ONE)
            assert numbers(await worker.take(requestId="lost"), job) == [1]
        async with SchedulerApp(settings, clock=clock) as app:
            worker.tasks = worker.client.connect(f"{app.url}taskDistributor/")
            await worker.take(fetchState=2)
            assert numbers(await worker.take(requestId="next", lostRequests=["lost"]), job) == [1]
