"""The fetcher against a real HTTP server on this machine."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
from aiohttp import web

from orchestrator.worker.fetcher import Fetcher, FetchFailed, FetchLimits
from orchestrator.worker.origins import OriginForbidden, OriginRules, Purpose

NOWHERE = "http://scheduler.invalid/"


class Site:
    """A server whose pages the tests define, with a count of what was asked."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.pages: dict[str, web.Response] = {}
        self.gate = asyncio.Event()
        self.posted: dict[str, str] = {}

    async def handle(self, request: web.Request) -> web.StreamResponse:
        self.asked.append(f"{request.method} {request.path}")
        match request.path:
            case "/moved":
                raise web.HTTPFound(request.query["to"])
            case "/loop":
                raise web.HTTPFound("/loop")
            case "/slow":
                await self.gate.wait()
                return web.Response(text="late")
            case "/store":
                self.posted = dict(await request.post())
                return web.Response(text="https://kept.example/7")
            case "/drip":
                response = web.StreamResponse()
                await response.prepare(request)
                await response.write(b"x" * 200)
                await self.gate.wait()
                return response
            case "/broken":
                response = web.StreamResponse(headers={"Content-Length": "1000"})
                await response.prepare(request)
                await response.write(b"x")
                request.transport.close()
                return response
            case "/ok.js":
                return web.Response(body="n => '½'".encode(), content_type="text/javascript", charset="utf-8")
            case "/code.txt":
                return web.Response(text="n => n")
            case "/value.json":
                return web.json_response({"a": [1, "%", "½"]})
            case "/latin":
                return web.Response(body=b"\xbd", content_type="text/plain", charset="latin-1")
            case "/lies":
                return web.Response(body=b"\xff\xff", content_type="text/plain", charset="utf-8")
            case "/bytes":
                return web.Response(body=b"\x00\xff", content_type="image/png")
            case "/big":
                return web.Response(body=b"x" * 1001)
        raise web.HTTPNotFound


@pytest.fixture
async def site() -> AsyncIterator[tuple[Site, str]]:
    pages = Site()
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", pages.handle)
    runner = web.AppRunner(app)
    await runner.setup()
    listener = web.TCPSite(runner, "127.0.0.1", 0)
    await listener.start()
    port = runner.addresses[0][1]
    yield pages, f"http://127.0.0.1:{port}"
    pages.gate.set()
    await runner.cleanup()


def fetcher(origin: str, *entries: str, **limits: float) -> Fetcher:
    rules = OriginRules.parse(NOWHERE, entries or [origin])
    return Fetcher(rules, FetchLimits(**{"max_bytes": 1000, **limits}))


async def test_data_uris_pass_through_untouched(site):
    _pages, origin = site
    async with fetcher(origin) as f:
        assert await f.datum("data:application/json,%ZZ") == "data:application/json,%ZZ"


@pytest.mark.parametrize(
    ("path", "uri"),
    [
        ("/ok.js", "data:text/javascript,n%20=%3E%20'%C2%BD'"),
        ("/code.txt", "data:,n%20=%3E%20n"),
        ("/value.json", "data:application/json,%7B%22a%22:%20%5B1,%20%22%25%22,%20%22%5Cu00bd%22%5D%7D"),
        ("/latin", "data:,%C2%BD"),
        ("/bytes", "data:image/png;base64,AP8="),
    ],
)
async def test_content_becomes_a_data_uri_of_its_type(site, path, uri):
    _pages, origin = site
    async with fetcher(origin) as f:
        assert await f.datum(origin + path) == uri


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("/missing", "404"),
        ("/big", "limit of 1000"),
        ("/loop", "redirects"),
        ("/broken", "payload"),
        ("/lies", "not text in utf-8"),
    ],
)
async def test_bad_answers(site, path, message):
    _pages, origin = site
    async with fetcher(origin) as f:
        with pytest.raises(FetchFailed, match=message):
            await f.datum(origin + path)


async def test_a_slow_drip_ends_at_the_deadline(site):
    _pages, origin = site
    async with fetcher(origin, timeout_s=0.05) as f:
        with pytest.raises(FetchFailed, match=r"more than 0\.05 s"):
            await f.datum(origin + "/drip")


async def test_nobody_there():
    async with fetcher("http://127.0.0.1:1") as f:
        with pytest.raises(FetchFailed):
            await f.datum("http://127.0.0.1:1/x")


async def test_redirects_are_checked_again(site):
    pages, origin = site
    other = origin.replace("127.0.0.1", "localhost")
    async with fetcher(origin) as f:
        assert (await f.datum(f"{origin}/moved?to=/code.txt")).startswith("data:,")
        with pytest.raises(OriginForbidden):
            await f.datum(f"{origin}/moved?to={other}/code.txt")
        with pytest.raises(OriginForbidden):
            await f.datum(f"{origin}/moved?to=file:///etc/passwd")
    assert pages.asked.count("GET /code.txt") == 1


