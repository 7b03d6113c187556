"""Workers that leave, and workers that are there twice under one name."""

from __future__ import annotations

import asyncio
import contextlib
import urllib.parse
from typing import Any

from orchestrator.protocol.errors import ConnectionClosed
from orchestrator.scheduler.app import SchedulerApp
from orchestrator.settings import SchedulerSettings
from tests.integration.scheduler.actors import FakeWorker, authorization_of, deployer, fake_worker, until
from tests.parts.relays import CuttableProxy


def numbers(answer: Any, job: str) -> list[int]:
    return [one["sliceNumber"] for one in answer["body"].get("task", {}).get(job, [])]


async def test_a_worker_that_has_ended_its_session_is_waited_for_no_longer(app: SchedulerApp) -> None:
    """Workers of the v4 dialect say no other farewell. What failed at one worker waits for others that are there."""
    async with deployer(app.url) as client, fake_worker(app.url) as stays:
        job = await client.deploy(dataRange={"start": 1, "end": 1, "step": 0})
        first = await stays.take()
        async with fake_worker(app.url) as leaves:
            asking = asyncio.ensure_future(leaves.take())
            await until(lambda: app.roster.statistics()["workers"] == 2)
        with contextlib.suppress(ConnectionClosed):
            await asking
        await until(lambda: app.roster.statistics()["workers"] == 1)
        await stays.give_back(job, [1], "ENOPROGRESS", authorization_of(first))
        assert numbers(await stays.take(), job) == [1]


async def test_a_worker_without_a_transport_is_not_waited_for(app: SchedulerApp) -> None:
    port = urllib.parse.urlsplit(app.url).port
    assert port is not None
    async with (
        CuttableProxy(port).serve() as proxy,
        deployer(app.url) as client,
        fake_worker(app.url) as stays,
        fake_worker(f"http://127.0.0.1:{proxy.port}/") as killed,
    ):
        job = await client.deploy(dataRange={"start": 1, "end": 1, "step": 0})
        first = await stays.take()
        await killed.take()
        proxy.target_port = 1  # nobody there
        proxy.cut()
        await until(lambda: app.server.statistics()["resumable"] >= 1)
        await stays.give_back(job, [1], "ENOPROGRESS", authorization_of(first))
        assert numbers(await stays.take(), job) == [1]


async def test_an_official_worker_that_has_slices_is_not_kept_waiting_for_more(settings: SchedulerSettings) -> None:
    """It begins none of them before it is answered. Ours, which name their requests, compute meanwhile."""
    two = {"start": 1, "end": 2, "step": 1}
    patient = settings.model_copy(update={"long_poll_s": 60.0, "estimation_slices": 0})
    async with (
        SchedulerApp(patient) as app,
        deployer(app.url) as client,
        fake_worker(app.url) as official,
        fake_worker(app.url) as own,
    ):
        job = await client.deploy(dataRange=two)
        given = await official.take()
        assert numbers(given, job) == [1, 2]
        async with asyncio.timeout(30):
            assert numbers(await official.take(), job) == []
            await official.result(job, 1, 1, authorization_of(given))
            assert numbers(await official.take(), job) == []
        await official.result(job, 2, 2, authorization_of(given))
        waiting = asyncio.ensure_future(official.take())
        await until(lambda: app.distributor.statistics()["resting"] == 1)
        job = await client.deploy(dataRange=two)
        assert len(numbers(await waiting, job)) == 2, "it had nothing, and rested"
        kept = asyncio.ensure_future(own.take(requestId="a"))
        await until(lambda: app.distributor.statistics()["resting"] == 1)
        job = await client.deploy(dataRange=two)
        assert len(numbers(await kept, job)) == 2
        kept = asyncio.ensure_future(own.take(requestId="b"))
        await until(lambda: app.distributor.statistics()["resting"] == 1)
        kept.cancel()


