"""Unmodified official workers together on one job: a frozen or killed one does not hold it up, and several want its last
slice. On PostgreSQL; those that are alone run on SQLite."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import pathlib
import signal
import time
from collections.abc import AsyncIterator, Iterator
from typing import Literal

import aiohttp
import pytest
import pytest_asyncio

from orchestrator.bank import Bank
from orchestrator.database import Database
from orchestrator.wallet.keys import PrivateKey
from tests.e2e import harness, official
from tests.e2e.test_official_workers import PRICE, Bench, scheduler
from tests.faults.parts import free_port
from tests.parts import databases
from tests.postgres import PostgresServer

pytestmark = [pytest.mark.npm, pytest.mark.asyncio(loop_scope="module")]

# A slice is late soon, so that nobody waits long here.
LATE = ("--late-bias", "0.2", "--late-factor", "1", "--late-unknown", "1")

GIVES_UP_S = 25.0
"""an official worker that sleeps for half a minute takes its slice for one without progress, and trips over its result"""
TRIES = 3
"""of what must not take so long, on a machine that may be too busy"""


@dataclasses.dataclass
class Pair(Bench):
    """A Scheduler where slices are late soon, and two official workers of one kind."""

    metrics: str
    state: pathlib.Path
    first: official.OfficialWorker
    second: official.OfficialWorker
    payees: tuple[PrivateKey, PrivateKey]

    async def verdicts(self) -> dict[str, int]:
        """How many results got which verdict."""
        async with aiohttp.ClientSession() as session, session.get(self.metrics) as answer:
            page = await answer.text()
        said = [line for line in page.splitlines() if line.startswith("dcp_scheduler_results_total{")]
        return {line.split('verdict="')[1].split('"')[0]: int(float(line.split()[-1])) for line in said}

    async def late(self) -> int:
        return (await self.verdicts()).get("late", 0)

    async def paid(self) -> list[float]:
        return [await self.earned(key) for key in self.payees]

    async def start_first_anew(self) -> None:
        assert self.first.process is not None
        await self.first.process.kill()
        await self.first.start()

    async def assert_in_order(self) -> None:
        database = await Database.open(databases.url_of(self.state), migrate=False)
        async with database.snapshot() as tx:
            audit = await Bank().audit(tx)
        await database.close()
        assert (audit.problems, audit.open_holds) == ((), 0)


@pytest_asyncio.fixture(scope="module", loop_scope="module", params=[4, 5], ids=["dcp-worker", "DistributiveWorker"])
async def pair(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, node: pathlib.Path,
    npm_modules: pathlib.Path, postgres_server: PostgresServer,
) -> AsyncIterator[Pair]:  # fmt: skip
    generation: Literal[4, 5] = request.param
    folder = tmp_path_factory.mktemp("together")
    (folder / "dcp").mkdir()
    wallet = await harness.Wallet.create(folder / "dcp")
    packages = official.Packages(node, npm_modules)
    listen = f"127.0.0.1:{free_port()}"
    payees = (PrivateKey.generate(), PrivateKey.generate())
    async with contextlib.AsyncExitStack() as stack:
        stack.enter_context(databases.on_postgres(postgres_server))
        state = folder / "scheduler"
        url = await stack.enter_async_context(scheduler(state, *LATE, "--metrics-listen", listen))
        first, second = [
            await stack.enter_async_context(
                official.official_worker(packages, generation, scheduler=url, payee=payee.address)
            )
            for payee in payees
        ]
        yield Pair(url, wallet, packages, folder, f"http://{listen}/metrics", state, first, second, payees)


@contextlib.contextmanager
def frozen(worker: official.OfficialWorker) -> Iterator[None]:
    """Its process is stopped, and holds its connections; its evaluator goes on."""
    assert worker.process is not None
    process = worker.process.process
    process.send_signal(signal.SIGSTOP)
    try:
        yield
    finally:
        if process.returncode is None:
            process.send_signal(signal.SIGCONT)


ONE = f"""
    const job = compute.for(1, 1, (x) => {{
      progress();
      work.emit('begun', {{ x }});
      const end = Date.now() + 2000;
      while (Date.now() < end);
      return -x;
    }});
    job.work.on('begun', () => say('begun'));
    watch(job);
    say('results', Array.from(await job.exec({PRICE})));
