"""A Scheduler that answers late, or sends slices twice: each lease ends in one result or one return."""

from __future__ import annotations

import asyncio
import collections
import copy
from typing import Any

import pytest

from orchestrator.protocol.server import Request
from tests.integration.worker_supervisor.conftest import ToyScheduler

pytestmark = pytest.mark.docker

JOB = "j" * 22
CODE = "n => { progress(); return n * 2 }"


def data(count: int) -> list[str]:
    return [f"data:application/json,{n}" for n in range(1, count + 1)]


class Late(ToyScheduler):
    """Leases slices at once, and tells of them only when `tell` is set. Other requests are answered as ever."""

    def __init__(self) -> None:
        super().__init__()
        self.holds = asyncio.Event()
        self.tell = asyncio.Event()

    async def on_taskDistributor(self, request: Request) -> Any:
        answer = await super().on_taskDistributor(request)
        if answer.get("body", {}).get("task"):
            self.holds.set()
            await self.tell.wait()
        return answer


async def asked_again(late: Late) -> None:
    await late.holds.wait()
    asked = len(late.requests)
    await late.until(lambda: len(late.requests) > asked)


async def test_what_comes_after_its_request_was_given_up_is_computed(worker):
    async with Late().serving() as late:
        late.add(JOB, CODE, data(3))
        async with worker(late, request_timeout_s=0.3) as w:
            await asked_again(late)
            late.tell.set()
            await late.done(3)
            assert w.supervisor.statistics().counts["answers that came late"] == 1
    assert not late.returns
    assert [late.value(JOB, number) for number in (1, 2, 3)] == [2, 4, 6]
    assert late.result_messages == 3


async def test_what_comes_late_to_a_paused_worker_goes_back_at_once(worker):
    async with Late().serving() as late:
        late.add(JOB, CODE, data(3))
        async with worker(late, request_timeout_s=0.3) as w:
            await asked_again(late)
            w.pause("the machine is needed")
            late.tell.set()
            await late.done(3)
    assert not late.results
    assert sorted(late.returns) == [(JOB, number, "EPAUSED") for number in (1, 2, 3)]


async def test_what_comes_late_to_a_draining_worker_goes_back_at_once(worker):
    """The long poll is broken off, and what it might have brought is not left to the end of a long drain."""
    async with Late().serving() as late:
        late.add(
            JOB,
            "n => { progress(); const end = Date.now() + 2000; while (Date.now() < end) progress(); return n }",
            data(1),
        )
        late.tell.set()
        async with worker(late, stops=True, sandboxes=2) as w:
            await late.until(lambda: bool(late.begun))
            late.tell.clear()
            late.holds.clear()
            late.waiting.extend((JOB, number, datum) for number, datum in enumerate(data(3), 2))
            await late.holds.wait()
            w.drain()
            await asyncio.sleep(0)
            late.tell.set()
            await late.done(4)
    assert set(late.results) == {(JOB, 1)}
    assert sorted(late.returns) == [(JOB, number, "EWORKERSTOPPING") for number in (2, 3, 4)]
    assert late.order[-1] == "result 1", "they had to wait for what was in work"


class Repeating(ToyScheduler):
    """Sends slices again that are out or done: under new leases, or the very same answer."""

    def __init__(self) -> None:
        super().__init__()
        self.last: dict[str, Any] = {}
        self.repeat = False
        self.repeated = asyncio.Event()
        self.told: collections.Counter[tuple[int, int]] = collections.Counter()
        """Results by (slice, lease)."""

    async def on_taskDistributor(self, request: Request) -> Any:
        if self.repeat and self.last and request.operation == "requestTask@3" and request.data["fetchState"] & 1:
            self.repeat = False
            self.requests.append(request.data)
            self.repeated.set()
            return copy.deepcopy(self.last)
        answer = await super().on_taskDistributor(request)
        if answer.get("body", {}).get("task"):
            self.last = copy.deepcopy(answer)
        return answer

    async def on_resultSubmitter(self, request: Request) -> Any:
        if request.operation == "result":
            data = request.data
            self.told[data["slice"], data["authorizationMessage"]["auth"]["lease"]] += 1
        return await super().on_resultSubmitter(request)

    def again(self, count: int) -> None:
        self.waiting.extend((JOB, number, datum) for number, datum in enumerate(data(count), 1))


SLOW = "n => { progress(); const end = Date.now() + 500; while (Date.now() < end) progress(); return n * 2 }"


async def test_the_same_slices_under_a_newer_lease_while_they_are_held_are_computed_once(worker):
    async with Repeating().serving() as toy:
        toy.add(JOB, SLOW, data(4))
        async with worker(toy) as w:
            await toy.until(lambda: bool(toy.begun))
            toy.again(4)
            await toy.until(lambda: toy.leases > 1 and len(toy.results) == 4)
            assert w.supervisor.statistics().counts["slices completed"] == 4
    assert not toy.returns
    assert [toy.value(JOB, number) for number in (1, 2, 3, 4)] == [2, 4, 6, 8]
    assert set(toy.told.values()) == {1}, "no lease has two results"


async def test_the_same_answer_twice_while_its_slices_are_held_is_as_if_it_came_once(worker):
    async with Repeating().serving() as toy:
        toy.add(JOB, SLOW, data(4))
        async with worker(toy) as w:
            await toy.until(lambda: bool(toy.begun))
            toy.repeat = True
            await toy.repeated.wait()
            await toy.done(4)
            assert w.supervisor.statistics().counts["slices completed"] == 4
    assert not toy.returns
    assert toy.told == {(number, toy.leased[JOB, number]): 1 for number in (1, 2, 3, 4)}


async def test_the_same_answer_after_its_results_were_accepted_goes_back(worker):
    async with Repeating().serving() as toy:
        toy.add(JOB, CODE, data(4))
        async with worker(toy) as w:
            await toy.done(4)
            await toy.until(lambda: w.supervisor.statistics().held == 0)
            toy.repeat = True
            await toy.until(lambda: len(toy.returns) == 4)
            assert w.supervisor.statistics().counts["slices completed"] == 4
    assert {reason for _job, _number, reason in toy.returns} == {"return duplicate slice"}
    assert toy.told == {(number, toy.leased[JOB, number]): 1 for number in (1, 2, 3, 4)}


async def test_the_same_slices_under_a_newer_lease_after_their_results_are_new_work(worker):
    """The Scheduler may have lost them: it gets one result for each lease."""
    async with Repeating().serving() as toy:
        toy.add(JOB, CODE, data(4))
        async with worker(toy):
            await toy.done(4)
            toy.again(4)
            await toy.until(lambda: len(toy.told) == 8)
    assert not toy.returns
    assert set(toy.told.values()) == {1}


class Outvoting(ToyScheduler):
    """Others agree on another result."""

    async def on_resultSubmitter(self, request: Request) -> Any:
        answer = await super().on_resultSubmitter(request)
        refused = {"accepted": False, "verdict": "wrong", "slicePaymentAmount": "0", "reason": "EWRONG: others agree"}
        return answer | refused if request.operation == "result" else answer


async def test_a_result_that_was_outvoted_is_refused_and_nothing_goes_back(worker):
    async with Outvoting().serving() as scheduler:
        scheduler.add(JOB, CODE, data(2))
        async with worker(scheduler) as w:
            await scheduler.done(2)
            async with asyncio.timeout(10):
                while w.supervisor.statistics().counts.get("results refused EWRONG", 0) < 2:  # noqa: ASYNC110 — answers are on their way
                    await asyncio.sleep(0.01)
    assert not scheduler.returns
    assert scheduler.result_messages == 2
