"""Two unmodified official workers on one job: one of them is frozen with a slice, and both want the job's last slice."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import pathlib
import signal
import time
from collections.abc import AsyncIterator, Iterator

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
"""an official worker that sleeps for half a minute takes its slice for one without progress, and trips over its result:
on a machine that is too busy to be quicker it is started anew"""


@dataclasses.dataclass
class Pair(Bench):
    """A Scheduler where slices are late soon, and two dcp-workers."""

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


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def pair(
    tmp_path_factory: pytest.TempPathFactory,
    node: pathlib.Path,
    npm_modules: pathlib.Path,
    postgres_server: PostgresServer,
) -> AsyncIterator[Pair]:
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
            await stack.enter_async_context(official.official_worker(packages, 4, scheduler=url, payee=payee.address))
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
        process.send_signal(signal.SIGCONT)


FIRST_HANGS = f"""
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


async def test_a_frozen_dcp_worker_does_not_keep_the_other_from_ending_the_job(pair: Pair) -> None:
    """Its slice goes to the other as a late one, and is paid once. When it thaws its result is refused, which it takes
    well: it computes the next job."""
    late, since = await pair.late(), 0.0
    with contextlib.ExitStack() as first_is:
        async with pair.client(FIRST_HANGS) as client:
            with frozen(pair.second):
                await client.wait_for("begun")
                first_is.enter_context(frozen(pair.first))
                since = time.monotonic()
            outcome = (await client.finish()).ok()
        paid = [await pair.earned(key) for key in pair.payees]
        assert (paid, await pair.late()) == ([0, PRICE], late)
    if time.monotonic() - since < GIVES_UP_S:
        async with asyncio.timeout(20):
            while await pair.late() == late:
                await asyncio.sleep(0.1)
    else:
        await pair.start_first_anew()
    assert outcome.one("results") == [-1]
    assert len(outcome.all("result")) == 1
    assert len(outcome.all("begun")) == 2
    assert [await pair.earned(key) for key in pair.payees] == paid
    with frozen(pair.second):
        assert (await pair.run(TWO)).one("results") == [-5, -6]
    assert await pair.earned(pair.payees[0]) == paid[0] + 2 * PRICE
    await pair.assert_in_order()


LAST_IS_LONG = f"""
    const job = compute.for(1, 6, (x) => {{
      progress();
      work.emit('begun', {{ x }});
      const end = Date.now() + (x === 6 ? 3000 : 200);
      while (Date.now() < end);
      return -x;
    }});
    job.work.on('begun', (event) => say('begun', event.data.x));
    watch(job);
    say('results', Array.from(await job.exec({PRICE})));
"""


@contextlib.asynccontextmanager
async def other_than_first(pair: Pair, generation: int) -> AsyncIterator[tuple[official.OfficialWorker, PrivateKey]]:
    """The pair's second worker, or a DistributiveWorker in its place; and who is paid for it."""
    if generation == 4:
        yield pair.second, pair.payees[1]
        return
    assert await pair.second.stop() == 0
    payee = PrivateKey.generate()
    async with official.official_worker(pair.packages, 5, scheduler=pair.url, payee=payee.address) as worker:
        yield worker, payee


@pytest.mark.parametrize("generation", [4, 5])
async def test_two_official_workers_end_a_job_together(pair: Pair, generation: int) -> None:
    """Whoever has nothing left takes the last slice, which is late, beside the other; it counts and is paid once, and
    each goes on to the next job."""
    async with other_than_first(pair, generation) as (other, payee):
        whose = (pair.payees[0], payee)
        before = [await pair.earned(key) for key in whose]
        outcome = await pair.run(LAST_IS_LONG)
        assert outcome.one("results") == [-n for n in range(1, 7)]
        assert sorted(one["sliceNumber"] for one in outcome.all("result")) == [1, 2, 3, 4, 5, 6]
        assert outcome.all("begun").count(6) == 2
        then = [await pair.earned(key) for key in whose]
        assert sum(then) - sum(before) == 6 * PRICE
        for number, away in enumerate((other, pair.first)):
            with frozen(away):
                assert (await pair.run(TWO)).one("results") == [-5, -6]
            assert await pair.earned(whose[number]) == then[number] + 2 * PRICE
    await pair.assert_in_order()