"""
TWO = f"say('results', Array.from(await compute.for(5, 6, (x) => {{ progress(); return -x; }}).exec({PRICE})));"


@contextlib.asynccontextmanager
async def first_is_stuck(pair: Pair) -> AsyncIterator[float]:
    """The first worker has begun the job's slice and is frozen, and the other one was given it as a late one, computed it
    and was paid for it. When it was frozen."""
    paid = await pair.paid()
    async with pair.client(ONE) as client:
        with contextlib.ExitStack() as first_is:
            with frozen(pair.second):
                await client.wait_for("begun")
                first_is.enter_context(frozen(pair.first))
                since = time.monotonic()
            outcome = (await client.finish()).ok()
            assert await pair.paid() == [paid[0], paid[1] + PRICE]
            assert outcome.one("results") == [-1]
            assert len(outcome.all("result")) == 1
            assert len(outcome.all("begun")) == 2, "both have computed it"
            yield since


async def test_what_a_frozen_worker_brings_later_is_not_paid(pair: Pair) -> None:
    """Its slice has gone to the other. It takes the refusal well, and computes the next job."""
    for _ in range(TRIES):
        async with first_is_stuck(pair) as since:
            # Whatever the other one held from earlier it has brought: it has computed this slice since.
            paid, late = await pair.paid(), await pair.late()
            frozen_s = time.monotonic() - since
        if frozen_s < GIVES_UP_S:
            break
        await pair.start_first_anew()
    else:
        pytest.fail(f"on this machine nothing is quicker than the {GIVES_UP_S} s that an official worker stands")
    async with asyncio.timeout(20):
        while await pair.late() == late:
            await asyncio.sleep(0.1)
    assert await pair.paid() == paid
    with frozen(pair.second):
        assert (await pair.run(TWO)).one("results") == [-5, -6]
    assert await pair.paid() == [paid[0] + 2 * PRICE, paid[1]]
    await pair.assert_in_order()


@pytest.mark.parametrize("pair", [5], ids=["DistributiveWorker"], indirect=True, scope="module")
async def test_a_worker_that_is_killed_while_it_is_frozen_is_not_paid_either(pair: Pair) -> None:
    """It has said nothing of its slice. Started again, it computes the next job."""
    async with first_is_stuck(pair):
        paid = await pair.paid()
        await pair.start_first_anew()
    with frozen(pair.second):
        assert (await pair.run(TWO)).one("results") == [-5, -6]
    assert await pair.paid() == [paid[0] + 2 * PRICE, paid[1]]
    await pair.assert_in_order()


LAST_IS_LONG = f"""
    const job = compute.for(1, 6, (x) => {{
      progress();
      work.emit('begun', {{ x }});
      const end = Date.now() + (x === 6 ? 5000 : 200);
      while (Date.now() < end);
      return -x;
    }});
    job.work.on('begun', (event) => say('begun', event.data.x));
    watch(job);
    say('results', Array.from(await job.exec({PRICE})));
"""


async def test_two_official_workers_end_a_job_together(pair: Pair) -> None:
    """Whoever has nothing left takes the last slice, which is late, beside the other; it counts and is paid once, and
    each goes on to the next job."""
    before = await pair.paid()
    outcome = await pair.run(LAST_IS_LONG)
    assert outcome.one("results") == [-n for n in range(1, 7)]
    assert sorted(one["sliceNumber"] for one in outcome.all("result")) == [1, 2, 3, 4, 5, 6]
    assert outcome.all("begun").count(6) == 2
    then = await pair.paid()
    assert sum(then) - sum(before) == 6 * PRICE
    for number, away in enumerate((pair.second, pair.first)):
        with frozen(away):
            assert (await pair.run(TWO)).one("results") == [-5, -6]
        assert await pair.earned(pair.payees[number]) == then[number] + 2 * PRICE
    await pair.assert_in_order()


SHARED = f"""
    const job = compute.for(1, 30, (x) => {{
      progress();
      const end = Date.now() + 300;
      while (Date.now() < end);
      return -x;
    }});
    watch(job);
    say('results', Array.from(await job.exec({PRICE})));
"""


@pytest.mark.docker
@pytest.mark.parametrize("pair", [4], ids=["dcp-worker"], indirect=True, scope="module")
async def test_three_kinds_of_workers_share_a_job(pair: Pair) -> None:
    """A dcp-worker, a DistributiveWorker and ours: each slice is paid once, and everybody has a part."""
    payees = (pair.payees[0], PrivateKey.generate(), PrivateKey.generate())
    assert await pair.second.stop() == 0
    async with (
        official.official_worker(pair.packages, 5, scheduler=pair.url, payee=payees[1].address) as worker,
        pair.own_worker(payees[2]),
    ):
        assert worker.process is not None
        await worker.process.wait_for_log("started")
        before = [await pair.earned(key) for key in payees]
        outcome = await pair.run(SHARED)
        parts = [(await pair.earned(key) - was) / PRICE for key, was in zip(payees, before, strict=True)]
    assert outcome.one("results") == [-n for n in range(1, 31)]
    assert sorted(one["sliceNumber"] for one in outcome.all("result")) == list(range(1, 31))
    assert outcome.all("duplicate-result") == []
    assert sum(parts) == 30
    assert min(parts) > 0, parts
    await pair.assert_in_order()
