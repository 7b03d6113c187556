"""The unmodified official workers compute for our Scheduler, alone, beside our Worker, and inside a client (localExec).

One Scheduler, one dcp-worker and one wallet serve most tests: an official worker takes seconds to start.
"""

from __future__ import annotations

import contextlib
import dataclasses
import pathlib
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from orchestrator.protocol.client import DcpClient
from orchestrator.wallet import files
from orchestrator.wallet.keys import PrivateKey
from tests.e2e import harness, official

pytestmark = [pytest.mark.docker, pytest.mark.npm, pytest.mark.asyncio(loop_scope="module")]

PRICE = 2.5
CREDIT = 1000


@dataclasses.dataclass
class Bench:
    """A Scheduler with a client's wallet, and who is paid how much."""

    url: str
    wallet: harness.Wallet
    packages: official.Packages
    folder: pathlib.Path

    def client(self, program: str) -> contextlib.AbstractAsyncContextManager[harness.Client]:
        packages = self.packages
        return harness.client(
            program, scheduler=self.url, wallet=self.wallet, node=packages.node, npm_modules=packages.npm_modules
        )

    async def run(self, program: str) -> harness.ClientRun:
        async with self.client(program) as client:
            return (await client.finish(within=120)).ok()

    async def earned(self, key: PrivateKey) -> float:
        """DCC that came to an account since it was opened with its first credit."""
        async with DcpClient(PrivateKey.generate()) as own:
            teller = own.connect(f"{self.url}bankTeller/")
            answer = await teller.request("viewAccount", {"address": key.address}, authorize=[key])
        return float(answer["balance"]) - CREDIT

    def own_worker(self, payee: PrivateKey) -> contextlib.AbstractAsyncContextManager[harness.Command]:
        return own_worker(self.url, self.folder / payee.address, payee)


@contextlib.asynccontextmanager
async def own_worker(url: str, folder: pathlib.Path, payee: PrivateKey) -> AsyncIterator[harness.Command]:
    folder.mkdir()
    command = await harness.Command.start(
        "worker", "run", "--scheduler", url, "--state", str(folder / "state"), "--sandboxes", "1",
        "--payment-address", payee.address, log=folder / "log",
    )  # fmt: skip
    try:
        await command.wait_for_line("ready ")
        yield command
    finally:
        await command.stop()


@contextlib.asynccontextmanager
async def scheduler(state: pathlib.Path, *options: str) -> AsyncIterator[str]:
    """The URL of a Scheduler."""
    command = await harness.Command.start(
        "scheduler", "run", "--port", "0", "--state", str(state), "--initial-credit", str(CREDIT), *options,
        log=state.with_suffix(".log"),
    )  # fmt: skip
    try:
        yield (await command.wait_for_line("ready ")).split()[1]
    finally:
        await command.stop()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def bench(
    tmp_path_factory: pytest.TempPathFactory, node: pathlib.Path, npm_modules: pathlib.Path
) -> AsyncIterator[Bench]:
    folder = tmp_path_factory.mktemp("official")
    (folder / "dcp").mkdir()
    async with scheduler(folder / "scheduler") as url:
        wallet = await harness.Wallet.create(folder / "dcp")
        yield Bench(url, wallet, official.Packages(node, npm_modules), folder)


@dataclasses.dataclass
class Hired:
    worker: official.OfficialWorker
    payee: PrivateKey


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def hired(bench: Bench) -> AsyncIterator[Hired]:
    """A dcp-worker 3.3.19 with one core."""
    payee = PrivateKey.generate()
    async with official.official_worker(bench.packages, 4, scheduler=bench.url, payee=payee.address) as worker:
        yield Hired(worker, payee)


THREE_JOBS = f"""
    const listed = compute.for([7, 'x y%z é😀', {{ a: [1, 2] }}, null, new Date(5), new Uint8Array([1, 255])],
        (x, k) => {{ progress(); console.log('at', x); return [x, k]; }}, [{{ k: [new Map([[1, 2]])] }}]);
    listed.on('console', (event) => say('console', event.message));
    const range = compute.for(1, 6, (x) => {{ progress(); work.emit('seen', {{ x: [x] }}); return x * x; }});
    range.work.on('seen', (event) => say('seen', event.data.x));
    const throwing = compute.for(1, 4, (x) => {{ progress(); if (x === 2) throw new RangeError('not two'); return x; }});
    throwing.on('error', (event) => say('error', [event.name, event.message, event.sliceNumber]));
    const done = await Promise.all([listed.exec({PRICE}), range.exec({PRICE}), throwing.exec({PRICE})]);
    say('listed', Array.from(done[0], ([x, k]) => [x && x.constructor.name, JSON.stringify(x), k.k[0].get(1)]));
    say('range', Array.from(done[1]));
    say('throwing', [1, 3, 4].map((n) => done[2].lookupValue(n)));
    say('address', [listed.id, listed.address]);
"""


