"""Many workers at one Scheduler: only those look for work that can take some, and what they get shares transactions."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import pytest

from orchestrator.scheduler.app import SchedulerApp
from orchestrator.scheduler.leasing import Leasing
from orchestrator.settings import SchedulerSettings
from tests.integration.scheduler.actors import FakeWorker, authorization_of, deployer, fake_worker
from tests.integration.scheduler.test_when_things_go_wrong import numbers, until

IDLE = 6


@pytest.fixture
def looks(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Workers that looked for work, in order."""
    looked: list[str] = []
    lease = Leasing.lease

    async def counted(self: Leasing, wanted: Any, *arguments: Any) -> Any:
        looked.append(wanted.profile.worker)
        return await lease(self, wanted, *arguments)

    monkeypatch.setattr(Leasing, "lease", counted)
    return looked


@contextlib.asynccontextmanager
async def waiting(app: SchedulerApp, looks: list[str], **more: Any) -> AsyncIterator[list[asyncio.Task[Any]]]:
    """Workers that have looked in vain, and wait."""
    async with contextlib.AsyncExitStack() as stack:
        workers = [await stack.enter_async_context(fake_worker(app.url, load=1.0)) for _ in range(IDLE)]
        tasks = [asyncio.ensure_future(worker.take(**more)) for worker in workers]
        await until(lambda: len(looks) == IDLE)
        await until(lambda: resting(app) == IDLE)
        yield tasks
        for task in tasks:
            task.cancel()


def resting(app: SchedulerApp) -> int:
    return app.distributor.statistics()["resting"]


@pytest.fixture
async def patient(settings: SchedulerSettings) -> AsyncIterator[SchedulerApp]:
    async with SchedulerApp(settings.model_copy(update={"long_poll_s": 60.0, "estimation_slices": 0})) as running:
        yield running


async def test_one_slice_that_comes_back_wakes_one_worker(patient: SchedulerApp, looks: list[str]) -> None:
    app = patient
    async with deployer(app.url) as client, fake_worker(app.url) as first:
        job = await client.deploy(dataRange={"start": 1, "end": 1, "step": 1})
        taken = await first.take()
        looks.clear()
        async with waiting(app, looks) as tasks:
            looks.clear()
            await first.give_back(job, [1], "ENETWORK", authorization_of(taken))
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            assert [numbers(task.result(), job) for task in done] == [[1]]
            assert len(looks) == 1


async def test_what_the_first_one_may_not_have_goes_to_the_next(patient: SchedulerApp, looks: list[str]) -> None:
    """The worker that is called first is on its way out: another one is called in its place."""
    app = patient
    async with deployer(app.url) as client, fake_worker(app.url) as first:
        job = await client.deploy(dataRange={"start": 1, "end": 1, "step": 1})
        taken = await first.take()
        looks.clear()
        async with waiting(app, looks) as tasks:
            called: list[str] = []
            distribute = app.distributor._leasing._lease_planned

            async def abandoned_first(tx: Any, wish: Any, *arguments: Any) -> Any:
                called.append(wish.wanted.profile.worker)
                if len(called) == 1:
                    wish.opened.abandoned = True
                return await distribute(tx, wish, *arguments)

            app.distributor._leasing._lease_planned = abandoned_first  # type: ignore[method-assign]
            await first.give_back(job, [1], "ENETWORK", authorization_of(taken))
            async with asyncio.timeout(20):
                while not any(numbers(task.result(), job) for task in tasks if task.done()):
                    await asyncio.wait([task for task in tasks if not task.done()], return_when="FIRST_COMPLETED")
            assert len(set(called)) == 2


async def test_a_late_slice_wakes_a_worker_when_it_is_late(settings: SchedulerSettings, looks: list[str]) -> None:
    quick = settings.model_copy(
        update={"long_poll_s": 60.0, "late_bias_s": 0.5, "late_unknown_s": 0.1, "late_factor": 1.0}
    )
    async with SchedulerApp(quick) as app, deployer(app.url) as client, waiting(app, looks) as tasks:
        looks.clear()
        job = await client.deploy(dataRange={"start": 1, "end": 1, "step": 1})
        done, others = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED, timeout=20)
        assert [numbers(task.result(), job) for task in done] == [[1]]
        done, _ = await asyncio.wait(others, return_when=asyncio.FIRST_COMPLETED, timeout=20)
        assert [numbers(task.result(), job) for task in done] == [[1]]
        assert len(looks) == 2


async def test_requests_that_come_together_share_a_transaction(patient: SchedulerApp, looks: list[str]) -> None:
    app = patient
    together: list[int] = []
    all_here = asyncio.Event()
    lease = app.distributor._leasing._lease_together

    async def counted(wishes: Any) -> None:
        together.append(len(wishes))
        await all_here.wait()
        await lease(wishes)

    app.distributor._leasing._commits._apply = counted
    async with deployer(app.url) as client, contextlib.AsyncExitStack() as stack:
        workers = [await stack.enter_async_context(fake_worker(app.url, load=1.0)) for _ in range(IDLE)]
        for worker in workers:
            await worker.take(fetchState=0)
        job = await client.deploy(dataRange={"start": 1, "end": 1000, "step": 1})
        tasks = [asyncio.ensure_future(worker.take()) for worker in workers]
        await until(lambda: sum(together) + len(app.distributor._leasing._commits._waiting) == IDLE)
        all_here.set()
        answers = await asyncio.gather(*tasks)
        got = [number for answer in answers for number in numbers(answer, job)]
        assert len(got) == len(set(got)) >= IDLE, "nothing twice"
        assert sum(together) == IDLE and len(together) <= 2, "those that came while the first waited share the next"
        for worker, answer in zip(workers, answers, strict=True):
            assert (await accepted(worker, job, answer)) == numbers(answer, job)


async def accepted(worker: FakeWorker, job: str, answer: Any) -> list[int]:
    """The slices of an answer of which the results are taken."""
    told = [await worker.result(job, one, one, authorization_of(answer)) for one in numbers(answer, job)]
    return [number for number, one in zip(numbers(answer, job), told, strict=True) if one["accepted"]]
