"""What owners got, and who had trouble with what, outlives a process and is known to all."""

from __future__ import annotations

import asyncio
import contextlib
import shutil

import pytest

from orchestrator.protocol.client import DcpClient
from orchestrator.scheduler.account_keeper import AccountKeeper
from orchestrator.scheduler.app import KEYSTORE, SchedulerApp
from orchestrator.scheduler.groups import PUBLIC_GROUP_ID
from orchestrator.settings import SchedulerSettings
from orchestrator.wallet.keys import PrivateKey
from tests.integration.scheduler.actors import FakeWorker, authorization_of, deployer, fake_worker, until


async def _account(app: SchedulerApp, owner: str) -> float:
    """What it stands at, as the next request for work would see it."""
    await app.core.listing.fresh(app.core.clock())
    await AccountKeeper(app.core).share()
    pool = app.core.listing.board._pools.get(PUBLIC_GROUP_ID)
    return 0.0 if pool is None or owner not in pool.accounts else pool.accounts[owner].done


async def test_what_an_owner_got_is_known_after_a_restart(settings: SchedulerSettings) -> None:
    owner = PrivateKey.generate()
    async with SchedulerApp(settings) as app, deployer(app.url, identity=owner) as client:
        await client.deploy(dataRange={"start": 1, "end": 50, "step": 1}, estimationSlices=0)
        async with fake_worker(app.url) as worker:
            await worker.compute(await worker.take())
        got = await _account(app, owner.address)
        assert got > 0
    async with SchedulerApp(settings) as again:
        assert await _account(again, owner.address) == pytest.approx(got)


async def _fail_three_times(worker: FakeWorker) -> str:
    """The worker gives slices back as failed until it is kept from the job."""
    for _ in range(3):
        answer = await worker.take()
        [(job, [one, *_])] = answer["body"]["task"].items()
        await worker.give_back(job, [one["sliceNumber"]], "ENOPROGRESS", authorization_of(answer))
    return str(job)


async def test_a_ban_outlives_the_process(settings: SchedulerSettings) -> None:
    settings = settings.model_copy(update={"max_slice_failures": 100, "other_worker_s": 0.0})
    worker_id = ""
    async with SchedulerApp(settings) as app, deployer(app.url) as client, fake_worker(app.url, load=1.0) as worker:
        await client.deploy(dataRange={"start": 1, "end": 20, "step": 1}, estimationSlices=0)
        job = await _fail_three_times(worker)
        key = app.core.catalog.cached(job).key  # type: ignore[union-attr]
        worker_id = worker.id
        assert app.core.listing.bans.of(key, app.core.clock()) == {worker_id}
    async with SchedulerApp(settings) as again:
        await again.core.listing.fresh(again.core.clock())
        assert again.core.listing.bans.of(key, again.core.clock()) == {worker_id}


@pytest.mark.parametrize("database_url", ["postgres"], indirect=True)
async def test_other_processes_know_them(settings: SchedulerSettings) -> None:
    settings = settings.model_copy(update={"max_slice_failures": 100, "other_worker_s": 0.0})
    owner = PrivateKey.generate()
    async with contextlib.AsyncExitStack() as stack:
        app = await stack.enter_async_context(SchedulerApp(settings))
        folder = settings.state_dir.parent / "second"
        folder.mkdir()
        shutil.copy(settings.state_dir / KEYSTORE, folder)
        second = await stack.enter_async_context(SchedulerApp(settings.model_copy(update={"state_dir": folder})))
        client = await stack.enter_async_context(deployer(app.url, identity=owner))
        worker = FakeWorker(await stack.enter_async_context(DcpClient(PrivateKey.generate())), app.url, lambda x, _: x)
        worker.load = 1.0
        await second.core.listing.fresh(second.core.clock())
        await client.deploy(dataRange={"start": 1, "end": 20, "step": 1}, estimationSlices=0)
        job = await _fail_three_times(worker)
        key = app.core.catalog.cached(job).key  # type: ignore[union-attr]
        await until(lambda: key in second.core.listing._unposted)
        await second.core.listing.fresh(second.core.clock())
        assert second.core.listing.bans.of(key, second.core.clock()) == {worker.id}
        async with asyncio.timeout(20):
            await worker.compute(await worker.take())
        await AccountKeeper(app.core).share()
        assert await _account(second, owner.address) == pytest.approx(await _account(app, owner.address))
