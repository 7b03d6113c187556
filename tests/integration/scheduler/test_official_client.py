"""The unmodified dcp-client deploys; workers made of our own protocol client echo each datum."""

from __future__ import annotations

import asyncio
import contextlib
import pathlib
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest

from orchestrator import kvin
from orchestrator.scheduler.app import SchedulerApp
from orchestrator.settings import SchedulerSettings
from tests.e2e import harness
from tests.integration.scheduler.actors import FakeWorker, authorization_of, fake_worker, serving, thrown
from tests.parts.relays import CuttableProxy

pytestmark = pytest.mark.npm

ECHO = "(x) => { progress(); return x; }"
HEAR = """const hear = (job) => {
    for (const name of ['result', 'console', 'error', 'status', 'stop', 'cancel', 'duplicate-result'])
        job.on(name, (event) => say(name, JSON.parse(JSON.stringify(event))));
};"""
Run = Callable[[str], Awaitable[harness.ClientRun]]


@pytest.fixture
async def wallet(tmp_path: pathlib.Path) -> harness.Wallet:
    folder = tmp_path / "dcp"
    folder.mkdir()
    return await harness.Wallet.create(folder)


@pytest.fixture
def settings(settings: SchedulerSettings) -> SchedulerSettings:
    return settings.model_copy(update={"stop_settle_s": 0.5, "stop_repeat_s": 1.0})


@pytest.fixture
def start(
    wallet: harness.Wallet, node: pathlib.Path, npm_modules: pathlib.Path
) -> Callable[[str, str], contextlib.AbstractAsyncContextManager[harness.Client]]:
    return lambda url, program: harness.client(
        HEAR + program, scheduler=url, wallet=wallet, node=node, npm_modules=npm_modules
    )


@pytest.fixture
def run(app: SchedulerApp, start: Any) -> Run:
    async def run_client(program: str) -> harness.ClientRun:
        async with start(app.url, program) as client:
            outcome: harness.ClientRun = await client.finish(within=60)
            return outcome

    return run_client


async def results_of(run: Run, expression: str) -> Any:
    outcome = await run(f"const job = {expression}; say('results', Array.from(await job.exec()));")
    return outcome.ok().one("results")


async def test_input_sets(app: SchedulerApp, run: Run) -> None:
    async with serving(app.url):
        assert await results_of(run, f"compute.for(1, 10, {ECHO})") == list(range(1, 11))
        assert await results_of(run, f"compute.for(6, 16, 3, {ECHO})") == [6, 9, 12, 15]
        assert await results_of(run, f"compute.for(['a', '✓ 😀 %41#', {{ k: [1, null] }}], {ECHO})") == [
            "a",
            "✓ 😀 %41#",
            {"k": [1, None]},
        ]
        assert await results_of(run, f"compute.do(3, {ECHO})") == [0, 1, 2]
        assert await results_of(run, f"compute.for([], {ECHO})") == []
        ranges = "new (require('dcp/range-object').MultiRangeObject)([{ start: 1, end: 2 }, ['a', 'b', 'c']])"
        assert await results_of(run, f"compute.for({ranges}, {ECHO})") == [
            [number, letter] for number in (1, 2) for letter in "abc"
        ]
        sparse = (
            "new (require('dcp/range-object').SparseRangeObject)({ start: 1, end: 3 }, { start: 10, end: 20, step: 5 })"
        )
        assert await results_of(run, f"compute.for({sparse}, {ECHO})") == [1, 2, 3, 10, 15, 20]


async def test_many_listed_inputs_in_piles(app: SchedulerApp, run: Run) -> None:
    async with serving(app.url):
        program = f"""
            const inputs = Array.from({{ length: 1000 }}, (_, i) => String(i).padEnd(3000, 'x'));
            const job = compute.for(inputs, {ECHO});
            const results = Array.from(await job.exec());
            say('same', results.length === 1000 && results.every((r, i) => r === inputs[i]));
        """
        assert (await run(program)).ok().one("same") is True


async def test_events_of_a_job(app: SchedulerApp, run: Run) -> None:
    def work(datum: int, _: int) -> Any:
        return datum

    async with fake_worker(app.url, work) as worker:
        task = asyncio.ensure_future(_talkative(worker))
        outcome = (
            await run(f"const job = compute.for(1, 4, {ECHO}); hear(job); await job.exec(); say('end', job.status);")
        ).ok()
        task.cancel()
        assert [(event["level"], event["message"]) for event in outcome.all("console")] == [("log", ["slice", 1])]
        assert sorted(event["sliceNumber"] for event in outcome.all("result")) == [1, 2, 3, 4]
        status = outcome.all("status")[-1]
        assert (status["runStatus"], status["total"], status["distributed"], status["computed"]) == (
            "finished",
            4,
            4,
            4,
        )
        assert outcome.all("duplicate-result") == []


