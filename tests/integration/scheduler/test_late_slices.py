"""The end of a job does not wait for a slow worker: the first result counts, and only it is paid."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest

from orchestrator.bank import Bank
from orchestrator.scheduler.app import SchedulerApp
from orchestrator.settings import SchedulerSettings
from tests.integration.scheduler.actors import FakeWorker, authorization_of, deployer, fake_worker
from tests.integration.scheduler.test_when_things_go_wrong import Clock, numbers

Timed = tuple[SchedulerApp, Clock]
ONE = {"start": 1, "end": 1, "step": 1}


@pytest.fixture
async def timed(settings: SchedulerSettings) -> AsyncIterator[Timed]:
    clock = Clock()
    quick = settings.model_copy(update={"long_poll_s": 0.0})
    async with SchedulerApp(quick, clock=clock) as running:
        yield running, clock


async def earned(app: SchedulerApp, worker: FakeWorker) -> int:
    async with app.core.database.snapshot() as tx:
        return await Bank().balance(tx, worker.payment.address)


def cotasks(answer: Any, job: str) -> list[int]:
    return [one["cotaskCount"] for one in answer["body"]["task"][job]]


def late(app: SchedulerApp) -> float:
    """When nothing is known of how long slices take."""
    return app.settings.late_bias_s + app.settings.late_factor * app.settings.late_unknown_s + 1


@pytest.mark.parametrize("winner", [0, 1])
async def test_a_late_slice_goes_to_an_idle_worker_too_and_is_paid_once(timed: Timed, winner: int) -> None:
    app, clock = timed
    async with deployer(app.url) as client, fake_worker(app.url) as slow, fake_worker(app.url) as idle:
        job = await client.deploy(dataRange=ONE)
        first = await slow.take()
        assert numbers(await idle.take(), job) == []
        clock.ahead = late(app)
        second = await idle.take()
        assert (numbers(second, job), cotasks(second, job)) == ([1], [1])
        assert numbers(await slow.take(), job) == [], "not to the worker that has it"
        both = [(slow, first), (idle, second)]
        one, other = both[winner], both[1 - winner]
        told = await one[0].result(job, 1, "first", authorization_of(one[1]))
        assert (told["accepted"], told["verdict"]) == (True, "accepted")
        told = await other[0].result(job, 1, "second", authorization_of(other[1]))
        assert (told["accepted"], told["verdict"], told["slicePaymentAmount"]) == (False, "late", "0")
        again = await one[0].result(job, 1, "first", authorization_of(one[1]))
        assert again["verdict"] == "duplicate"
        await client.wait_for("stop")
        assert client.decoded() == {1: "first"}
        assert await earned(app, one[0]) == app.settings.market_slice_value
        assert await earned(app, other[0]) == 0


async def test_a_worker_that_vanishes_leaves_the_other_alone(timed: Timed) -> None:
    app, clock = timed
    async with (
        deployer(app.url) as client,
        fake_worker(app.url) as silent,
        fake_worker(app.url) as idle,
        fake_worker(app.url) as third,
    ):
        job = await client.deploy(dataRange=ONE)
        await silent.take()
        clock.ahead = late(app)
        second = await idle.take()
        assert numbers(await third.take(), job) == [], "two are enough"
        clock.ahead = app.settings.lease_s + 1
        assert await app.reconciler.expire() == 1
        story = await client.pheme.request("fetchSliceReport", {"job": job, "slice": 1})
        assert "1 lost" in story["story"], "the loss counts, and the other worker goes on"
        assert (await idle.result(job, 1, "good", authorization_of(second)))["accepted"]
        assert (await client.wait_for("stop"))[0]["runStatus"] == "finished"


async def test_the_first_worker_gives_up_and_the_second_starts_anew(timed: Timed) -> None:
    app, clock = timed
    async with deployer(app.url) as client, fake_worker(app.url) as slow, fake_worker(app.url) as idle:
        job = await client.deploy(dataRange=ONE)
        first = await slow.take()
        clock.ahead = late(app)
        await idle.take()
        await slow.give_back(job, [1], "ENETWORK", authorization_of(first))
        again = await idle.take(fetchState=5, returnAllSlices=idle.holds_nothing())
        assert (numbers(again, job), cotasks(again, job)) == ([1], [0]), "nobody else has it any more"
        assert (await idle.result(job, 1, "good", authorization_of(again)))["accepted"]


async def test_what_a_worker_calls_overdue_is_late(timed: Timed) -> None:
    app, _ = timed
    async with deployer(app.url) as client, fake_worker(app.url) as slow, fake_worker(app.url) as idle:
        job = await client.deploy(dataRange=ONE)
        await slow.take()
        await idle.take(fetchState=2, soteriaJobs={}, overdueSlices={job: [1]})
        assert numbers(await idle.take(), job) == [], "only who holds a slice can call it overdue"
        await slow.take(fetchState=2, soteriaJobs={job: [1]}, overdueSlices={job: [1]})
        assert numbers(await idle.take(), job) == [1]
