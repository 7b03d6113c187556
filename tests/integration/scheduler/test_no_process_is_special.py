"""What one process knows, and whoever comes to another one must not notice: stamps, limits, refusals, leases."""

from __future__ import annotations

import asyncio
import shutil
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest
import sqlalchemy as sa

from orchestrator.protocol.client import DcpClient
from orchestrator.protocol.guard import NOTHING, Spent, Standing
from orchestrator.protocol.vocabulary import IncomingRequest
from orchestrator.scheduler.app import KEYSTORE, SchedulerApp
from orchestrator.scheduler.shared_limits import SharedLimits
from orchestrator.scheduler.shared_sessions import SharedSessions
from orchestrator.scheduler.store import leases, stamps
from orchestrator.settings import SchedulerSettings
from orchestrator.wallet.keys import PrivateKey
from tests.integration.scheduler.actors import FakeWorker, deployer, fake_worker, until


@pytest.fixture(params=["postgres"])
def database_url(request: pytest.FixtureRequest, postgres_url: str) -> str:
    return postgres_url


@pytest.fixture
async def second(app: SchedulerApp, settings: SchedulerSettings) -> AsyncIterator[SchedulerApp]:
    folder = settings.state_dir.parent / "second"
    folder.mkdir()
    shutil.copy(settings.state_dir / KEYSTORE, folder)
    async with SchedulerApp(settings.model_copy(update={"state_dir": folder})) as running:
        for one in (app, running):
            assert one.core.cluster is not None
            await one.core.cluster.beat()
        yield running


def _memory(app: SchedulerApp) -> SharedSessions:
    assert isinstance(app.server.memory, SharedSessions)
    return app.server.memory


def _request(stamp: str, id: str, stale_at: float = 2e9) -> IncomingRequest:
    return IncomingRequest(id, "submit@5", None, frozenset(), stamp, stale_at)


async def test_a_stamp_is_good_at_one_process_only(app: SchedulerApp, second: SchedulerApp) -> None:
    mine, theirs = _memory(app), _memory(second)
    assert await mine.claim("session1", [_request("a", "1"), _request("b", "2")]) == frozenset()
    assert await theirs.claim("session2", [_request("a", "1"), _request("c", "2")]) == {"1"}
    # What was refused may come again in the same request.
    assert await mine.claim("session1", [_request("a", "1")]) == frozenset()
    assert await mine.claim("session1", [_request("a", "3")]) == {"3"}
    first, other = await asyncio.gather(
        mine.claim("session1", [_request("d", "4")]), theirs.claim("session2", [_request("d", "5")])
    )
    assert len(first | other) == 1


async def test_stamps_are_forgotten_once_their_time_is_over(app: SchedulerApp) -> None:
    memory = _memory(app)
    await memory.claim("session", [_request("old", "1", time.time() - 1), _request("new", "2", time.time() + 900)])
    async with app.core.database.snapshot() as tx:
        before = await stamps.count(tx)
    await memory._forget_stale()
    async with app.core.database.snapshot() as tx:
        assert await stamps.count(tx) == before - 1


async def test_every_request_is_claimed_with_its_stamp(app: SchedulerApp, second: SchedulerApp) -> None:
    async with deployer(app.url) as client:
        await client.pheme.request("countJobs", {})
        async with app.core.database.snapshot() as tx:
            assert await stamps.count(tx) == 1
            [row] = (await tx.execute(sa.select(stamps.stamps))).mappings()
        again = _request(row["stamp"], "another", row["stale_at"])
        assert await _memory(second).claim("another session", [again]) == {"another"}


async def test_what_an_identity_uses_at_one_process_counts_at_the_other(
    app: SchedulerApp, second: SchedulerApp
) -> None:
    limits = SharedLimits(app.server, _cluster(app))
    bucket_rate = app.server.limits.guard.identity_messages
    now = time.monotonic()
    for _ in range(round(0.05 * bucket_rate)):
        app.server.guard.received("127.0.0.1", "0xsomebody", 10, now)
    limits.share()
    charged = second.server.guard._messages
    await until(lambda: "0xsomebody" in charged)
    assert not charged["0xsomebody"].is_full(time.monotonic() - 3600)
    app.server.guard.received("127.0.0.1", "0xother", 10, now)
    assert "0xother" not in app.server.guard.take_spent()


