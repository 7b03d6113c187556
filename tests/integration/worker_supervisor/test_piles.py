"""Results that leave together share a request, where the Scheduler takes them so."""

from __future__ import annotations

import pytest

from orchestrator.errors import OrchestratorError
from orchestrator.worker.scheduler_link import pace

pytestmark = pytest.mark.docker

JOB = "j" * 22
DATA = [f"data:application/json,{n}" for n in range(1, 201)]
CODE = "n => { progress(); if (n % 50 === 0) throw new Error('no'); return 2 * n }"


async def test_many_short_results_leave_in_few_requests(scheduler, worker):
    scheduler.in_pile = 30
    scheduler.add(JOB, CODE, DATA)
    async with worker(scheduler, sandboxes=2) as w:
        await scheduler.done(200)
    assert [scheduler.value(JOB, n) for n in range(1, 50)] == [2 * n for n in range(1, 50)]
    assert scheduler.value(JOB, 150).properties["errorCode"] == "EUNCAUGHT"
    # Those whose owners are told an error first go alone.
    assert max(scheduler.piles) <= 30 and len(scheduler.piles) < 100 and 196 <= sum(scheduler.piles) <= 200
    books = w.statistics()["supervisor"]
    assert books.counts["results accepted"] == 200 and not books.held


async def test_what_is_not_wanted_spoils_no_neighbour(scheduler, worker):
    scheduler.in_pile = 100
    scheduler.add(JOB, CODE, DATA)
    scheduler.unwanted = range(10, 201, 10)
    async with worker(scheduler, sandboxes=2) as w:
        await scheduler.done(180)
        await scheduler.until(lambda: not w.statistics()["supervisor"].held)
    counts = w.statistics()["supervisor"].counts
    assert (counts["results accepted"], counts["results refused ELEASE"]) == (180, 20)
    assert scheduler.result_messages == 200 and len(scheduler.piles) < 100


@pytest.mark.parametrize("code", ["ENOSYS", "EINVAL"])
async def test_without_piles_each_goes_alone(scheduler, worker, code):
    scheduler.in_pile = 100
    scheduler.refuse_piles = OrchestratorError("this service has no operation 'results'", code=code)
    scheduler.add(JOB, CODE, DATA)
    async with worker(scheduler, sandboxes=2) as w:
        await scheduler.done(200)
    assert len(scheduler.results) == 200 and w.statistics()["supervisor"].counts["results accepted"] == 200
    if code == "ENOSYS":
        assert len(scheduler.piles) < 10, "it was asked again and again"


async def test_many_results_leave_before_their_time(scheduler, worker, monkeypatch):
    monkeypatch.setattr(pace, "EVERY_S", 3600.0)
    monkeypatch.setattr(pace, "MOST", 4)
    code = """async (n) => {
      progress();
      await new Promise((resolve) => n === 13 ? setInterval(progress, 100) : setTimeout(resolve, 20));
      return n }"""
    scheduler.add(JOB, code, DATA[:13])
    async with worker(scheduler, stops=True) as w:
        try:
            await scheduler.done(9)  # of twelve: the last three at most are too few
        finally:
            w.stop(hard=True)  # the thirteenth never ends
