"""Remote data, results elsewhere and the work function's own `fetch`, under an owner's rules, with the official client."""

from __future__ import annotations

import contextlib
import json
import urllib.parse
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest
import pytest_asyncio
from aiohttp import web

from orchestrator import kvin
from tests.e2e import harness
from tests.e2e.harness import ClientRun

pytestmark = [pytest.mark.docker, pytest.mark.npm]

Run = Callable[..., Awaitable[ClientRun]]


class Store:
    """A web server at two origins: `files` for the worker, `service` for work functions. It keeps what it is sent."""

    def __init__(self) -> None:
        self.posted: dict[str, dict[str, str]] = {}
        self.asked: list[str] = []
        self.files = self.service = ""

    @contextlib.asynccontextmanager
    async def serve(self) -> AsyncIterator[Store]:
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", self._handle)
        runner = web.AppRunner(app)
        await runner.setup()
        try:
            for _ in range(2):
                await web.TCPSite(runner, "127.0.0.1", 0).start()
            self.files, self.service = (f"http://127.0.0.1:{address[1]}" for address in runner.addresses)
            yield self
        finally:
            await runner.cleanup()

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        self.asked.append(f"{request.method} {request.host} {request.path}")
        match request.path.split("/")[1:]:
            case ["data", "4"]:
                raise web.HTTPFound(f"{self.service}/data/1")
            case ["data", "5"]:
                raise web.HTTPFound("http://169.254.169.254/latest/meta-data/")
            case ["data", number]:
                return web.json_response({"number": int(number)})
            case ["bad", "1"]:
                return web.Response(text="{", content_type="application/json")
            case ["question"]:
                return web.json_response({"asked": await request.text()})
            case ["results", name]:
                form = urllib.parse.parse_qs(await request.text())
                self.posted[name] = {field: values[0] for field, values in form.items()}
                return web.json_response({"stored": name}, status=201)
        raise web.HTTPNotFound


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def store() -> AsyncIterator[Store]:
    async with Store().serve() as store:
        yield store


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def ruled(store: Store, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[str]:
    """The URL of a Scheduler whose Worker may fetch data from `files`, and its guests from `service`."""
    origins = (f"fetchData={store.files}", f"sendResults={store.files}", f"fetch={store.service}", "fetch=*")
    arguments = [word for origin in origins for word in ("--allow-origin", origin)]
    async with harness.couple(tmp_path_factory.mktemp("ruled"), *arguments) as couple:
        yield couple.url


WORK = """
    const work = async (datum, files, service) => {
      progress();
      const answer = await fetch(service + '/question', { method: 'POST', body: `what is ${datum.number}?` });
      const codes = [];
      for (const forbidden of [files + '/data/1', 'http://169.254.169.254/latest/', 'http://localhost/'])
        await fetch(forbidden).then(() => codes.push('fetched'), (error) => codes.push(error.code));
      return { datum, asked: (await answer.json()).asked, codes };
    };
"""


@pytest.mark.asyncio(loop_scope="session")
async def test_data_results_and_fetch_each_go_where_they_may(run: Run, ruled: str, store: Store) -> None:
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
            "datum": {"number": number},
            "asked": f"what is {number}?",
            # Neither where only the worker may, nor where a star does not reach.
            "codes": ["EPERM_ORIGIN"] * 3,
        }


@pytest.mark.asyncio(loop_scope="session")
@pytest.mark.parametrize(
    ("path", "code"), [("/data/4", "EPERM_ORIGIN"), ("/data/5", "EPERM_ORIGIN"), ("/bad/1", "EBADDATUM")]
)
async def test_the_client_hears_why_its_data_were_refused(
    run: Run, ruled: str, store: Store, path: str, code: str
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
