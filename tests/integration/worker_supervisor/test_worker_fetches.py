"""Code, arguments, data, results and guests' fetches over HTTP, through the Worker in whole."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import AsyncIterator

import pytest
from aiohttp import web

from orchestrator import kvin

pytestmark = pytest.mark.docker

JOB = "j" * 22


@dataclasses.dataclass
class Site:
    """A web server on loopback; what was asked of it, and what was posted."""

    origin: str = ""
    asked: list[str] = dataclasses.field(default_factory=list)
    posted: list[dict[str, str]] = dataclasses.field(default_factory=list)

    async def handle(self, request: web.Request) -> web.StreamResponse:
        self.asked.append(f"{request.method} {request.path}")
        match request.path:
            case "/code.js":
                code = "(n, a, b) => { progress(); return [n.x * a, b] }  // ½"
                return web.Response(body=code.encode(), content_type="text/javascript", charset="utf-8")
            case "/argument.json":
                return web.json_response(10)
            case "/store":
                self.posted.append(dict(await request.post()))  # type: ignore[arg-type]
                return web.Response(text=f"kept {len(self.posted)}")
            case "/echo":
                body = await request.text()
                return web.json_response(
                    {"method": request.method, "body": body, "header": request.headers.get("X-Mine")},
                    headers={"X-Theirs": "yes"},
                    status=201,
                )
            case "/away":
                raise web.HTTPFound("http://127.0.0.1:1/elsewhere")
        if request.path.startswith("/datum/"):
            return web.json_response({"x": int(request.path.removeprefix("/datum/"))})
        raise web.HTTPNotFound(text="not here")


@pytest.fixture
async def site() -> AsyncIterator[Site]:
    made = Site()
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", made.handle)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    made.origin = f"http://127.0.0.1:{runner.addresses[0][1]}"
    yield made
    await runner.cleanup()


async def test_code_arguments_and_data_come_from_a_web_server(scheduler, worker, site):
    scheduler.add(
        JOB, "", [f"{site.origin}/datum/{n}" for n in (1, 2, 3)],
        codeLocation=f"{site.origin}/code.js", argumentsLocation=[f"{site.origin}/argument.json", "data:,text"],
    )  # fmt: skip
    async with worker(scheduler, sandboxes=2, allow_origin=(site.origin,)):
        await scheduler.done(3)
    assert [scheduler.value(JOB, n) for n in (1, 2, 3)] == [[10, "text"], [20, "text"], [30, "text"]]
    fetched = ["GET /argument.json", "GET /code.js", *(f"GET /datum/{n}" for n in (1, 2, 3))]
    assert sorted(site.asked) == fetched, "each once, whatever the number of sandboxes"


async def test_a_datum_that_is_missing_costs_its_slice_only(scheduler, worker, site):
    code = "n => { progress(); return n.x }"
    scheduler.add(JOB, code, [f"{site.origin}/datum/5", f"{site.origin}/nothing"])
    async with worker(scheduler, allow_origin=(f"fetchData={site.origin}",)):
        await scheduler.done(2)
    assert scheduler.value(JOB, 1) == 5
    [(_job, number, reason)] = scheduler.returns
    assert (number, reason) == (2, "ESLICEFETCH")


async def test_permission_is_by_purpose(scheduler, worker, site):
    scheduler.add("a" * 22, "", ["data:,1"], codeLocation=f"{site.origin}/code.js")
    scheduler.add("b" * 22, "n => n", ["data:,1"], argumentsLocation=[f"{site.origin}/argument.json"])
    scheduler.add("c" * 22, "n => { progress(); return n.x }", [f"{site.origin}/datum/7"])
    async with worker(scheduler, allow_origin=(f"fetchData={site.origin}",)):
        await scheduler.done(3)
    assert {job[0]: reason for job, _number, reason in scheduler.returns} == {"a": "EPERM_ORIGIN", "b": "EPERM_ORIGIN"}
    assert scheduler.value("c" * 22, 1) == 7
    assert site.asked == ["GET /datum/7"]


async def test_results_are_taken_to_the_jobs_own_storage(scheduler, worker, site):
    storage = {
        "resultStorageType": "pattern",
        "resultStorageDetails": f"{site.origin}/store",
        "resultStorageParams": {"token": "t"},
    }
    data = ["data:application/json,1", "data:application/json,2"]
    scheduler.add(JOB, "n => { progress(); return ['½', n] }", data, slice=storage)
    async with worker(scheduler, allow_origin=(f"sendResults={site.origin}",)):
        await scheduler.done(2)
    assert not scheduler.returns
    posted = {int(fields["element"]): fields for fields in site.posted}
    assert sorted(posted) == [1, 2]
    for number, fields in posted.items():
        assert fields["token"] == "t"
        assert fields["contentType"] == "application/x-kvin"
        assert kvin.parse(fields["content"]) == ["½", number]
    reported = {str(scheduler.results[JOB, number]["result"]) for number in (1, 2)}
    assert all("data:," in text and "kept" in text for text in reported), reported


async def test_a_storage_that_is_not_allowed_gets_nothing(scheduler, worker, site):
    storage = {"resultStorageType": "pattern", "resultStorageDetails": f"{site.origin}/store"}
    scheduler.add(JOB, "n => { progress(); return n }", ["data:application/json,1"], slice=storage)
    async with worker(scheduler, allow_origin=(f"fetchData={site.origin}",)):
        await scheduler.done(1)
    assert scheduler.returns == [(JOB, 1, "EPERM_ORIGIN")]
    assert site.asked == []


GUEST = """async (n, origin) => {
  progress();
  const tell = (error) => [error.name, error.code, error.message];
  const sent = { method: 'POST', body: 'sent', headers: { 'X-Mine': 'h' } };
  const answer = await fetch(origin + '/echo', sent).catch(tell);
  if (Array.isArray(answer)) return { refused: answer };
  const missing = await fetch(origin + '/none');
  return {
    status: answer.status, ok: answer.ok, json: await answer.json(), theirs: answer.headers.get('x-theirs'),
    missing: [missing.status, missing.ok, await missing.text()],
    away: await fetch(origin + '/away').catch(tell), elsewhere: await fetch('http://127.0.0.1:1/').catch(tell),
  };
}"""


async def test_a_work_function_fetches_where_everything_is_allowed(scheduler, worker, site):
    arguments = [f"data:application/json,{json.dumps(site.origin)}"]
    scheduler.add(JOB, GUEST, ["data:,1"], argumentsLocation=arguments)
    async with worker(scheduler, allow_origin=(site.origin,)):
        await scheduler.done(1)
    found = scheduler.value(JOB, 1)
    assert (found["status"], found["ok"], found["theirs"]) == (201, True, "yes")
    assert found["json"] == {"method": "POST", "body": "sent", "header": "h"}
    assert found["missing"] == [404, False, "not here"]
    for refused in (found["away"], found["elsewhere"]):  # where a redirect leads is asked again
        assert refused[:2] == ["TypeError", "EPERM_ORIGIN"]
        assert "127.0.0.1:1" in refused[2]


async def test_a_work_function_fetches_nowhere_else(scheduler, worker, site):
    arguments = [f"data:application/json,{json.dumps(site.origin)}"]
    scheduler.add(JOB, GUEST, ["data:,1"], argumentsLocation=arguments)
    async with worker(scheduler, allow_origin=(f"fetchData={site.origin}",)):
        await scheduler.done(1)
    name, code, message = scheduler.value(JOB, 1)["refused"]
    assert (name, code) == ("TypeError", "EPERM_ORIGIN") and site.origin in message
    assert site.asked == []
