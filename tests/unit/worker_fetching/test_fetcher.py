"""The fetcher against a real HTTP server on this machine."""

from __future__ import annotations

import asyncio
import os
import ssl

import pytest

from orchestrator.worker.fetching.failures import Cause, FetchFailed
from orchestrator.worker.fetching.fetcher import Errand
from orchestrator.worker.origins import OriginForbidden, Purpose
from tests.unit.worker_fetching.bad_server import certificate, serving

LOCAL = Errand(local=True)


async def test_data_uris_pass_through_untouched(fetcher):
    async with fetcher() as f:
        assert await f.datum("data:application/json,%ZZ") == "data:application/json,%ZZ"


@pytest.mark.parametrize(
    ("path", "uri"),
    [
        ("/ok.js", "data:text/javascript,n%20=%3E%20'%C2%BD'"),
        ("/code.txt", "data:,n%20=%3E%20n"),
        ("/value.json", "data:application/json,%7B%22a%22:%20%5B1,%20%22%25%22,%20%22%5Cu00bd%22%5D%7D"),
        ("/latin", "data:,%C2%BD"),
        ("/bytes", "data:image/png;base64,AP8="),
        ("/zipped", "data:,zipped"),
    ],
)
async def test_content_becomes_a_data_uri_of_its_type(fetcher, site, path, uri):
    async with fetcher() as f:
        assert await f.datum(site.origin + path) == uri


#: path → why it fails; whether it may pass by waiting decides over the code.
BAD = {
    "/missing": Cause.STATUS,
    "/hangs-up": Cause.NETWORK,
    "/no-http": Cause.NETWORK,
    "/many-headers": Cause.NETWORK,
    "/long-header": Cause.NETWORK,
    "/truncated": Cause.TRUNCATED,
    "/bad-chunks": Cause.STALLED,  # aiohttp stops reading there, and says nothing
    "/cut-chunks": Cause.TRUNCATED,
    "/cut-zip": Cause.TRUNCATED,
    "/stalled": Cause.STALLED,
    "/drip": Cause.STALLED,
    "/big": Cause.TOO_LARGE,
    "/big-chunks": Cause.TOO_LARGE,
    "/bomb": Cause.TOO_LARGE,
    "/loop": Cause.REDIRECTS,
    "/brotli": Cause.TYPE,
    "/lies": Cause.UNDECODABLE,
    "/charset": Cause.UNDECODABLE,
}
LASTING = {Cause.TOO_LARGE, Cause.REDIRECTS, Cause.TYPE, Cause.UNDECODABLE, Cause.URI, Cause.FILE}


@pytest.mark.parametrize(("path", "cause"), BAD.items())
async def test_bad_answers(fetcher, site, path, cause):
    idle_s = 0.05 if cause is Cause.STALLED else 15
    async with fetcher(idle_s=idle_s) as f:
        with pytest.raises(FetchFailed) as datum:
            await f.datum(site.origin + path)
    async with fetcher(idle_s=idle_s) as f:
        with pytest.raises(FetchFailed) as code:
            await f.text(site.origin + path, Purpose.WORK_FUNCTIONS)
    async with fetcher(idle_s=idle_s) as f:
        with pytest.raises(FetchFailed) as module:
            await f.module(site.origin + path)
    lasts = cause in LASTING
    expected = ("EFETCH", "EFETCH", "EMODULETOOBIG" if cause is Cause.TOO_LARGE else "EFETCH")
    codes = (datum.value.code, code.value.code, module.value.code)
    assert codes == (expected if lasts else ("ESLICEFETCH", "EJOBFETCH", "EMODULEFETCH"))
    for caught in (datum, code, module):
        assert caught.value.info == {"cause": cause.value}
        assert caught.value.retryable is not lasts
        assert (caught.value.retry_after_s > 0) is not lasts