async def test_sessions_of_an_identity_are_counted_together(app: SchedulerApp, second: SchedulerApp) -> None:
    limits = SharedLimits(app.server, _cluster(app))
    app.server.books.by_peer["0xsomebody"] = 50
    limits.share()
    await until(lambda: second.server.books.sessions_elsewhere("0xsomebody") == 50)
    assert second.server.books.sessions_elsewhere("0xother") == 0


async def test_what_an_address_uses_at_one_process_counts_at_the_other(app: SchedulerApp, second: SchedulerApp) -> None:
    here, there, now = app.server.guard, second.server.guard, time.monotonic()
    limits = here.limits
    for _ in range(round(0.05 * limits.address_messages)):
        here.received("192.0.2.1", None, 10, now)
    for _ in range(round(0.05 * limits.address_connects)):
        here.admit("192.0.2.1", now)
    for _ in range(150):
        here.opened("192.0.2.1")
    for _ in range(30):
        here.socket_opened("192.0.2.1")
    here.holdings.add("192.0.2.1", None, limits.address_held // 2 + 1)
    here.offend("192.0.2.1", "rubbish", now)
    here.received("192.0.2.2", None, 10, now)
    await until(lambda: "192.0.2.1" in there._offences and there.elsewhere("192.0.2.1").connections > 0)
    assert there.elsewhere("192.0.2.1") == Standing(150, 30, limits.address_held // 2 + 1)
    assert there.connections("192.0.2.1") == 150
    there.holdings.add("192.0.2.1", None, limits.address_held // 2)
    assert "characters are held for address 192.0.2.1" in (there.holdings.excess("192.0.2.1", None) or "")
    for buckets in (there._connects, there._messages, there._offences):
        assert not buckets["192.0.2.1"].is_full(time.monotonic() - 3600)
        assert "192.0.2.2" not in buckets
    # Nobody is charged at home with what others were told.
    assert here.elsewhere("192.0.2.1") == NOTHING


async def test_why_a_job_waits_is_known_wherever_it_is_asked(app: SchedulerApp, second: SchedulerApp) -> None:
    """Workers of one process met what the other one is asked about."""
    async with deployer(app.url) as client, fake_worker(second.url) as worker, fake_worker(second.url) as other:
        job = await client.deploy(dataRange={"start": 1, "end": 3, "step": 1}, estimationSlices=1)
        await worker.take()
        assert (await other.take())["body"].get("task", {}) == {}
        for one in (app, second):
            async with deployer(one.url, identity=client.client.identity) as asking:
                told: dict[str, Any] = await asking.pheme.request("explainJob", {"job": job})
                assert told["workers"]["refusedLately"] == {"EESTIMATING": 1}, one.url


async def test_a_worker_that_is_there_twice_keeps_what_its_other_self_has(
    app: SchedulerApp, second: SchedulerApp
) -> None:
    """One of two workers of the same name, each at its own process, says that it holds nothing."""
    key = PrivateKey.generate()
    async with deployer(app.url) as client, DcpClient(key) as here, DcpClient(key) as there:
        one, twin = FakeWorker(here, app.url, lambda x, _: x), FakeWorker(there, second.url, lambda x, _: x)
        twin.id = one.id
        job = await client.deploy(dataRange={"start": 1, "end": 8, "step": 1}, estimationSlices=0)
        answer = await one.take()
        await twin.take(fetchState=16, returnAllSlices=twin.holds_nothing())
        async with app.core.database.snapshot() as tx:
            assert await leases.held_by(tx, one.id, key.address)
        # Once the other self is gone, it is as it says.
        await one.tasks.close()
        await twin.take(fetchState=16, returnAllSlices=twin.holds_nothing())
        async with app.core.database.snapshot() as tx:
            assert await leases.held_by(tx, one.id, key.address) == {}
        assert answer["body"]["task"][job]


def _cluster(app: SchedulerApp) -> Any:
    assert app.core.cluster is not None
    return app.core.cluster


def test_what_was_spent_adds_up() -> None:
    assert Spent(1, 2, 3).plus(Spent(1, 1, 1)) == Spent(2, 3, 4)
