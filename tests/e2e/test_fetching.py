"""Remote data, results elsewhere and the work function's own `fetch`, under an owner's rules, with the official client."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest
import pytest_asyncio

from orchestrator import kvin
from tests.e2e import harness
from tests.e2e.harness import ClientRun
from tests.e2e.web_store import WebStore

pytestmark = [pytest.mark.docker, pytest.mark.npm]

Run = Callable[..., Awaitable[ClientRun]]


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def store() -> AsyncIterator[WebStore]:
    async with WebStore().serve() as store:
        yield store


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def ruled(store: WebStore, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[str]:
    """The URL of a Scheduler whose Worker may fetch data from `files`, and its guests from `service`."""
    origins = (f"fetchData={store.files}", f"sendResults={store.files}", f"fetch={store.service}", "fetch=*")
    arguments = [word for origin in origins for word in ("--allow-origin", origin)]
    async with harness.couple(tmp_path_factory.mktemp("ruled"), *arguments) as couple:
        yield couple.url


WORK = """
    const work = async (datum, files, service) => {
      progress();
      const answer = await fetch(service + '/question', { method: 'POST', body: `what is ${datum.name}?` });
      const codes = [];
      for (const forbidden of [files + '/data/1', 'http://169.254.169.254/latest/', 'http://localhost/'])
        await fetch(forbidden).then(() => codes.push('fetched'), (error) => codes.push(error.code));
      return { datum, asked: (await answer.json()).asked, codes };
    };
"""


@pytest.mark.asyncio(loop_scope="session")
async def test_data_results_and_fetch_each_go_where_they_may(run: Run, ruled: str, store: WebStore) -> None:
    program = """
        const job = compute.for(new compute.RemoteDataPattern(FILES + '/data/{slice}', 2), work, [FILES, SERVICE]);
        job.setResultStorage(new URL('/results/{slice}', FILES), { key: 'secret' });
        say('answers', Array.from(await job.exec()));
    """
    program = (WORK + program).replace("FILES", json.dumps(store.files)).replace("SERVICE", json.dumps(store.service))
    outcome = (await run(program, scheduler=ruled)).ok()
    assert outcome.one("answers") == [{"stored": "1"}, {"stored": "2"}]
    for number in (1, 2):
        form = store.posted[str(number)]
        assert (form["key"], form["element"]) == ("secret", str(number))
        assert kvin.parse(form["content"]) == {
            "datum": {"name": str(number)},
            "asked": f"what is {number}?",
            # Neither where only the worker may, nor where a star does not reach.
            "codes": ["EPERM_ORIGIN"] * 3,
        }


@pytest.mark.asyncio(loop_scope="session")
@pytest.mark.parametrize(
    ("path", "code"), [("/moved/1", "EPERM_ORIGIN"), ("/moved/2", "EPERM_ORIGIN"), ("/bad/1", "EBADDATUM")]
)
async def test_the_client_hears_why_its_data_were_refused(
    run: Run, ruled: str, store: WebStore, path: str, code: str
) -> None:
    program = """
        const job = compute.for(new compute.RemoteDataSet([AT]), (x) => { progress(); return x; });
        job.on('error', (event) => say('error', [event.code, event.message]));
        say('ended', await job.exec().then(() => 'well', (error) => error.code));
    """.replace("AT", json.dumps(store.files + path))
    outcome = (await run(program, scheduler=ruled)).ok()
    assert outcome.one("ended") == "ETOOMANYERRORS"
    *errors, last = outcome.all("error")
    assert errors and {error[0] for error in errors} == {code}
    assert last[0] == "ETOOMANYATTEMPTS" and code in last[1]
    assert all("169.254.169.254" not in request for request in store.asked)