async def test_a_drip_that_is_fast_enough_still_ends_at_the_deadline(fetcher, site):
    async with fetcher(idle_s=5, least_bytes=1, timeout_s=0.1) as f:
        with pytest.raises(FetchFailed, match=r"more than 0\.1 s") as caught:
            await f.datum(site.origin + "/drip")
    assert caught.value.cause is Cause.TIMEOUT


@pytest.mark.parametrize(
    "url", ["http://[::1", "http://a.example:x/", "http://\ud800/", "http://a..b/", "http://", "?", ""]
)
async def test_urls_that_are_none(fetcher, url):
    async with fetcher("*") as f:
        for attempt in (
            f.datum(url), f.artifact(url, Purpose.ARGUMENTS), f.module(url), f.for_guest({"url": url}),
            f.store_result(url, 1, "", "text/plain", {}),
        ):  # fmt: skip
            with pytest.raises((OriginForbidden, FetchFailed)) as caught:
                await attempt
            assert not getattr(caught.value, "retryable", False) or caught.value.cause is Cause.DNS


async def test_a_type_that_is_none_is_just_bytes(fetcher, site):
    async with fetcher() as f:
        assert await f.datum(site.origin + "/odd-type") == "data:application/octet-stream;base64,eA=="


async def test_nobody_there(fetcher):
    async with fetcher("http://127.0.0.1:1") as f:
        with pytest.raises(FetchFailed) as caught:
            await f.datum("http://127.0.0.1:1/x")
    assert (caught.value.cause, caught.value.code) == (Cause.NETWORK, "ESLICEFETCH")


async def test_a_bomb_is_not_unpacked(fetcher, site):
    """50 MB of zeros in 50 kB: no more than the limit and one piece of it are ever in memory."""
    async with fetcher(max_bytes=100_000) as f:
        with pytest.raises(FetchFailed, match="limit of 100000"):
            await f.datum(site.origin + "/bomb")


# -- redirects


async def test_redirects_are_checked_again(fetcher, site):
    other = site.origin.replace("127.0.0.1", "localhost")
    async with fetcher() as f:
        assert (await f.datum(f"{site.origin}/moved?to=/code.txt")).startswith("data:,")
        for target in (f"{other}/code.txt", "file:///etc/passwd", "data:,x", "http://[::1", "http://2130706433/"):
            with pytest.raises(OriginForbidden) as caught:
                await f.datum(f"{site.origin}/moved?to={target}")
            assert caught.value.code == "EPERM_ORIGIN"
    assert site.asked.count("GET /code.txt") == 1


async def test_a_redirect_into_the_own_network_is_refused_where_everything_is_allowed(fetcher, site):
    async with fetcher(site.origin, "*") as f:
        for target in ("http://127.0.0.1:1/", "http://169.254.169.254/latest/", "http://[::ffff:10.0.0.1]/"):
            with pytest.raises(OriginForbidden, match="not open to jobs"):
                await f.datum(f"{site.origin}/moved?to={target}")


async def test_redirects_do_not_carry_credentials_to_another_origin(fetcher, site):
    other = site.origin.replace("127.0.0.1", "localhost")
    request = {"method": "GET", "headersEntries": [["Authorization", "Bearer x"], ["X-Mine", "y"]]}
    async with fetcher(site.origin, other, resolve=_loopback) as f:
        await f.for_guest({**request, "url": f"{site.origin}/moved?to=/echo"})
        await f.for_guest({**request, "url": f"{site.origin}/moved?to={other}/echo"})
    same, elsewhere = (headers for headers, asked in zip(site.headers, site.asked, strict=True) if "echo" in asked)
    assert (same.get("authorization"), same.get("x-mine")) == ("Bearer x", "y")
    assert (elsewhere.get("authorization"), elsewhere.get("x-mine")) == (None, "y")
    for headers in site.headers:
        assert not headers.keys() & {"cookie", "referer", "origin"}


