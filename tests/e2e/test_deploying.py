"""What a deploying client may do besides running a job to its end, each with the official client."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest
import pytest_asyncio

from tests.e2e import harness
from tests.e2e.harness import ClientRun
from tests.e2e.web_store import WebStore

pytestmark = [pytest.mark.docker, pytest.mark.npm]

Run = Callable[..., Awaitable[ClientRun]]

SAME = "const same = (x) => { progress(); return x; };\n"
SLOW = "const slow = (x) => { progress(); const end = Date.now() + 200; while (Date.now() < end); return x; };\n"


async def test_slices_are_added_to_an_open_job(run: Run) -> None:
    program = """
        const { addSlices, fetchResults } = require('dcp/job');
        const job = compute.for([1, 2], same);
        job.autoClose = false;
        let heard = 0;
        const two = new Promise((resolve) => job.on('result', () => { if (++heard == 2) resolve(); }));
        const results = job.exec();
        await two;
        say('open', await compute.status(job.id));
        await addSlices([3, 4], job.id);
        await addSlices([3, 4], job.id);
        await job.close();
        say('results', Array.from(await results));
        say('fetched', await fetchResults(job.id, [2, 3]));
    """
    outcome = (await run(SAME + program)).ok()
    status = outcome.one("open")
    assert (status["total"], status["computed"], status["isOpen"]) == (2, 2, True)
    # The same values once more are more slices, not a repetition.
    assert outcome.one("results") == [1, 2, 3, 4, 3, 4]
    assert outcome.one("fetched") == [{"slice": 2, "value": 2}, {"slice": 3, "value": 3}]


async def test_an_open_range_waits_for_close(run: Run) -> None:
    program = """
        const job = compute.for(1, 2, same);
        job.autoClose = false;
        const results = job.exec();
        let heard = 0;
        await new Promise((resolve) => job.on('result', () => { if (++heard == 2) resolve(); }));
        say('before', (await compute.status(job.id)).status);
        await job.close();
        say('results', Array.from(await results));
    """
    outcome = (await run(SAME + program)).ok()
    assert outcome.one("before") in ("estimation", "running")
    assert outcome.one("results") == [1, 2]


async def test_a_job_that_has_ended_takes_no_slices(run: Run) -> None:
    program = """
        const job = compute.for([1], same);
        await job.exec();
        setInterval(() => {}, 1000);  // the client's own connections do not keep Node alive
        try { await require('dcp/job').addSlices([2], job.id); }
        catch (answer) { say('refused', answer.payload); }
    """
    refused = (await run(SAME + program)).ok().one("refused")
    assert refused["code"] == "ECLOSED"
    assert "is finished" in refused["message"]


@pytest.mark.parametrize("way", ["the account", "an idle client"])
async def test_the_payment_account_cancels(run: Run, way: str) -> None:
    """Both come over a fresh connection whose identity is the payment account's."""
    cancel = {
        "the account": "compute.cancel(job.id, await wallet.get('default'), 'enough')",
        "an idle client": "new Promise((resolve) => setTimeout(resolve, 700)).then(() => job.cancel('enough'))",
    }
    program = """
        require('dcp/dcp-config').job.deployCloseTimeout = 100;
        const job = compute.for(1, 200, slow);
        job.on('status', (event) => say('status', event));
        const ended = job.exec().catch((error) => say('rejected', [error.message, error.code]));
        await new Promise((resolve) => job.on('result', resolve));
        say('answer', await CANCEL);
        say('again', await compute.cancel(job.id, await wallet.get('default')));
        await ended;
        say('listed', await compute.status({ statuses: ['cancelled'] }));
        say('running', await compute.status({ statuses: ['running', 'estimation', 'new'] }));
    """.replace("CANCEL", cancel[way])
    outcome = (await run(SLOW + program)).ok()
    assert outcome.one("answer")["status"] == outcome.one("again")["status"] == "cancelled"
    assert outcome.one("rejected") == ["enough", "ECANCELLED"]
    (report,) = outcome.one("listed")
    assert (report["reason"], report["total"]) == ("enough", 200)
    assert report["distributed"] == report["computed"] < 200
    assert outcome.one("running") == []
    for status in outcome.all("status"):
        assert 0 <= status["computed"] <= status["distributed"] <= status["total"] == 200


