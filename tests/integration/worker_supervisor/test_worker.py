"""The Worker in whole: real containers, the real protocol, a small Scheduler that watches it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping

import pytest

from orchestrator import kvin
from orchestrator.worker.docker_runtime import RuntimeUnavailable
from orchestrator.worker.service import Worker

pytestmark = pytest.mark.docker

JOB = "j" * 22


def data(count: int) -> list[str]:
    return [f"data:application/json,{n}" for n in range(1, count + 1)]


def watch(w: Worker, condition: Callable[[Mapping[str, int]], bool]) -> asyncio.Event:
    """An event that is set when the supervisor's counts fulfil the condition."""
    reached, handle_all = asyncio.Event(), w.supervisor.handle_all

    def watching(events, now):
        actions = handle_all(events, now)
        if condition(w.supervisor.statistics().counts):
            reached.set()
        return actions

    w.supervisor.handle_all = watching
    return reached


async def test_slices_are_computed_reported_and_paid_to_whom_the_settings_say(scheduler, worker):
    payee = "0x" + "22" * 20
    scheduler.add(
        JOB, "(n, a) => { progress(); return n * a }", data(10), argumentsLocation=["data:application/json,3"]
    )
    async with worker(scheduler, sandboxes=2, payment_address=payee) as w:
        await scheduler.done(10)
    assert [scheduler.value(JOB, n) for n in range(1, 11)] == [3 * n for n in range(1, 11)]
    assert scheduler.begun == {(JOB, n) for n in range(1, 11)}
    report = scheduler.results[JOB, 1]
    assert report["paymentAddress"].lower() == payee and report["worker"] == w.account.worker_id
    assert report["metrics"]["CPUTime"] > 0 and report["metrics"]["InDataSize"] > 0
    first = scheduler.requests[0]
    told, docker = first["isolation"], w.statistics()["runtime"]
    assert told == {"level": "runc-hardened", "runtime": "runc", "image": docker["image_digest"]}
    assert docker["image_digest"].startswith("sha256:")
    assert first["fetchState"] == 5 and first["targetLoad"]["cpu"] == 2 and "returnAllSlices" in first
    assert first["capabilities"] & 65 == 65 and {"name": "map-basic", "version": "1.0.0"} in first["worktimes"]
    assert scheduler.goodbye.is_set() and not scheduler.returns
    assert w.statistics()["supervisor"].counts["results accepted"] == 10


async def test_values_of_jobs_without_kvin_9_are_sent_as_8(scheduler, worker):
    scheduler.add(JOB, "n => { progress(); console.log(n); return [n] }", data(1), needCapabilities=0)
    async with worker(scheduler):
        await scheduler.done(1)
        await scheduler.until(lambda: bool(scheduler.emits))
    wrapped = scheduler.results[JOB, 1]["resultV2"]
    assert wrapped["_serializeVerId"] == "v8"
    assert wrapped["what"]["raw"]["string"].startswith('{"_serializeVerId":"v8"')
    assert scheduler.emits[0]["payload"]["message"]["_serializeVerId"] == "v8"


async def test_console_and_custom_events_arrive_before_the_result(scheduler, worker):
    code = "n => { progress(); console.log('a', n); work.emit('mine', {n}); return n }"
    scheduler.add(JOB, code, data(1))
    async with worker(scheduler):
        await scheduler.done(1)
    assert scheduler.order == ["console 1", "custom 1", "result 1"]
    console, custom = (emit["payload"] for emit in scheduler.emits)
    assert kvin.unmarshal(console["message"]) == ["a", 1] and console["level"] == "log"
    assert custom["customEvent"] == "mine" and custom["jobName"] == "a test"