async def test_https_leads_to_https_only_and_to_servers_that_are_believed(fetcher):
    async with serving(1, secure=2) as (site, [clear, *secure]):
        one, other = secure
        believing = ssl.create_default_context(cafile=certificate())
        async with fetcher(clear, *secure, tls=believing) as f:
            assert await f.datum(f"{one}/moved?to={other}/code.txt") == "data:,n%20=%3E%20n"
            assert await f.datum(f"{clear}/moved?to={one}/code.txt") == "data:,n%20=%3E%20n"
            with pytest.raises(OriginForbidden, match="in the clear") as caught:
                await f.datum(f"{one}/moved?to={clear}/ok.js")
            assert (caught.value.code, caught.value.info) == ("EPERM_ORIGIN", {"cause": "downgrade"})
        async with fetcher(clear, *secure) as f:
            with pytest.raises(FetchFailed, match="certificate") as failed:
                await f.datum(f"{one}/ok.js")
            assert failed.value.cause is Cause.NETWORK
        assert "GET /ok.js" not in site.asked


@pytest.mark.parametrize(
    ("status", "method"), [("301", "GET"), ("302", "GET"), ("303", "GET"), ("307", "POST"), ("308", "POST")]
)
async def test_methods_change_at_redirects_as_in_browsers(fetcher, site, status, method):
    request = {"url": f"{site.origin}/moved?to=/echo&status={status}", "method": "POST", "bodyBase64": "c2VudA==",
               "headersEntries": [["Content-Type", "text/x"]]}  # fmt: skip
    async with fetcher() as f:
        assert (await f.for_guest(request)).status == 418
    assert site.asked[-1] == f"{method} /echo"
    assert site.bodies == ["sent" if method == "POST" else ""]
    assert (site.headers[-1].get("content-type") == "text/x") == (method == "POST")


# -- names


async def _loopback(_host, _port):
    return ["127.0.0.1"]


def port_of(site):
    return site.origin.rpartition(":")[2]


@pytest.mark.parametrize(
    "found",
    [
        ["127.0.0.1"],
        ["10.0.0.1"],
        ["93.184.216.34", "127.0.0.1"],
        ["169.254.169.254"],
        ["::ffff:127.0.0.1"],
        ["64:ff9b::a9fe:a9fe"],
        ["fd00:ec2::254"],
        ["fe80::1%eth0"],
        ["0.0.0.0"],
        ["100.64.0.1"],
    ],
)
async def test_a_name_that_leads_into_the_own_network_is_refused(fetcher, site, found):
    """Even when another of its addresses does not; and the job does not learn where it leads."""

    async def resolve(_host, _port):
        return found

    async with fetcher("*", resolve=resolve) as f:
        with pytest.raises(OriginForbidden) as caught:
            await f.datum(f"http://evil.example:{port_of(site)}/code.txt")
    assert caught.value.code == "EPERM_ORIGIN"
    assert caught.value.info["cause"] == "address"
    assert not any(address in caught.value.message for address in found)
    assert site.asked == []


async def test_a_name_that_the_owner_gave_may_lead_into_the_own_network(fetcher, site):
    url = f"http://files.intern:{port_of(site)}"
    async with fetcher(f"fetchData={url}", "*", resolve=_loopback) as f:
        assert await f.datum(f"{url}/code.txt") == "data:,n%20=%3E%20n"
        # The open connection does not help where only the star allows it.
        with pytest.raises(OriginForbidden, match="loopback"):
            await f.artifact(f"{url}/code.txt", Purpose.ARGUMENTS)
        with pytest.raises(OriginForbidden, match="loopback"):
            await f.for_guest({"url": f"{url}/code.txt"})
    assert site.asked == ["GET /code.txt"]