async def test_a_place_that_answers_with_errors_is_left_alone_for_a_growing_while(site):
    pages, origin = site
    now = 1000.0
    rules = OriginRules.parse(NOWHERE, [origin])
    async with Fetcher(rules, clock=lambda: now) as f:
        for pause in (2, 4, 8):
            with pytest.raises(FetchFailed) as caught:
                await f.datum(origin + "/gone/1")
            assert (caught.value.code, caught.value.retry_after_s) == ("ESLICEFETCH", pause)
            with pytest.raises(FetchFailed, match="left alone") as caught:
                await f.artifact(origin + "/gone/2", Purpose.WORK_FUNCTIONS)
            assert caught.value.code == "EJOBFETCH"
            assert await f.datum(origin + "/code.txt")  # another place of the same origin
            now += pause
    assert pages.asked.count("GET /gone/1") == 3 and "GET /gone/2" not in pages.asked


async def test_an_artifact_is_fetched_once_for_everybody(site):
    pages, origin = site
    async with fetcher(origin) as f:
        waiting = [asyncio.ensure_future(f.artifact(origin + "/slow", Purpose.ARGUMENTS)) for _ in range(3)]
        await asyncio.sleep(0)
        waiting[0].cancel()  # who gives up does not take it from the others
        await asyncio.wait(waiting[:1])
        pages.gate.set()
        assert await asyncio.gather(*waiting[1:]) == ["data:,late"] * 2
        assert await f.artifact(origin + "/slow", Purpose.WORK_FUNCTIONS) == "data:,late"
    assert pages.asked == ["GET /slow"]


async def test_a_cached_artifact_is_no_permission(site):
    _pages, origin = site
    async with fetcher(origin, f"fetchArguments={origin}") as f:
        await f.artifact(origin + "/code.txt", Purpose.ARGUMENTS)
        with pytest.raises(OriginForbidden):
            await f.artifact(origin + "/code.txt", Purpose.WORK_FUNCTIONS)


async def test_the_cache_is_bounded(site):
    _pages, origin = site
    async with fetcher(origin, cache_bytes=100) as f:
        for path in ("/ok.js", "/code.txt", "/latin", "/value.json"):
            await f.artifact(origin + path, Purpose.ARGUMENTS)
        statistics = f.statistics()
        assert statistics["cached_size"] <= 100 and statistics["cached"] == 2


async def test_work_functions_are_text(site):
    _pages, origin = site
    async with fetcher(origin) as f:
        assert await f.text("data:,n%20=%3E%20n", Purpose.WORK_FUNCTIONS) == "n => n"
        assert await f.text(origin + "/ok.js", Purpose.WORK_FUNCTIONS) == "n => '½'"
        with pytest.raises(FetchFailed, match="not UTF-8"):
            await f.text(origin + "/bytes", Purpose.WORK_FUNCTIONS)
        with pytest.raises(FetchFailed):
            await f.text("data:nonsense", Purpose.WORK_FUNCTIONS)


async def test_results_are_posted_to_their_storage(site):
    pages, origin = site
    async with fetcher(origin, f"sendResults={origin}") as f:
        uri = await f.store_result(origin + "/store", 7, '{"x":"½"}', "application/json", {"token": "t", "n": 1})
        assert uri == "data:,https://kept.example/7"
        with pytest.raises(OriginForbidden):
            await f.store_result("http://elsewhere.example/", 7, "", "text/plain", {})
    assert pages.posted == {
        "contentType": "application/json",
        "element": "7",
        "content": '{"x":"½"}',
        "token": "t",
        "n": "1",
    }


async def test_a_guest_may_fetch_only_where_everything_is_allowed(site):
    _pages, origin = site
    async with fetcher(origin, f"fetchData={origin}") as f:
        with pytest.raises(OriginForbidden):
            await f.for_guest({"url": origin + "/code.txt"})
    async with fetcher(origin) as f:
        answer = await f.for_guest({"url": origin + "/missing", "headersEntries": [["Cookie", "x"], ["X-A", "b"]]})
        assert answer.status == 404
        with pytest.raises(FetchFailed):
            await f.for_guest({"url": origin, "method": "CONNECT"})


async def test_files_are_read_when_allowed(tmp_path):
    file = tmp_path / "a.json"
    file.write_text('{"a":1}')
    async with fetcher("", f"file://{file}") as f:
        assert await f.datum(f"file://{file}") == "data:application/json,%7B%22a%22:1%7D"
        with pytest.raises(OriginForbidden):
            await f.datum(f"file://{tmp_path}/b.json")