async def test_a_dcp_worker_alone_computes_jobs_and_is_paid(bench: Bench, hired: Hired) -> None:
    outcome = await bench.run(THREE_JOBS)
    assert outcome.one("listed") == [
        ["Number", "7", 2],
        ["String", '"x y%z é😀"', 2],
        ["Object", '{"a":[1,2]}', 2],
        [None, "null", 2],
        ["Date", '"1970-01-01T00:00:00.005Z"', 2],
        ["Uint8Array", '{"0":1,"1":255}', 2],
    ]
    assert outcome.one("range") == [1, 4, 9, 16, 25, 36]
    assert outcome.one("throwing") == [1, 3, 4]
    assert sorted(outcome.all("seen")) == [[n] for n in range(1, 7)]
    assert ["at", 7] in outcome.all("console")
    assert ["RangeError", "not two", 2] in outcome.all("error")
    assert await bench.earned(hired.payee) == (6 + 6 + 3) * PRICE


SLOW_JOB = """
    const job = compute.for(1, %d, (x) => { progress(); const end = Date.now() + 250; while (Date.now() < end); return -x; });
    job.on('result', (event) => say('result', event.sliceNumber));
    job.on('duplicate-result', (event) => say('duplicate', event.sliceNumber));
    say('results', Array.from(await job.exec(%s)));
"""


async def test_a_dcp_worker_that_stops_gives_back_what_it_has_not_computed(bench: Bench, hired: Hired) -> None:
    """And our Worker finishes the job; each is paid for what it did."""
    own, before = PrivateKey.generate(), await bench.earned(hired.payee)
    async with bench.client(SLOW_JOB % (16, PRICE)) as client:
        await client.wait_for("result", count=5)
        assert await hired.worker.stop() == 0
        async with bench.own_worker(own):
            outcome = (await client.finish()).ok()
    assert outcome.one("results") == [-n for n in range(1, 17)]
    assert outcome.all("duplicate") == []
    official_part = (await bench.earned(hired.payee) - before) / PRICE
    assert official_part >= 5
    assert official_part + await bench.earned(own) / PRICE == 16
    assert await bench.earned(own) > 0


async def test_a_dcp_worker_with_many_jobs_of_one_slice_computes_all_those_of_its_group(bench: Bench) -> None:
    """It proves with its session's id that it knows the group's secret. Each of the jobs is almost done from the start,
    which an official worker must not be told of several."""
    payee = PrivateKey.generate()
    program = f"""
        const groups = require('dcp/compute-groups');
        const lab = {{ joinKey: 'lab', joinSecret: 'tiger' }};
        await groups.createGroup({{ ...lab }}, 'Lab');
        const jobs = [1, 2, 3, 4, 5].map((n) => compute.for([n], (x) => {{ progress(); return x * 2; }}));
        for (const job of jobs.slice(1)) job.computeGroups = [lab];
        const done = jobs.map((job) => job.exec({PRICE}));
        let accepted = 0;
        for (const job of jobs) job.on('accepted', () => {{ if (++accepted === 5) say('deployed'); }});
        jobs[0].on('result', () => say('public'));
        say('results', (await Promise.all(done.slice(1))).map((results) => results[0]));
        done[0].catch((error) => {{}});
        await jobs[0].cancel();
    """
    async with bench.client(program) as client:
        await client.wait_for("deployed")
        async with official.official_worker(
            bench.packages, 4, scheduler=bench.url, payee=payee.address, cores=4,
            options=("--join", "lab,tiger", "--leavePublicGroup"),
        ):  # fmt: skip
            outcome = (await client.finish()).ok()
    assert outcome.one("results") == [4, 6, 8, 10]
    assert outcome.all("public") == []
    assert await bench.earned(payee) == 4 * PRICE


async def test_a_dcp_worker_that_was_killed_starts_anew_with_what_it_held(bench: Bench, hired: Hired) -> None:
    """Its first request gives its slices back: nobody waits for the end of its lease, which is minutes away."""
    before = await bench.earned(hired.payee)
    await hired.worker.start()
    async with bench.client(SLOW_JOB % (12, PRICE)) as client:
        await client.wait_for("result", count=4)
        assert hired.worker.process is not None
        await hired.worker.process.kill()
        await hired.worker.start()
        outcome = (await client.finish()).ok()
    assert outcome.one("results") == [-n for n in range(1, 13)]
    assert await bench.earned(hired.payee) - before == 12 * PRICE