@pytest.mark.parametrize("address", ["169.254.169.254", "fd00:ec2::254", "fe80::1", "0.0.0.0", "224.0.0.1"])
async def test_not_even_a_named_name_leads_to_the_metadata(fetcher, address):
    async def resolve(_host, _port):
        return [address]

    async with fetcher("http://files.intern", resolve=resolve) as f:
        with pytest.raises(OriginForbidden, match="the address itself"):
            await f.datum("http://files.intern/")


async def test_a_name_that_changes_its_mind_gains_nothing(fetcher, site, monkeypatch):
    """Rebinding: harmless when it is checked, inward afterwards. The connection goes to what was checked."""
    answers, connected = [["93.184.216.34"], ["127.0.0.1"]], []

    async def resolve(_host, _port):
        return answers.pop(0)

    async def connect(*, addr_infos, **_rest):
        connected.append([info[4][0] for info in addr_infos])
        raise OSError("not in this test")

    monkeypatch.setattr("aiohappyeyeballs.start_connection", connect)
    now = 0.0
    async with fetcher("*", resolve=resolve, clock=lambda: now) as f:
        with pytest.raises(FetchFailed):
            await f.datum(f"http://evil.example:{port_of(site)}/code.txt")
        now = 1000.0
        with pytest.raises(OriginForbidden):
            await f.datum(f"http://evil.example:{port_of(site)}/code.txt")
    assert connected == [["93.184.216.34"]]


async def test_a_name_is_resolved_again_for_each_connection_and_only_then(fetcher, site):
    asked = []

    async def resolve(host, _port):
        asked.append(host)
        return ["127.0.0.1"]

    url = f"http://files.intern:{port_of(site)}"
    async with fetcher(url, resolve=resolve) as f:
        for _ in range(3):
            await f.datum(f"{url}/code.txt")
        assert asked == ["files.intern"]
        await f.datum(f"{url}/closes")
        await f.datum(f"{url}/ok.js")
    assert asked == ["files.intern"] * 2


async def test_names_that_nobody_knows(fetcher):
    async def resolve(_host, _port):
        raise OSError(-2, "Name or service not known")

    async with fetcher("*", resolve=resolve) as f:
        with pytest.raises(FetchFailed) as caught:
            await f.datum("http://nobody.example/")
    assert caught.value.cause is Cause.DNS


async def test_name_servers_that_are_silent(fetcher):
    async def resolve(_host, _port):
        await asyncio.Event().wait()

    async with fetcher("*", resolve=resolve, connect_s=0.02) as f:
        with pytest.raises(FetchFailed, match="do not answer") as caught:
            await f.datum("http://nobody.example/")
    assert caught.value.cause is Cause.DNS


async def test_the_systems_own_names(fetcher, site):
    url = site.origin.replace("127.0.0.1", "localhost")
    async with fetcher(url) as f:
        assert await f.datum(url + "/code.txt") == "data:,n%20=%3E%20n"
    async with fetcher("*") as f:
        with pytest.raises(OriginForbidden):
            await f.datum(url + "/code.txt")


async def test_proxies_of_the_environment_are_not_used(fetcher, site, monkeypatch):
    monkeypatch.setenv("http_proxy", site.origin)
    async with fetcher("http://127.0.0.1:1") as f:
        with pytest.raises(FetchFailed):
            await f.datum("http://127.0.0.1:1/code.txt")
    assert site.asked == []


async def test_a_proxy_that_the_owner_set_resolves_the_names(fetcher, site):
    async with fetcher("*", proxy=site.origin) as f:
        assert await f.datum("http://public.example/code.txt") == "data:,n%20=%3E%20n"
        with pytest.raises(OriginForbidden):
            await f.datum("http://10.0.0.1/code.txt")
    assert [headers["host"] for headers in site.headers] == ["public.example"]


# -- back-off