async def test_what_the_work_function_does_wrong_is_told_to_its_owner(scheduler, worker):
    code = """n => {
      if (n === 1) { progress(); throw new TypeError('no ones') }
      if (n === 2) return 'no progress';
      progress(); return n }"""
    scheduler.add(JOB, code, data(3))
    async with worker(scheduler):
        await scheduler.done(3)
    thrown = scheduler.value(JOB, 1)
    assert isinstance(thrown, kvin.JsError) and thrown.message == "no ones"
    assert thrown.properties["errorCode"] == "EUNCAUGHT"
    assert scheduler.returns == [(JOB, 2, "ENOPROGRESS")]
    assert scheduler.value(JOB, 3) == 3
    kinds = [(emit["eventName"], emit["slice"]) for emit in scheduler.emits]
    assert kinds == [("error", 1), ("noProgress", 2), ("error", 2)]
    assert scheduler.emits[0]["payload"]["name"] == "TypeError"


async def test_a_syntax_error_gives_the_job_up_with_the_error_told(scheduler, worker):
    scheduler.add(JOB, "n => { let 1 = 2 }", data(3))
    async with worker(scheduler):
        await scheduler.done(3)
        await scheduler.until(lambda: scheduler.requests[-1].get("rejectedJobs") == [JOB])
    assert {reason for _job, _number, reason in scheduler.returns} == {"EASSIGN"}
    assert scheduler.emits[0]["payload"]["name"] == "SyntaxError"


async def test_work_reject_is_tried_again_then_the_job_goes_back(scheduler, worker):
    scheduler.add(JOB, "n => { progress(); work.reject('not here', 1) }", data(2))
    async with worker(scheduler):
        await scheduler.done(2)
    reasons = {number: reason for _job, number, reason in scheduler.returns}
    assert reasons[1] == {"message": "not here", "retries": 1, "errorCode": "EWORKREJECT"}
    assert reasons[2] == "EWORKREJECT"


async def test_an_endless_slice_is_ended_and_the_others_computed(scheduler, worker):
    scheduler.add(JOB, "n => { progress(); if (n === 2) for (;;); return n }", data(4))
    async with worker(scheduler, slice_timeout_s=1.5):
        await scheduler.done(4)
    assert {number: reason for _job, number, reason in scheduler.returns} == {2: "ESLICETOOSLOW"}
    assert {number for _job, number in scheduler.results} == {1, 3, 4}


async def test_a_hungry_slice_is_ended_and_the_others_computed(scheduler, worker):
    code = """n => {
      progress();
      if (n === 2) { const all = []; for (;;) all.push(new Uint8Array(1e7).fill(n)); }
      return n }"""
    scheduler.add(JOB, code, data(4))
    async with worker(scheduler, memory_mib=128):
        await scheduler.done(4)
    [(_job, number, reason)] = scheduler.returns
    assert number == 2 and reason in {"ENOMEMORY", "ESANDBOXEXIT"}
    assert {number for _job, number in scheduler.results} == {1, 3, 4}


async def test_a_range_and_a_module(scheduler, worker):
    code = "n => { progress(); return n + require('file.js').three }"
    scheduler.add(
        JOB, code, [None, None],
        MROLocation='data:application/json,{"start":10,"end":20,"step":5}',
        dependencies=["pkg/file.js"], requirePath=["pkg"],
    )  # fmt: skip
    async with worker(scheduler):
        await scheduler.done(2)
    assert [scheduler.value(JOB, n) for n in (1, 2)] == [13, 18]


async def test_a_forbidden_origin_and_a_missing_module_send_jobs_back(scheduler, worker):
    scheduler.add("a" * 22, "n => n", ["data:,1"], codeLocation="http://127.0.0.1:1/code.js")
    scheduler.add("b" * 22, "n => n", ["data:,1"], dependencies=["none/at-all.js"])
    scheduler.add("c" * 22, "n => { progress(); return n }", ["http://127.0.0.1:1/datum"])
    async with worker(scheduler):
        await scheduler.done(3)
    assert {job[0]: reason for job, _number, reason in scheduler.returns} == {
        "a": "EPERM_ORIGIN",
        "b": "ENOMODULE",
        "c": "EPERM_ORIGIN",
    }