async def test_what_a_killed_dcp_worker_held_goes_to_another_when_its_lease_ends(bench: Bench) -> None:
    """It does not come back, and says nothing. Every slice is paid once, to whoever computed it."""
    program = f"""
        const job = compute.for(1, 4, (x) => {{
          progress();
          work.emit('begun', {{ x }});
          const end = Date.now() + (x > 2 ? 1500 : 1);
          while (Date.now() < end);
          return -x;
        }});
        job.estimationSlices = 4;
        job.work.on('begun', (event) => say('begun', event.data.x));
        watch(job);
        say('results', Array.from(await job.exec({PRICE})));
    """
    theirs, own = PrivateKey.generate(), PrivateKey.generate()
    async with scheduler(
        bench.folder / "short", "--lease", "4", "--late-unknown", "3600", "--late-bias", "3600"
    ) as url:
        there = dataclasses.replace(bench, url=url)
        async with there.client(program) as client:
            async with official.official_worker(bench.packages, 4, scheduler=url, payee=theirs.address) as worker:
                await client.wait_for("begun", count=3)
                assert worker.process is not None
                await worker.process.kill()
            async with there.own_worker(own):
                outcome = (await client.finish()).ok()
        assert outcome.one("results") == [-1, -2, -3, -4]
        assert sorted(one["sliceNumber"] for one in outcome.all("result")) == [1, 2, 3, 4]
        assert outcome.all("duplicate-result") == []
        assert outcome.all("begun").count(3) == 2  # the official worker began it, ours computed it
        assert [await there.earned(key) for key in (theirs, own)] == [2 * PRICE, 2 * PRICE]
        assert "lease-expired" in (bench.folder / "short.log").read_text()


async def test_both_workers_side_by_side_on_one_job(bench: Bench, hired: Hired) -> None:
    own, before = PrivateKey.generate(), await bench.earned(hired.payee)
    async with bench.own_worker(own):
        outcome = await bench.run(SLOW_JOB % (40, PRICE))
    assert outcome.one("results") == [-n for n in range(1, 41)]
    assert outcome.all("duplicate") == []
    official_part = (await bench.earned(hired.payee) - before) / PRICE
    own_part = await bench.earned(own) / PRICE
    assert official_part > 0
    assert own_part > 0
    assert official_part + own_part == 40


async def test_a_distributive_worker_of_dcp_client_5_computes_and_is_paid(bench: Bench, hired: Hired) -> None:
    assert await hired.worker.stop() == 0
    payee = PrivateKey.generate()
    async with official.official_worker(bench.packages, 5, scheduler=bench.url, payee=payee.address) as worker:
        outcome = await bench.run(THREE_JOBS)
        assert await worker.stop() == 0
    assert outcome.one("range") == [1, 4, 9, 16, 25, 36]
    assert outcome.one("throwing") == [1, 3, 4]
    assert len(outcome.one("listed")) == 6
    assert await bench.earned(payee) == (6 + 6 + 3) * PRICE


async def test_a_client_computes_its_job_itself(bench: Bench) -> None:
    """`job.localExec`: values stay in files of the client's machine; no worker but the client's own is asked or paid."""
    program = """
        await require('dcp/identity').login();
        const listed = compute.for([1, 'two', { a: [3] }], (x, k) => { progress(); return [x, k]; }, [{ k: [7, 8] }]);
        listed.on('result', (event) => say('result', event.sliceNumber));
        say('listed', Array.from(await listed.localExec()));
        const range = compute.for(1, 5, (x) => { progress(); return x * x; });
        say('range', Array.from(await range.localExec()));
    """
    account = await files.load(bench.wallet.folder / "default.keystore").unlock("")
    before = await bench.earned(account)
    with official.folder_of_nobody() as folder:
        wallet = official.copy_of_wallet(bench.wallet, folder)
        async with harness.client(
            program, scheduler=bench.url, wallet=wallet, node=bench.packages.node,
            npm_modules=bench.packages.npm_modules, cwd=folder, **official.UNPRIVILEGED,
        ) as client:  # fmt: skip
            outcome = (await client.finish()).ok()
    assert outcome.one("listed") == [[1, {"k": [7, 8]}], ["two", {"k": [7, 8]}], [{"a": [3]}, {"k": [7, 8]}]]
    assert sorted(outcome.all("result")) == [1, 2, 3]
    assert outcome.one("range") == [1, 4, 9, 16, 25]
    assert await bench.earned(account) == before