async def test_a_place_that_answers_with_errors_is_left_alone_for_a_growing_while(fetcher, site):
    now = 1000.0
    async with fetcher(clock=lambda: now) as f:
        for pause in (2, 4, 8):
            with pytest.raises(FetchFailed) as caught:
                await f.datum(site.origin + "/gone/1")
            assert (caught.value.code, caught.value.retry_after_s) == ("ESLICEFETCH", pause)
            with pytest.raises(FetchFailed, match="left alone") as caught:
                await f.artifact(site.origin + "/gone/2", Purpose.WORK_FUNCTIONS)
            assert (caught.value.code, caught.value.retry_after_s) == ("EJOBFETCH", pause)
            assert await f.datum(site.origin + "/code.txt")  # another place of the same origin
            now += pause
    assert site.asked.count("GET /gone/1") == 3 and "GET /gone/2" not in site.asked


async def test_an_origin_that_cannot_be_reached_is_left_alone_as_a_whole(fetcher, site):
    now = 1000.0
    async with fetcher(clock=lambda: now) as f:
        for pause in (2, 4):
            with pytest.raises(FetchFailed) as caught:
                await f.datum(site.origin + "/hangs-up")
            assert caught.value.retry_after_s == pause
            with pytest.raises(FetchFailed) as caught:
                await f.datum(site.origin + "/code.txt")
            assert caught.value.cause is Cause.BACKOFF
            now += pause
        assert await f.datum(site.origin + "/code.txt")
        with pytest.raises(FetchFailed) as caught:
            await f.datum(site.origin + "/hangs-up")
        assert caught.value.retry_after_s == 2, "an answer ends the back-off"


async def test_what_a_redirect_leads_to_is_left_alone_by_itself(fetcher, site):
    nobody = "http://127.0.0.1:1"
    async with fetcher(site.origin, nobody) as f:
        with pytest.raises(FetchFailed) as caught:
            await f.datum(f"{site.origin}/moved?to={nobody}/x")
        assert caught.value.cause is Cause.NETWORK
        assert await f.datum(site.origin + "/code.txt"), "who pointed there did nothing wrong"
        for url in (f"{nobody}/y", f"{site.origin}/moved?to={nobody}/z"):
            with pytest.raises(FetchFailed) as caught:
                await f.datum(url)
            assert caught.value.cause is Cause.BACKOFF


async def test_a_guest_cannot_make_an_origin_unavailable_to_others(fetcher, site):
    async with fetcher() as f:
        with pytest.raises(FetchFailed):
            await f.for_guest({"url": site.origin + "/hangs-up"})
        with pytest.raises(FetchFailed, match="left alone"):
            await f.for_guest({"url": site.origin + "/code.txt"})
        assert await f.datum(site.origin + "/code.txt")


async def test_a_server_may_ask_for_more_time(fetcher, site):
    site.statuses = [503]
    now = 1000.0
    async with fetcher(clock=lambda: now) as f:
        with pytest.raises(FetchFailed) as caught:
            await f.datum(site.origin + "/moody")
        assert caught.value.retry_after_s == 30
        now += 31
        assert await f.datum(site.origin + "/moody") == "data:,now"


# -- cache and single flight


async def test_an_artifact_is_fetched_once_for_everybody(fetcher, site):
    async with fetcher() as f:
        waiting = [asyncio.ensure_future(f.artifact(site.origin + "/slow", Purpose.ARGUMENTS)) for _ in range(3)]
        await asyncio.sleep(0)
        waiting[0].cancel()  # who gives up does not take it from the others
        await asyncio.wait(waiting[:1])
        site.gate.set()
        assert await asyncio.gather(*waiting[1:]) == ["data:,late"] * 2
        assert await f.artifact(site.origin + "/slow", Purpose.ARGUMENTS) == "data:,late"
    assert site.asked == ["GET /slow"]