async def _talkative(worker: FakeWorker) -> None:
    while True:
        answer = await worker.take()
        for job, slices in answer["body"].get("task", {}).items():
            if slices[0]["sliceNumber"] == 1:
                payload = {"level": "log", "message": kvin.marshal(["slice", 1])}
                await worker.emit(job, 1, "console", payload, authorization_of(answer))
        await worker.compute(answer)


async def test_a_job_that_always_throws(app: SchedulerApp, run: Run) -> None:
    async with serving(app.url, lambda *_: thrown("never works")):
        outcome = await run(f"const job = compute.for(1, 20, {ECHO}); hear(job); await job.exec();")
        assert outcome.one("failed")["code"] == "ETOOMANYERRORS"


async def test_cancel_at_once_and_later(app: SchedulerApp, run: Run) -> None:
    early = await run(f"""
        const job = compute.for(1, 100, {ECHO});
        job.on('readyStateChange', (state) => {{ if (state === 'listeners') job.cancel('too early'); }});
        await job.exec();
    """)
    assert "too early" in early.one("failed")["message"]
    late = await run(f"""
        const job = compute.for(1, 100, {ECHO});
        job.on('accepted', () => job.cancel('never mind').then((answer) => say('answer', answer)));
        await job.exec();
    """)
    assert "never mind" in late.one("failed")["message"]
    async with app.core.database.snapshot() as tx:
        rows = (await tx.exec_driver_sql("SELECT DISTINCT status FROM jobs")).scalars()
        assert list(rows) == ["cancelled"]


async def test_not_enough_funds(run: Run) -> None:
    outcome = await run(f"await compute.for(1, 10, {ECHO}).exec(1e15);")
    assert outcome.one("failed")["code"] == "ENOFUNDS"


async def test_results_that_are_fetched_later(app: SchedulerApp, run: Run) -> None:
    async with serving(app.url):
        outcome = await run(f"""
            const job = compute.for(1, 8, {ECHO});
            job.collateResults = false;
            job.on('stop', (event) => say('stop', event.sliceCount));
            await job.exec();
            await job.results.fetch();
            say('fetched', Array.from(job.results));
            say('listed', (await compute.status(job.id)).computed);
        """)
        assert outcome.ok().one("fetched") == list(range(1, 9))
        assert outcome.all("stop")[0] == 8
        assert outcome.one("listed") == 8


async def test_the_scheduler_restarts_under_a_client(settings: SchedulerSettings, start: Any) -> None:
    async with SchedulerApp(settings) as app:
        settings = settings.model_copy(update={"port": app.server.port})
        program = f"const job = compute.for(1, 60, {ECHO}); hear(job); say('results', Array.from(await job.exec()));"
        client = await _entered(start(app.url, program))
        async with fake_worker(app.url) as worker:
            await client.value.wait_for("status")
            while len(worker.answers) < 10:
                await worker.compute(await worker.take())
            await client.value.wait_for("result", count=5)
    async with client, SchedulerApp(settings) as app, serving(app.url):
        outcome = (await client.value.finish(within=60)).ok()
        assert outcome.one("results") == list(range(1, 61))


class _Entered(contextlib.AsyncExitStack):
    value: harness.Client


async def _entered(context: contextlib.AbstractAsyncContextManager[harness.Client]) -> _Entered:
    stack = _Entered()
    stack.value = await stack.enter_async_context(context)
    return stack


async def test_a_client_that_loses_its_connection_hears_everything(app: SchedulerApp, start: Any) -> None:
    relay = CuttableProxy(app.server.port)
    async with relay.serve():
        app.url = f"http://127.0.0.1:{relay.port}/"  # what clients are told
        program = f"const job = compute.for(1, 200, {ECHO}); hear(job); say('results', Array.from(await job.exec()));"
        async with start(app.url, program) as client, fake_worker(f"http://127.0.0.1:{app.server.port}/") as worker:
            while len(worker.answers) < 200:
                await worker.compute(await worker.take())
                relay.cut()
            outcome = (await client.finish(within=60)).ok()
            assert outcome.one("results") == list(range(1, 201))
            assert sorted(event["sliceNumber"] for event in outcome.all("result")) == list(range(1, 201))


@pytest.fixture
async def app(settings: SchedulerSettings) -> AsyncIterator[SchedulerApp]:
    async with SchedulerApp(settings) as running:
        yield running