async def test_distribution_ranges(run: Run) -> None:
    program = """
        const { DistributionRange, MultiRangeObject } = require('dcp/range-object');
        const drawn = new DistributionRange(4, 'random', 0, 1);
        drawn.materialize();
        say('values', drawn.values);
        say('results', Array.from(await compute.for(drawn, same).exec()));
        say('random', Array.from(await compute.for(new DistributionRange(5, 'randomInt', 10, 20), same).exec()));
        say('product', Array.from(await compute.for(new MultiRangeObject({ start: 1, end: 2, step: 1 }, drawn), same).exec()));
    """
    outcome = (await run(SAME + program)).ok()
    values = outcome.one("values")
    assert outcome.one("results") == values
    assert len(outcome.one("random")) == 5
    assert all(10 <= number < 20 for number in outcome.one("random"))
    assert outcome.one("product") == [[first, value] for first in (1, 2) for value in values]


# -- data, code and results elsewhere


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def store() -> AsyncIterator[WebStore]:
    async with WebStore().serve() as store:
        yield store


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def worldly(store: WebStore, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[str]:
    """The URL of a Scheduler whose Worker may fetch from the store."""
    async with harness.couple(tmp_path_factory.mktemp("worldly"), "--allow-origin", store.files) as couple:
        yield couple.url


@pytest.mark.asyncio(loop_scope="session")
async def test_data_and_code_are_fetched(run: Run, worldly: str, store: WebStore) -> None:
    program = """
        const at = (path) => new URL(path, ORIGIN);
        const both = (x, y) => { progress(); return [x, y]; };
        say('pattern', Array.from(await compute.for(new compute.RemoteDataPattern(ORIGIN + '/data/{slice}', 3), same).exec()));
        say('set', Array.from(await compute.for(new compute.RemoteDataSet([ORIGIN + '/data/a', ORIGIN + '/data/b']), same).exec()));
        say('work', Array.from(await compute.for(1, 2, at('/work.js'), [at('/data/c')]).exec()));
        say('forbidden', await compute.for(new compute.RemoteDataPattern('http://127.0.0.1:9/{slice}', 1), same).exec().catch((e) => e.code));
    """.replace("ORIGIN", json.dumps(store.files))
    outcome = (await run(SAME + program, scheduler=worldly)).ok()
    assert outcome.one("pattern") == [{"name": "1"}, {"name": "2"}, {"name": "3"}]
    assert outcome.one("set") == [{"name": "a"}, {"name": "b"}]
    assert outcome.one("work") == [[1, {"name": "c"}], [2, {"name": "c"}]]
    assert outcome.one("forbidden") == "ETOOMANYERRORS"


@pytest.mark.asyncio(loop_scope="session")
async def test_results_are_stored_elsewhere(run: Run, worldly: str, store: WebStore) -> None:
    program = """
        const job = compute.for(1, 2, same);
        job.setResultStorage(new URL('/results/{job}-{slice}', ORIGIN), { key: 'secret' });
        say('answers', Array.from(await job.exec()));
        say('job', job.id);
    """.replace("ORIGIN", json.dumps(store.files))
    outcome = (await run(SAME + program, scheduler=worldly)).ok()
    names = [f"{outcome.one('job')}-{number}" for number in (1, 2)]
    assert outcome.one("answers") == [{"stored": name} for name in names]
    assert [store.posted[name]["key"] for name in names] == ["secret", "secret"]
    assert [store.posted[name]["element"] for name in names] == ["1", "2"]