async def test_failures_are_shared_but_not_kept(fetcher, site):
    site.statuses = [500]
    now = 0.0
    async with fetcher(clock=lambda: now) as f:
        waiting = [f.artifact(site.origin + "/moody", Purpose.ARGUMENTS) for _ in range(3)]
        outcomes = await asyncio.gather(*waiting, return_exceptions=True)
        assert [outcome.code for outcome in outcomes] == ["EJOBFETCH"] * 3
        now = 3.0
        assert await f.artifact(site.origin + "/moody", Purpose.ARGUMENTS) == "data:,now"
    assert len(site.asked) == 2


async def test_what_is_kept_grows_old(fetcher, site):
    now = 0.0
    async with fetcher(clock=lambda: now) as f:
        for later in (0.0, 599.0, 601.0):
            now = later
            await f.artifact(site.origin + "/code.txt", Purpose.ARGUMENTS)
        await f.artifact(site.origin + "/never", Purpose.ARGUMENTS)
        await f.artifact(site.origin + "/never", Purpose.ARGUMENTS)
    assert site.asked == ["GET /code.txt"] * 2 + ["GET /never"] * 2


async def test_a_cached_artifact_is_no_permission(fetcher, site):
    """Neither for another purpose, nor by way of a redirect that only one purpose may follow."""
    other = site.origin.replace("127.0.0.1", "localhost")
    async with fetcher(f"fetchArguments={site.origin}", resolve=_loopback) as f:
        await f.artifact(site.origin + "/code.txt", Purpose.ARGUMENTS)
        with pytest.raises(OriginForbidden):
            await f.artifact(site.origin + "/code.txt", Purpose.WORK_FUNCTIONS)
    async with fetcher(site.origin, f"fetchArguments={other}", resolve=_loopback) as f:
        await f.artifact(f"{site.origin}/moved?to={other}/code.txt", Purpose.ARGUMENTS)
        with pytest.raises(OriginForbidden):
            await f.artifact(f"{site.origin}/moved?to={other}/code.txt", Purpose.WORK_FUNCTIONS)


async def test_the_cache_is_bounded(fetcher, site):
    async with fetcher(cache_bytes=100) as f:
        for path in ("/ok.js", "/code.txt", "/latin", "/value.json"):
            await f.artifact(site.origin + path, Purpose.ARGUMENTS)
        statistics = f.statistics()
        assert statistics["cached_size"] <= 100 and statistics["cached"] == 2


# -- kinds of things


async def test_work_functions_are_text(fetcher, site):
    async with fetcher() as f:
        assert await f.text("data:,n%20=%3E%20n", Purpose.WORK_FUNCTIONS) == "n => n"
        assert await f.text(site.origin + "/ok.js", Purpose.WORK_FUNCTIONS) == "n => '½'"
        with pytest.raises(FetchFailed, match="type image/png") as caught:
            await f.text(site.origin + "/bytes", Purpose.WORK_FUNCTIONS)
        assert (caught.value.code, caught.value.cause) == ("EFETCH", Cause.TYPE)
        for uri in (
            "data:nonsense",
            "data:text/plain;charset=utf-8;base64,/w==",
            "data:,%ZZ",
            "data:text/plain;charset=x,y",
        ):
            with pytest.raises(FetchFailed) as caught:
                await f.text(uri, Purpose.WORK_FUNCTIONS)
            assert (caught.value.code, caught.value.cause) == ("EFETCH", Cause.UNDECODABLE)


async def test_modules_are_checked_like_work_functions(fetcher, site):
    async with fetcher(f"fetchWorkFunctions={site.origin}") as f:
        assert await f.module(site.origin + "/code.txt") == "n => n"
        assert await f.module("data:text/javascript,x") == "x"
    async with fetcher(f"fetchData={site.origin}") as f:
        with pytest.raises(OriginForbidden, match="fetchModules"):
            await f.module(site.origin + "/code.txt")


