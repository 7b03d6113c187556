"""Several Schedulers on one PostgreSQL: what happens at one is heard at the other, and clients move between them."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import pathlib
import shutil
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest

from orchestrator.bank import Bank
from orchestrator.errors import InvalidInput
from orchestrator.protocol.client import DcpClient
from orchestrator.protocol.errors import ConnectionLost
from orchestrator.scheduler.app import KEYSTORE, SchedulerApp
from orchestrator.scheduler.store import cluster as store
from orchestrator.settings import SchedulerSettings
from orchestrator.wallet.keys import PrivateKey
from tests.integration.scheduler.actors import FakeWorker, authorization_of, deployer, fake_worker, serving, until
from tests.parts.relays import Balancer, CuttableProxy

Another = Callable[[], SchedulerSettings]


@pytest.fixture(params=["postgres"])
def database_url(request: pytest.FixtureRequest, postgres_url: str) -> str:
    return postgres_url


@pytest.fixture
def another(settings: SchedulerSettings, tmp_path: pathlib.Path) -> Another:
    """Settings of a further process with the same key; call it once the first one runs."""
    count = iter(range(100))

    def make() -> SchedulerSettings:
        folder = tmp_path / f"another-{next(count)}"
        folder.mkdir()
        shutil.copy(settings.state_dir / KEYSTORE, folder)
        return settings.model_copy(update={"state_dir": folder})

    return make


@pytest.fixture
async def second(app: SchedulerApp, another: Another) -> AsyncIterator[SchedulerApp]:
    async with SchedulerApp(another()) as running:
        yield running


async def test_events_of_one_process_reach_the_clients_of_another(app: SchedulerApp, second: SchedulerApp) -> None:
    async with deployer(app.url) as client, serving(second.url, lambda x, _: x * 2) as worker:
        job = await client.deploy(dataRange={"start": 1, "end": 100, "step": 1})
        await client.wait_for("stop")
        assert client.decoded() == {n: 2 * n for n in range(1, 101)}
        assert len(client.of("result")) == 100
        async with app.core.database.snapshot() as tx:
            bank = Bank()
            assert await bank.balance(tx, worker.payment.address) == 100 * app.settings.market_slice_value
            assert (await bank.audit(tx)).problems == ()
        assert await client.results.request("fetchResult", {"job": job, "range": [1, 2]})


async def test_workers_at_two_processes_agree(app: SchedulerApp, second: SchedulerApp) -> None:
    async with (
        deployer(app.url) as client,
        serving(app.url, lambda x, _: -x) as one,
        serving(second.url, lambda x, _: -x) as other,
    ):
        await client.deploy(dataRange={"start": 1, "end": 20, "step": 1}, redundancy=True)
        await client.wait_for("stop")
        assert client.decoded() == {n: -n for n in range(1, 21)}
        assert len(client.of("result")) == 20
        async with app.core.database.snapshot() as tx:
            bank = Bank()
            for worker in (one, other):
                assert await bank.balance(tx, worker.payment.address) == 20 * app.settings.market_slice_value
            assert (await bank.audit(tx)).problems == ()


async def test_a_waiting_worker_hears_of_work_at_another_process(settings: SchedulerSettings, another: Another) -> None:
    async with (
        SchedulerApp(settings) as app,
        SchedulerApp(another().model_copy(update={"long_poll_s": 60.0})) as second,
        deployer(app.url) as client,
        fake_worker(second.url) as worker,
    ):
        asked = asyncio.ensure_future(worker.take())
        await until(lambda: "worker" in str(second.roster.entries().get(worker.id)))
        await client.deploy(dataRange={"start": 1, "end": 2, "step": 1})
        async with asyncio.timeout(20):
            assert (await asked)["body"]["task"]


async def test_emitted_events_and_commands_cross(app: SchedulerApp, second: SchedulerApp) -> None:
    async with deployer(app.url) as client, fake_worker(second.url) as worker:
        job = await client.deploy(dataRange={"start": 1, "end": 2, "step": 1})
        answer = await worker.take(requestId="ours")
        heard: asyncio.Future[object] = asyncio.get_running_loop().create_future()

        async def hear(_: str, data: object) -> str:
            if not heard.done():
                heard.set_result(data)
            return "success"

        router = worker.client.connect(f"{second.url}eventRouter/", on_request=hear)
        await router.request(
            "subscribeMany", {"schedmsgEvents": ["schedmsg::command"], "options": {"filter": {"target": worker.id}}}
        )
        [number, *_] = [one["sliceNumber"] for one in answer["body"]["task"][job]]
        await worker.emit(job, number, "custom", {"customEvent": "hello", "data": 1}, authorization_of(answer))
        [custom] = await client.wait_for("custom")
        assert custom["customEvent"] == "hello"
        await client.submit_service.request("cancelJob", {"job": job, "reason": "enough"})
        async with asyncio.timeout(20):
            assert "remove" in str(await heard)


async def test_workers_are_known_to_all_processes(app: SchedulerApp, second: SchedulerApp) -> None:
    async with fake_worker(second.url) as worker, deployer(app.url) as client:
        job = await client.deploy(dataRange={"start": 1, "end": 1, "step": 1})
        answer = await worker.take()
        assert second.core.cluster is not None
        assert app.core.cluster is not None
        await second.core.cluster.write_workers()
        await app.core.cluster.read_workers()
        assert app.roster.entries()[worker.id] == second.roster.entries()[worker.id]
        assert app.roster.load(app.core.clock()) == worker.load
        await worker.give_back(job, [1], "EWORK", authorization_of(answer))
        await worker.take(fetchState=16, returnAllSlices=worker.holds_nothing())
        await second.core.cluster.write_workers()
        await until(lambda: worker.id not in app.roster.entries())


async def share(*apps: SchedulerApp) -> None:
    """Tell of workers now, not within a second."""
    for one in apps:
        assert one.core.cluster is not None
        await one.core.cluster.write_workers()
    for one in apps:
        assert one.core.cluster is not None
        await one.core.cluster.read_workers()


async def test_a_failed_slice_waits_for_no_worker_that_another_process_has_lost(
    app: SchedulerApp, second: SchedulerApp
) -> None:
    """Its results went to this process, so that both have heard it."""
    async with (
        CuttableProxy(second.server.port).serve() as proxy,
        deployer(app.url) as client,
        fake_worker(app.url) as stays,
        fake_worker(proxy.url) as killed,
    ):
        job = await client.deploy(dataRange={"start": 1, "end": 2, "step": 1})
        answer = await killed.take(targetLoad={"cpu": 1})
        await share(app, second)
        killed.results = killed.client.connect(f"{app.url}resultSubmitter/")
        await killed.compute(answer)
        await share(app, second)
        first = await stays.take()
        [number] = [one["sliceNumber"] for one in first["body"]["task"][job]]
        proxy.target_port = 1  # nobody there
        proxy.cut()
        await until(lambda: second.server.statistics()["resumable"] >= 1)
        await share(second, app)
        await until(lambda: killed.id not in app.roster.entries())
        await share(app, second)
        assert killed.id not in app.roster.entries()
        await stays.give_back(job, [number], "ENOPROGRESS", authorization_of(first))
        again = await stays.take()
        assert [one["sliceNumber"] for one in again["body"]["task"][job]] == [number]


async def test_workers_of_a_process_that_was_killed_are_not_waited_for(app: SchedulerApp, second: SchedulerApp) -> None:
    async with fake_worker(second.url) as worker:
        await worker.take()
        await share(second, app)
        assert worker.id in app.roster.entries()
        async with app.core.database.transaction() as tx:  # as if it had been silent for long
            assert second.core.cluster is not None
            await store.leave(tx, second.core.cluster.process)
        assert app.core.cluster is not None
        await app.core.cluster.beat()
        assert worker.id not in app.roster.entries()


async def again(call: Callable[[], Awaitable[Any]]) -> Any:
    """What a client does whose session was closed: the same in a new one."""
    while True:
        try:
            return await call()
        except ConnectionLost:
            continue


async def test_a_client_goes_on_at_another_process(app: SchedulerApp, second: SchedulerApp) -> None:
    """The balancer sends it elsewhere: its session is taken over there, closed in order, and it begins anew."""
    balancer = Balancer([app.server.port, second.server.port])
    async with balancer.serve(), deployer(app.url) as client, DcpClient(PrivateKey.generate()) as dcp:
        worker = FakeWorker(dcp, balancer.url, lambda x, _: x)
        await client.deploy(dataRange={"start": 1, "end": 20, "step": 1})
        while len(worker.answers) < 20:
            answer = await again(worker.take)
            for job, slices in answer["body"].get("task", {}).items():
                for one in slices:
                    await again(functools.partial(worker.report, job, one, authorization_of(answer)))
                    balancer.cut()
        await client.wait_for("stop")
        assert client.decoded() == {n: n for n in range(1, 21)}
        assert len(client.of("result")) == 20
        assert all(balancer.carried.values())
        async with app.core.database.snapshot() as tx:
            paid = await Bank().balance(tx, worker.payment.address)
        assert paid == 20 * app.settings.market_slice_value


async def test_a_session_lives_at_one_process_only(app: SchedulerApp, second: SchedulerApp) -> None:
    balancer = Balancer([app.server.port])
    async with balancer.serve(), deployer(balancer.url) as client:
        assert await client.pheme.request("countJobs", {}) == {}
        session = client.pheme.dcpsid
        [there] = [one for one in app.server.connections if one.dcpsid == session]
        balancer.ports = [second.server.port]
        balancer.carried[second.server.port] = 0
        balancer.cut()
        assert await again(lambda: client.pheme.request("countJobs", {})) == {}
        async with asyncio.timeout(20):
            await there.closed.wait()
        assert session not in [one.dcpsid for one in app.server.connections]


async def test_another_key_is_refused(app: SchedulerApp, settings: SchedulerSettings, tmp_path: pathlib.Path) -> None:
    stranger = settings.model_copy(update={"state_dir": tmp_path / "stranger"})
    with pytest.raises(InvalidInput, match="belongs to a Scheduler with the address"):
        async with contextlib.AsyncExitStack() as stack:
            await stack.enter_async_context(SchedulerApp(stranger))


async def test_many_jobs_and_workers_at_three_processes(
    app: SchedulerApp, second: SchedulerApp, another: Another, caplog: pytest.LogCaptureFixture
) -> None:
    """Leases, settlements, payments and ends of the same jobs meet all the time: nothing fails, all is paid once."""
    account = PrivateKey.generate()
    async with contextlib.AsyncExitStack() as stack:
        third = await stack.enter_async_context(SchedulerApp(another()))
        urls = [app.url, second.url, third.url]
        clients = [await stack.enter_async_context(deployer(urls[n % 3], account)) for n in range(4)]
        workers = [await stack.enter_async_context(serving(urls[n % 3], lambda x, _: x, load=4.0)) for n in range(6)]
        async with asyncio.TaskGroup() as group:
            for client in clients:
                group.create_task(client.deploy(dataRange={"start": 1, "end": 150, "step": 1}))
        for client in clients:
            await client.wait_for("stop", within=60)
            assert sorted(one["sliceNumber"] for one in client.of("result")) == list(range(1, 151))
        async with app.core.database.snapshot() as tx:
            bank = Bank()
            audit = await bank.audit(tx)
            paid = sum((await bank.balances(tx, [worker.payment.address for worker in workers])).values())
        assert (audit.problems, audit.open_holds) == ((), 0)
        assert paid == 4 * 150 * app.settings.market_slice_value
    assert [one.getMessage() for one in caplog.records if one.levelname == "ERROR"] == []