async def test_a_refused_result_is_returned(scheduler, worker):
    from orchestrator.errors import InvalidInput

    scheduler.refuse_results = InvalidInput("not today")
    scheduler.add(JOB, "n => { progress(); return n }", data(1))
    async with worker(scheduler):
        await scheduler.done(1)
    assert scheduler.returns == [(JOB, 1, "EINVAL")]


async def test_the_scheduler_may_remove_a_job_and_kill_the_worker(scheduler, worker):
    scheduler.add(JOB, "async n => { progress(); await new Promise(() => setTimeout(() => {}, 1e9)) }", data(2))
    async with worker(scheduler, stops=True):
        await scheduler.until(lambda: (JOB, 1) in scheduler.begun and bool(scheduler.subscribed))
        await scheduler.command("remove", {"jobId": JOB})
        await scheduler.done(2)
        assert {reason for _job, _number, reason in scheduler.returns} == {"SchedMsg"}
        await scheduler.command("kill", {"temporary": True})
    assert scheduler.goodbye.is_set()


async def test_a_soft_stop_finishes_what_runs_and_returns_the_rest(scheduler, worker):
    code = "async n => { progress(); await new Promise(done => setTimeout(done, 500)); return n }"
    scheduler.add(JOB, code, data(20))
    async with worker(scheduler) as w:
        await scheduler.until(lambda: (JOB, 1) in scheduler.begun)
        w.stop()
    assert 1 <= len(scheduler.results) <= 2 and len(scheduler.results) + len(scheduler.returns) == 20
    assert {reason for _job, _number, reason in scheduler.returns} == {"EWORKERSTOPPING"}


async def test_a_hard_stop_returns_what_runs(scheduler, worker):
    scheduler.add(JOB, "async n => { progress(); await new Promise(() => setTimeout(() => {}, 1e9)) }", data(3))
    async with worker(scheduler) as w:
        await scheduler.until(lambda: (JOB, 1) in scheduler.begun)
        w.stop()
        w.stop(hard=True)
    assert len(scheduler.returns) == 3 and not scheduler.results


async def test_results_outlive_a_scheduler_that_goes_away_and_comes_back(worker):
    from tests.integration.worker_supervisor.conftest import ToyScheduler

    scheduler = ToyScheduler()
    scheduler.per_task = 20
    code = "async n => { progress(); await new Promise(done => setTimeout(done, 20)); return n }"
    scheduler.add(JOB, code, data(20))
    async with scheduler.serving():
        running = worker(scheduler)
        w = await running.__aenter__()
        computed = watch(w, lambda counts: counts.get("slices completed") == 20)
        await scheduler.until(lambda: len(scheduler.begun) > 0)
    # The server is gone with all its sessions; what is computed meanwhile waits.
    async with asyncio.timeout(20):
        await computed.wait()
    async with scheduler.serving():
        await scheduler.done(20)
        await running.__aexit__(None, None, None)
    assert {number for _job, number in scheduler.results} == set(range(1, 21))
    assert w.supervisor.statistics().counts["results accepted"] == 20


async def test_a_sandbox_killed_from_outside_costs_nothing(scheduler, worker):
    import docker

    code = "async n => { progress(); if (n < 3) await new Promise(done => setTimeout(done, 400)); return n }"
    scheduler.add(JOB, code, data(10))
    async with worker(scheduler, warm=0) as w:
        await scheduler.until(lambda: (JOB, 1) in scheduler.begun)
        client = docker.from_env()
        try:
            mine = [c for c in client.containers.list() if w.account.worker_id in str(c.labels)]
            assert len(mine) == 1
            await asyncio.to_thread(mine[0].kill)
        finally:
            client.close()
        await scheduler.done(10)
    assert not scheduler.returns and len(scheduler.results) == 10


async def test_an_image_that_is_not_the_pinned_one_is_not_run(scheduler, worker):
    with pytest.raises(BaseException) as refusal:
        async with worker(scheduler, image_digest="sha256:" + "0" * 64) as w:
            await w.ready.wait()
    error = refusal.value
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    assert isinstance(error, RuntimeUnavailable)
    assert error.reason == "image-differs" and "0" * 64 in error.message and "docker pull" in error.remedy