async def test_a_trusted_scheduler_lends_origins_to_its_groups(fetcher, site):
    name = f"http://files.example:{port_of(site)}"
    origins = {"group": {"fetchData": [name, site.origin]}}
    async with fetcher("http://a.example", trust=True, resolve=_loopback) as f:
        f.lend(origins)
        with pytest.raises(OriginForbidden, match="not allowed for fetchData"):
            await f.datum(name + "/code.txt", Errand("other"))
        for url in (name, site.origin):  # not into the worker's own network
            with pytest.raises(OriginForbidden, match="loopback"):
                await f.datum(url + "/code.txt", Errand("group"))
    async with fetcher("http://a.example", resolve=_loopback) as f:
        f.lend(origins)
        with pytest.raises(OriginForbidden, match="not allowed for fetchData"):
            await f.datum(name + "/code.txt", Errand("group"))


# -- results


async def test_results_are_posted_to_their_storage(fetcher, site):
    async with fetcher(f"sendResults={site.origin}") as f:
        uri = await f.store_result(site.origin + "/store", 7, '{"x":"½"}', "application/json", {"token": "t", "n": 1})
        assert uri == "data:,https://kept.example/7"
        usual = {"contentType": "application/json", "element": "7", "token": "t", "n": "1"}
        assert site.posted == {**usual, "content": '{"x":"½"}'}
        await f.store_result(site.origin + "/store", 7, "E", "application/json", {"token": "t", "n": 1}, threw=True)
        assert site.posted == {**usual, "error": "E"}
        with pytest.raises(OriginForbidden):
            await f.store_result("http://elsewhere.example/", 7, "", "text/plain", {})


async def test_fields_for_the_storage_that_no_form_can_hold(fetcher, site):
    circle: list[object] = []
    circle.append(circle)
    async with fetcher() as f:
        for value in (b"bytes", circle, {1, 2}):
            with pytest.raises(FetchFailed, match="neither text nor JSON"):
                await f.store_result(site.origin + "/store", 7, "", "text/plain", {"x": value})
    assert site.asked == []


async def test_a_storage_that_fails_is_asked_again_for_a_while(fetcher, site):
    now = 0.0

    async def sleep(seconds):
        nonlocal now
        now += seconds

    site.statuses = [500, 503, 502]
    async with fetcher(clock=lambda: now, sleep=sleep) as f:
        assert await f.store_result(site.origin + "/moody", 1, "x", "text/plain", {}) == "data:,now"
        assert now == 2 + 30 + 8
        site.statuses = [500] * 20
        with pytest.raises(FetchFailed) as caught:
            await f.store_result(site.origin + "/moody", 1, "x", "text/plain", {})
        assert (caught.value.code, caught.value.cause) == ("EFETCH", Cause.STATUS)
        assert len(site.asked) < 15


# -- guests


async def test_a_guest_may_fetch_only_where_that_is_allowed(fetcher, site):
    async with fetcher(f"fetchData={site.origin}") as f:
        with pytest.raises(OriginForbidden):
            await f.for_guest({"url": site.origin + "/code.txt"})
    async with fetcher(f"fetch={site.origin}") as f:
        assert (await f.for_guest({"url": site.origin + "/missing"})).status == 404
        for request in (
            {"url": site.origin, "method": "CONNECT"},
            {"url": 7},
            {"url": site.origin, "bodyBase64": "%"},
            {"url": site.origin, "headersEntries": [["a b", "c"]]},
            {"url": site.origin, "headersEntries": [["a", "c\r\nd: e"]]},
            {"url": site.origin, "headersEntries": [["a", "c" * 5000]]},
            {"url": site.origin, "headersEntries": [[f"a{n}", "c"] for n in range(100)]},
        ):
            with pytest.raises(FetchFailed):
                await f.for_guest(request)


