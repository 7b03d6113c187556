"""Everything that can be wrong with what a job wants fetched, and what the Scheduler and the job's owner hear of it."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.integration.worker_supervisor.conftest import ToyScheduler
from tests.unit.worker_fetching.bad_server import serving

pytestmark = pytest.mark.docker

CODE = "n => { progress(); return n }"

#: What is at the datum's place: the reason of the returned slice, and the cause in the event to the owner.
DATA: dict[str, tuple[str, str]] = {
    "/missing": ("ESLICEFETCH", "status"),
    "/raw-status": ("ESLICEFETCH", "status"),
    "/raw-type": ("EFETCH", "undecodable"),
    "/raw-encoding": ("EFETCH", "type"),
    "/raw-redirect": ("EPERM_ORIGIN", "uri"),
    "/hangs-up": ("ESLICEFETCH", "network"),
    "/truncated": ("ESLICEFETCH", "truncated"),
    "/cut-chunks": ("ESLICEFETCH", "truncated"),
    "/cut-zip": ("ESLICEFETCH", "truncated"),
    "/drip": ("ESLICEFETCH", "stalled"),
    "/big-chunks": ("EFETCH", "too-large"),
    "/bomb": ("EFETCH", "too-large"),
    "/loop": ("EFETCH", "redirects"),
    "/brotli": ("EFETCH", "type"),
    "/lies": ("EFETCH", "undecodable"),
    "/moved?to=http://127.0.0.1:1/": ("EPERM_ORIGIN", "origin"),
    "/moved?to=http://169.254.169.254/": ("EPERM_ORIGIN", "origin"),
    "/bad.json": ("EBADDATUM", ""),
    "http://elsewhere.example/": ("EPERM_ORIGIN", "origin"),
    "http://user@elsewhere.example/": ("EPERM_ORIGIN", "uri"),
    "http://[::1": ("EPERM_ORIGIN", "uri"),
    "gopher://a/": ("EPERM_ORIGIN", "uri"),
    "file:///etc/passwd": ("EPERM_ORIGIN", "file"),
    "data:nonsense": ("EBADDATUM", ""),
    "data:text/plain;base64,A!==": ("EBADDATUM", ""),
    "data:,%ZZ": ("EBADDATUM", ""),
    "data:application/json,{": ("EBADDATUM", ""),
    "data:application/x-kvin,{}": ("EBADDATUM", ""),
    "data:text/plain;charset=windows-1252,x": ("EBADDATUM", ""),
}

#: What a job says: the reason with which its slice comes back, and the cause.
JOBS: list[tuple[dict[str, Any], str, str]] = [
    ({"codeLocation": "/bytes"}, "EFETCH", "type"),
    ({"codeLocation": "/missing"}, "EJOBFETCH", "status"),
    ({"codeLocation": "/big-chunks"}, "EFETCH", "too-large"),
    ({"codeLocation": "data:nonsense"}, "EFETCH", "undecodable"),
    ({"codeLocation": "data:image/png;base64,AAAA"}, "EFETCH", "type"),
    ({"codeLocation": "data:text/javascript;charset=utf-8;base64,/w=="}, "EFETCH", "undecodable"),
    ({"codeLocation": "file:///etc/passwd"}, "EPERM_ORIGIN", "file"),
    ({"codeLocation": "file:///etc/passwd", "localExec": True}, "EPERM_ORIGIN", "file"),
    ({"argumentsLocation": ["/missing"]}, "EJOBFETCH", "status"),
    ({"argumentsLocation": ["/bad.json"]}, "EASSIGN", ""),
    ({"argumentsLocation": ["data:;base64,A!"]}, "EASSIGN", ""),
    ({"MROLocation": "data:application/json,{"}, "EFETCH", "undecodable"),
    ({"MROLocation": "data:," + "[" * 100_000}, "EFETCH", "undecodable"),
    ({"MROLocation": 'data:,{"start":0,"end":1' + "0" * 400 + "}"}, "EFETCH", "undecodable"),
    ({"MROLocation": "/loop"}, "EFETCH", "redirects"),
    ({"dependencies": ["no/module.js"]}, "ENOMODULE", "package-manager"),
    ({"dependencies": ["huge/module.js"]}, "EMODULETOOBIG", "package-manager"),
    ({"dependencies": ["odd/module.js"]}, "EMODULEFETCH", "package-manager"),
    ({"dependencies": ["/missing"]}, "EMODULEFETCH", "status"),
    ({"dependencies": ["/big-chunks"]}, "EMODULETOOBIG", "too-large"),
    ({"dependencies": ["/bytes"]}, "EFETCH", "type"),
    ({"dependencies": ["http://elsewhere.example/m.js"]}, "EPERM_ORIGIN", "origin"),
]

SETTINGS = {"fetch_max_bytes": 1024, "fetch_idle_s": 1.0, "sandboxes": 2}


def errors_of(scheduler, job_id):
    return [emit["payload"] for emit in scheduler.emits if emit["job"] == job_id and emit["eventName"] == "error"]


async def test_bad_data(scheduler, worker):
    """Each of its own origin, so that none is left alone because of another."""
    async with serving(len(DATA)) as (_site, origins):
        for number, (uri, origin) in enumerate(zip(DATA, origins, strict=True)):
            scheduler.add(f"{number:022}", CODE, [origin + uri if uri.startswith("/") else uri])
        async with worker(scheduler, allow_origin=tuple(origins), **SETTINGS):
            await scheduler.done(len(DATA))
            await scheduler.until(lambda: len(scheduler.emits) >= len(DATA))
    assert not scheduler.results, "nothing of this is a result"
    reasons = {job_id: reason for job_id, _number, reason in scheduler.returns}
    for number, (uri, (code, cause)) in enumerate(DATA.items()):
        (error,) = errors_of(scheduler, f"{number:022}")
        found = (reasons[f"{number:022}"], error["code"], (error.get("info") or {}).get("cause", ""))
        assert found == (code, code, cause), uri
        assert error["message"]


async def test_bad_jobs(scheduler, worker):
    scheduler.packages = {"huge/module.js": {"code": "DCPC-1024"}, "odd/module.js": {"code": "EODD"}}
    async with serving(len(JOBS)) as (_site, origins):

        def placed(value: Any, origin: str) -> Any:
            return origin + value if isinstance(value, str) and value.startswith("/") else value

        for number, ((said, _code, _cause), origin) in enumerate(zip(JOBS, origins, strict=True)):
            message = {}
            for field, value in said.items():
                message[field] = (
                    [placed(one, origin) for one in value] if isinstance(value, list) else placed(value, origin)
                )
            for module in message.get("dependencies", []):
                if module.startswith("http"):
                    scheduler.packages[module] = {"pkg": {"file.js": module}}
            scheduler.add(f"{number:022}", CODE, ["data:,1"], **message)
        async with worker(scheduler, allow_origin=tuple(origins), **SETTINGS):
            await scheduler.done(len(JOBS))
            await scheduler.until(lambda: len(scheduler.emits) >= len(JOBS))
    assert not scheduler.results
    reasons = {job_id: reason for job_id, _number, reason in scheduler.returns}
    for number, (said, code, cause) in enumerate(JOBS):
        assert reasons[f"{number:022}"] == code, said
        (error,) = errors_of(scheduler, f"{number:022}")
        assert error["errorCode"] == code and (error.get("info") or {}).get("cause", "") == cause, said
        assert error["code"] == ("EBADARG" if code == "EASSIGN" else code), said


async def test_an_origin_that_fails_is_left_alone_and_its_slices_go_back(scheduler, worker):
    """The owner hears of the failure, not of every slice that was not even tried because of it."""
    async with serving() as (site, [origin]):
        site.statuses = [500] * 1000
        scheduler.per_task = 1
        scheduler.add("j" * 22, CODE, [f"{origin}/moody"] * 5)
        async with worker(scheduler, allow_origin=(origin,)):
            await scheduler.done(5)
            await scheduler.until(lambda: bool(scheduler.emits))
    assert {reason for _job, _number, reason in scheduler.returns} == {"ESLICEFETCH"}
    assert len(site.asked) == len(errors_of(scheduler, "j" * 22)) < 5


async def test_slices_of_a_job_that_cannot_be_fetched_are_sent_again_and_again(worker):
    """A Scheduler that does not heed that: they go back unfetched while the job waits, and another job goes on."""

    class Stubborn(ToyScheduler):
        async def on_resultSubmitter(self, request):
            if request.operation == "status":
                for entry in request.data["slices"]:
                    if entry["status"] == "return":
                        self.waiting.extend((entry["job"], number, "data:,1") for number in entry["sliceNumbers"])
            return await super().on_resultSubmitter(request)

    async with serving() as (site, [origin]), Stubborn().serving() as stubborn:
        stubborn.per_task = 4
        stubborn.add("j" * 22, "", ["data:,1"] * 2, codeLocation=f"{origin}/missing")
        stubborn.add("k" * 22, CODE, ["data:application/json,1"] * 10)
        async with worker(stubborn, allow_origin=(origin,)):
            await stubborn.until(lambda: len(stubborn.returns) >= 20 and len(stubborn.results) == 10)
            asked, returned = len(site.asked), len(stubborn.returns)
    assert {(job, reason) for job, _number, reason in stubborn.returns} == {("j" * 22, "EJOBFETCH")}
    assert asked <= returned / 4, "it was fetched for nearly each offer"
    assert any("j" * 22 in str(request) for request in stubborn.requests), "the Scheduler was not told"


async def test_files_are_for_jobs_that_are_executed_where_they_were_deployed(scheduler, worker, tmp_path):
    (tmp_path / "code.js").write_text(CODE)
    (tmp_path / "datum.json").write_text('{"a":1}')
    where = {"codeLocation": f"file://{tmp_path}/code.js"}
    scheduler.add("l" * 22, "", [f"file://{tmp_path}/datum.json"], localExec=True, **where)
    scheduler.add("m" * 22, "", [f"file://{tmp_path}/datum.json"], **where)
    async with worker(scheduler, allow_origin=(f"file://{tmp_path}/",)):
        await scheduler.done(2)
    assert scheduler.value("l" * 22, 1) == {"a": 1}
    assert scheduler.returns == [("m" * 22, 1, "EPERM_ORIGIN")]


async def test_a_thrown_error_is_taken_to_the_storage_and_told_as_thrown(scheduler, worker):
    async with serving() as (site, [origin]):
        storage = {"resultStorageType": "pattern", "resultStorageDetails": f"{origin}/store"}
        code = "n => { progress(); throw new RangeError('out of it') }"
        scheduler.add("s" * 22, code, ["data:,1"], slice=storage)
        broken = {"resultStorageType": "pattern", "resultStorageDetails": f"{origin}/missing"}
        scheduler.add("t" * 22, code, ["data:,1"], slice=broken)
        async with worker(scheduler, allow_origin=(origin,), result_store_patience_s=0):
            await scheduler.done(2)
        assert not scheduler.returns
        assert site.posted["element"] == "1" and "content" not in site.posted
        assert "out of it" in site.posted["error"] and "EUNCAUGHT" in site.posted["error"]
    for job_id in ("s" * 22, "t" * 22):
        wrapped = scheduler.results[job_id, 1]["resultV2"]["what"]["raw"]
        assert "EUNCAUGHT" in wrapped["string"] and "out of it" in wrapped["string"]


async def test_a_job_that_fetches_without_end_is_held_back(scheduler, worker):
    code = """async (n, origin) => {
      progress();
      const codes = {};
      const fetches = [];
      for (let i = 0; i < 300; i++)
        fetches.push(fetch(origin + '/code.txt').then(() => 'ok', (error) => error.code));
      for (const code of await Promise.all(fetches)) codes[code] = (codes[code] ?? 0) + 1;
      return codes;
    }"""
    async with serving() as (_site, [origin]):
        argument = f"data:application/json,{json.dumps(origin)}"
        scheduler.add("g" * 22, code, ["data:,1"], argumentsLocation=[argument])
        async with worker(scheduler, allow_origin=(f"fetch={origin}",)):
            await scheduler.done(1)
    codes = scheduler.value("g" * 22, 1)
    assert set(codes) <= {"ok", "EBUSY"} and sum(codes.values()) == 300 and codes["ok"] >= 256


async def test_what_a_work_function_fetches_is_input_of_its_slice(scheduler, worker):
    code = """async (n, url) => {
      progress();
      return n ? (await (await fetch(url)).text()).length : 0;
    }"""
    async with serving() as (_site, [origin]):
        argument = f"data:application/json,{json.dumps(origin + '/big')}"
        scheduler.add(
            "i" * 22, code, ["data:application/json,0", "data:application/json,1"], argumentsLocation=[argument]
        )
        async with worker(scheduler, allow_origin=(f"fetch={origin}",)):
            await scheduler.done(2)
    assert [scheduler.value("i" * 22, number) for number in (1, 2)] == [0, 1001]
    without, fetched = (scheduler.results["i" * 22, number]["metrics"]["InDataSize"] for number in (1, 2))
    assert without + 1001 < fetched < without + 3000


async def test_headers_that_are_no_text_reach_the_work_function_all_the_same(scheduler, worker):
    code = """async (n, url) => {
      progress();
      const answer = await fetch(url);
      return [answer.status, answer.headers.has('x-raw')];
    }"""
    async with serving() as (_site, [origin]):
        argument = f"data:application/json,{json.dumps(origin + '/raw-header')}"
        scheduler.add("h" * 22, code, ["data:,1"], argumentsLocation=[argument])
        async with worker(scheduler, allow_origin=(f"fetch={origin}",)):
            await scheduler.done(1)
    assert scheduler.value("h" * 22, 1) == [200, True]
