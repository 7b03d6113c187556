"""PostgreSQL is restarted, killed and cut off under running Schedulers: nothing that was accepted is lost."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import shutil
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any

import pytest
import sqlalchemy as sa

from orchestrator.bank import Bank
from orchestrator.database import Database, DatabaseAway, retried
from orchestrator.protocol.client import DcpClient
from orchestrator.protocol.errors import ConnectionLost, RemoteError
from orchestrator.scheduler.app import KEYSTORE, SchedulerApp
from orchestrator.scheduler.cluster import Cluster
from orchestrator.settings import SchedulerSettings
from orchestrator.wallet.keys import PrivateKey
from tests.integration.scheduler.actors import FakeWorker, authorization_of, deployer, until
from tests.postgres import PostgresServer

SLICES = 40


@pytest.fixture(params=["postgres"])
def database_url(request: pytest.FixtureRequest, own_server: PostgresServer) -> str:
    return own_server.create()


@pytest.fixture(scope="module")
def _server() -> Iterator[PostgresServer]:
    with PostgresServer() as server:
        yield server


@pytest.fixture
def own_server(_server: PostgresServer) -> PostgresServer:
    """Nobody else's; a test may leave it down."""
    _server.stop()
    _server.start()
    return _server


async def _persist(call: Callable[[], Awaitable[Any]]) -> Any:
    """What workers do: what the Scheduler cannot take now is sent again."""
    while True:
        try:
            return await call()
        except (RemoteError, ConnectionLost):
            await asyncio.sleep(0.05)


async def _work(worker: FakeWorker, pace: asyncio.Semaphore) -> None:
    """One slice at a time, as many as `pace` lets through."""
    while True:
        answer = await _persist(worker.take)
        for job, slices in answer["body"].get("task", {}).items():
            for one in slices:
                await pace.acquire()
                await _persist(functools.partial(worker.report, job, one, authorization_of(answer)))


@contextlib.asynccontextmanager
async def _at_work(url: str, pace: asyncio.Semaphore) -> AsyncIterator[FakeWorker]:
    async with DcpClient(PrivateKey.generate()) as dcp:
        worker = FakeWorker(dcp, url, lambda x, _: x * 2)
        task = asyncio.ensure_future(_work(worker, pace))
        try:
            yield worker
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


@pytest.mark.timeout(120)
async def test_a_job_goes_on_over_every_kind_of_restart(
    settings: SchedulerSettings, own_server: PostgresServer, database_url: str
) -> None:
    """The client is at one process and the worker at the other: after each blow their events must cross again."""
    settings = settings.model_copy(update={"long_poll_s": 5.0})

    def restart(end: Callable[[], None]) -> None:
        end()
        own_server.start()

    blows: list[Callable[[], None]] = [
        functools.partial(restart, own_server.stop),
        functools.partial(restart, own_server.destroy),
        functools.partial(own_server.cut, database_url),
        functools.partial(restart, own_server.kill),
    ]
    async with contextlib.AsyncExitStack() as stack:
        app = await stack.enter_async_context(SchedulerApp(settings))
        folder = settings.state_dir.parent / "second"
        folder.mkdir()
        shutil.copy(settings.state_dir / KEYSTORE, folder)
        second = await stack.enter_async_context(SchedulerApp(settings.model_copy(update={"state_dir": folder})))
        pace = asyncio.Semaphore(0)
        client = await stack.enter_async_context(deployer(app.url))
        await client.deploy(dataRange={"start": 1, "end": SLICES, "step": 1})
        worker = await stack.enter_async_context(_at_work(second.url, pace))
        share = SLICES // (len(blows) + 1)
        for done, blow in enumerate(blows, 1):
            for _ in range(share):
                pace.release()
            await client.wait_for("result", count=done * share - 1, within=30)
            pace.release()  # a report is on its way while it happens
            await asyncio.to_thread(blow)
        for _ in range(SLICES):
            pace.release()
        await client.wait_for("stop", within=60)
        assert client.decoded() == {n: 2 * n for n in range(1, SLICES + 1)}
        async with app.core.database.snapshot() as tx:
            bank = Bank()
            audit = await bank.audit(tx)
            paid = await bank.balance(tx, worker.payment.address)
        assert (audit.problems, audit.open_holds) == ((), 0)
        assert paid == SLICES * settings.market_slice_value


async def test_a_client_that_asks_while_it_is_away_only_waits(
    settings: SchedulerSettings, own_server: PostgresServer
) -> None:
    async with SchedulerApp(settings) as app, deployer(app.url) as client:
        await client.submit(dataRange={"start": 1, "end": 2, "step": 1})
        await asyncio.to_thread(own_server.stop)
        asked = asyncio.ensure_future(client.submit(dataRange={"start": 1, "end": 2, "step": 1}))
        counted = asyncio.ensure_future(client.pheme.request("countJobs", {}))
        await until(lambda: app.server.statistics()["handlers"] >= 2)
        await asyncio.to_thread(own_server.start)
        job, answer = await asked
        assert answer["status"] in ("new", "estimation")
        assert job
        assert sum((await counted).values()) >= 1


async def test_a_scheduler_that_starts_first_waits_and_says_for_what(
    settings: SchedulerSettings, own_server: PostgresServer, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    await asyncio.to_thread(own_server.stop)
    with pytest.raises(DatabaseAway, match="PostgreSQL does not answer at"):
        async with SchedulerApp(settings.model_copy(update={"database_wait_s": 0.0})):
            pass

    async def start() -> None:
        async with SchedulerApp(settings):
            pass

    starting = asyncio.ensure_future(start())
    await until(lambda: "waiting for the database" in caplog.text)
    assert "PostgreSQL does not answer at" in caplog.text
    await asyncio.to_thread(own_server.start)
    async with asyncio.timeout(30):
        await starting


async def test_a_scheduler_that_is_cut_off_while_it_starts_goes_on(
    settings: SchedulerSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Seen when PostgreSQL crashed within the first statement: the process ended with the driver's error."""
    cut: list[str] = []

    def cut_once(owner: type, name: str, database_of: Callable[[Any], Database]) -> None:
        work = getattr(owner, name)

        async def worked(self: Any, *arguments: Any) -> Any:
            if name not in cut:
                cut.append(name)
                async with database_of(self).snapshot() as tx:
                    await tx.execute(sa.text("SELECT pg_terminate_backend(pg_backend_pid())"))
            return await work(self, *arguments)

        monkeypatch.setattr(owner, name, worked)

    cut_once(Database, "ping", lambda database: database)
    cut_once(Cluster, "_join", lambda cluster: cluster._database)
    async with asyncio.timeout(30), SchedulerApp(settings):
        pass
    assert cut == ["ping", "_join"]


async def test_a_server_that_refuses_is_not_waited_for(settings: SchedulerSettings, own_server: PostgresServer) -> None:
    nowhere = settings.model_copy(update={"database_url": own_server.url("nowhere")})
    async with asyncio.timeout(20):
        with pytest.raises(DatabaseAway, match='database "nowhere" does not exist'):
            async with SchedulerApp(nowhere):
                pass


async def test_a_transaction_that_did_not_begin_is_tried_again(own_server: PostgresServer, database_url: str) -> None:
    database = await Database.open(database_url)
    await asyncio.to_thread(own_server.stop)
    waiting = asyncio.ensure_future(retried(database.ping, connecting=30.0))
    with pytest.raises(DatabaseAway):
        await retried(database.ping)
    await asyncio.to_thread(own_server.start)
    await waiting
    await database.close()