async def test_a_guests_request_has_only_the_headers_that_it_may_set(fetcher, site):
    entries = [
        ["Cookie", "x"],
        ["Host", "evil"],
        ["Proxy-Authorization", "x"],
        ["Referer", "x"],
        ["X-A", "b"],
        "?",
        [1, 2],
    ]
    async with fetcher() as f:
        answer = await f.for_guest({"url": site.origin + "/echo", "headersEntries": entries})
    assert answer.header("x-theirs") == "c" and answer.header("set-cookie") is None
    (headers,) = site.headers
    assert headers["host"] in site.origin and headers["x-a"] == "b"
    assert headers.keys() == {"host", "x-a", "accept", "accept-encoding", "user-agent"}


async def test_no_cookies_are_kept(fetcher, site):
    async with fetcher() as f:
        for _ in range(2):
            await f.for_guest({"url": site.origin + "/echo"})
    assert all("cookie" not in headers for headers in site.headers)


async def test_a_guests_answer_has_a_limit_of_its_own(fetcher, site):
    async with fetcher(max_bytes=10_000, guest_bytes=1000) as f:
        assert await f.datum(site.origin + "/big")
        with pytest.raises(FetchFailed, match="limit of 1000"):
            await f.for_guest({"url": site.origin + "/big"})


# -- files


async def test_files_are_read_when_allowed(fetcher, tmp_path):
    file = tmp_path / "a.json"
    file.write_text('{"a":1}')
    async with fetcher(f"file://{file}") as f:
        assert await f.datum(f"file://{file}", LOCAL) == "data:application/json,%7B%22a%22:1%7D"
        assert await f.artifact(f"file://{file}", Purpose.ARGUMENTS, LOCAL)
        file.write_text("{}")
        assert (await f.artifact(f"file://{file}", Purpose.ARGUMENTS, LOCAL)).endswith(",%7B%7D"), (
            "files are not cached"
        )
        with pytest.raises(OriginForbidden, match="localExec"):
            await f.datum(f"file://{file}")
        with pytest.raises(OriginForbidden):
            await f.datum(f"file://{tmp_path}/b.json", LOCAL)


async def test_links_lead_no_further_than_is_allowed(fetcher, tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "secret").write_text("secret")
    (tmp_path / "in" / "good").write_text("good")
    (tmp_path / "in" / "link").symlink_to(tmp_path / "secret")
    (tmp_path / "in" / "inner").symlink_to("good")
    (tmp_path / "in" / "up").symlink_to(tmp_path)
    (tmp_path / "way").symlink_to(tmp_path / "in")
    async with fetcher(f"file://{tmp_path}/in/") as f:
        for name in ("good", "inner"):
            assert await f.datum(f"file://{tmp_path}/in/{name}", LOCAL) == "data:,good"
        for name in ("in/link", "in/up/secret", "in/../secret", "secret", "in/%2e%2e/secret"):
            with pytest.raises(OriginForbidden):
                await f.datum(f"file://{tmp_path}/{name}", LOCAL)
    async with fetcher(f"file://{tmp_path}/way/") as f:  # the owner's own link
        assert await f.datum(f"file://{tmp_path}/way/good", LOCAL) == "data:,good"


async def test_only_ordinary_files_are_read(fetcher, tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    (tmp_path / "big").write_bytes(b"x" * 1001)
    (tmp_path / "bad").write_bytes(b"\xff")
    async with fetcher(f"file://{tmp_path}/", "file:///dev/") as f:
        for path in (
            f"{tmp_path}/pipe",
            f"{tmp_path}/folder",
            f"{tmp_path}/none",
            "/dev/zero",
            "/dev/tty",
            f"{tmp_path}/\ud800",
        ):
            with pytest.raises(FetchFailed) as caught:
                await f.datum(f"file://{path}", LOCAL)
            assert (caught.value.code, caught.value.cause) == ("EFETCH", Cause.FILE)
        for name, cause in (("big", Cause.TOO_LARGE), ("bad", Cause.UNDECODABLE)):
            with pytest.raises(FetchFailed) as caught:
                await f.datum(f"file://{tmp_path}/{name}", LOCAL)
            assert caught.value.cause is cause