async def test_only_workers_of_ours_are_told_to_drop_a_job(app: SchedulerApp) -> None:
    """Official ones would begin nothing any more. What they compute of it is refused when they report it."""
    async with deployer(app.url) as client, fake_worker(app.url) as official, fake_worker(app.url) as own:
        job = await client.deploy(dataRange={"start": 1, "end": 2, "step": 1})
        given = await official.take(targetLoad={"cpu": 1})
        assert len(numbers(given, job)) == 1
        assert len(numbers(await own.take(targetLoad={"cpu": 1}, requestId="a"), job)) == 1
        heard: dict[FakeWorker, list[Any]] = {official: [], own: []}
        routers = {worker: await commanded(worker, app.url, heard[worker]) for worker in heard}
        await client.submit_service.request("cancelJob", {"job": job, "reason": "enough"})
        await until(lambda: bool(heard[own]))
        assert "remove" in str(heard[own])
        await listen(routers[official], official)  # answered after whatever was sent before
        assert heard[official] == []
        told = await official.result(job, numbers(given, job)[0], 1, authorization_of(given))
        assert (told["accepted"], told["slicePaymentAmount"]) == (False, "0")


async def commanded(worker: FakeWorker, url: str, heard: list[Any]) -> Any:
    async def hear(_: str, data: object) -> str:
        heard.append(data)
        return "success"

    router = worker.client.connect(f"{url}eventRouter/", on_request=hear)
    await listen(router, worker)
    return router


async def listen(router: Any, worker: FakeWorker) -> None:
    options = {"filter": {"target": worker.id}}
    await router.request("subscribeMany", {"schedmsgEvents": ["schedmsg::command"], "options": options})


async def test_a_worker_that_is_there_twice_keeps_what_its_other_self_has(app: SchedulerApp) -> None:
    """Seen with two `localExec` of one client: when one ended, the other's slices were computed again."""
    async with deployer(app.url) as client, fake_worker(app.url) as worker, fake_worker(app.url) as other:
        job = await client.deploy(dataRange={"start": 1, "end": 2, "step": 1})
        twin = FakeWorker(worker.client, app.url, worker.work, load=1)
        twin.id = worker.id
        # The estimation gives one slice to a core.
        mine = await worker.take(targetLoad={"cpu": 1})
        its = await twin.take(targetLoad={"cpu": 1})
        assert len(numbers(mine, job)) == len(numbers(its, job)) == 1
        await twin.tasks.request(
            "requestTask@3",
            {"paymentAddress": twin.payment.address, "fetchState": 16, "returnAllSlices": twin.holds_nothing()},
        )
        assert numbers(await other.take(), job) == numbers(its, job)
        assert numbers(await other.take(), job) == []
        await worker.compute(mine)
        assert worker.answers[0]["accepted"]


async def test_a_slice_that_every_worker_has_failed_waits_for_none_of_them(app: SchedulerApp) -> None:
    """Seen with a slice that throws, and two workers: its last attempt began a minute later."""
    async with deployer(app.url) as client, fake_worker(app.url) as one, fake_worker(app.url) as other:
        job = await client.deploy(dataRange={"start": 1, "end": 1, "step": 1})
        first = await one.take()
        assert numbers(first, job) == [1]
        asking = asyncio.ensure_future(other.take())
        await until(lambda: other.id in app.roster.entries())
        await one.give_back(job, [1], "ENOPROGRESS", authorization_of(first))
        second = await asking
        assert numbers(second, job) == [1]
        await other.give_back(job, [1], "ENOPROGRESS", authorization_of(second))
        last = await one.take()
        assert numbers(last, job) == [1]
        await one.give_back(job, [1], "ENOPROGRESS", authorization_of(last))
        assert (await client.wait_for("stop"))[0]["code"] == "ETOOMANYERRORS"


async def test_a_discrete_job_goes_round_all_workers_before_one_gets_it_again(app: SchedulerApp) -> None:
    async with deployer(app.url) as client, fake_worker(app.url) as one, fake_worker(app.url) as other:
        job = await client.deploy(dataRange={"start": 1, "end": 3, "step": 1}, discrete=True, estimationSlices=None)
        first = await one.take()
        asking = asyncio.ensure_future(other.take(previouslyWorkedJobs=[job]))
        await until(lambda: other.id in app.roster.entries())
        assert numbers(first, job) == [1]
        await one.compute(first)
        assert numbers(await asking, job) == []
        again = await one.take(previouslyWorkedJobs=[job])
        assert numbers(again, job) == [2]
