"""A real Worker that pauses, takes new settings, and is ended by its Scheduler."""

from __future__ import annotations

import logging

import pytest

from orchestrator.jobs import words
from orchestrator.protocol.signing import open_envelope
from orchestrator.worker.ordered_end import AGAIN, DISABLED, WorkerDisabled
from orchestrator.worker.service import Worker
from tests.integration.worker_supervisor.conftest import ToyScheduler

pytestmark = pytest.mark.docker

QUICK = "(x) => { progress(); return x; }"
ALL_MEMORY_MIB = 1 << 30  # more than any machine has


async def test_a_worker_that_starts_on_a_busy_machine_waits_until_its_settings_change(scheduler, worker):
    scheduler.add("job", QUICK, ["data:application/json,1"])
    given = {"busy_memory_mib": ALL_MEMORY_MIB, "busy_after_s": 0.0, "calm_after_s": 0.0, "paused_keep_warm_s": 0.0}
    async with worker(scheduler, **given) as w:
        await w.ready.wait()
        assert w.status()["state"] == "paused"
        assert [one.source for one in w.supervisor.statistics().pauses] == ["load"]
        assert not any(request["fetchState"] & 1 for request in scheduler.requests)
        changes = w.reconfigure(w.settings.model_copy(update={"busy_memory_mib": None}))
        assert changes.at_once == ("busy_memory_mib",)
        await scheduler.done(1)
        assert scheduler.value("job", 1) == 1 and not scheduler.returns


@pytest.mark.parametrize(
    ("command", "payload", "status"),
    [("kill", {"temporary": True}, AGAIN), ("kill", {}, DISABLED), ("restart", {}, AGAIN)],
)
async def test_the_scheduler_ends_the_worker(scheduler, worker, command, payload, status):
    scheduler.add("job", QUICK, ["data:application/json,1"])
    async with worker(scheduler, stops=True) as w:
        await scheduler.until(lambda: bool(scheduler.subscribed) and bool(scheduler.results))
        await scheduler.command(command, payload)
        await scheduler.goodbye.wait()
    assert w.exit_status == status
    if status == DISABLED:
        with pytest.raises(WorkerDisabled, match="--enable"):
            await Worker(w.settings).run()


async def test_everything_is_given_back_at_the_start_and_at_the_end_by_a_signed_statement(scheduler, worker):
    scheduler.add("job", QUICK, ["data:application/json,1"])
    async with worker(scheduler) as w:
        await scheduler.done(1)
    first, *between, last = scheduler.requests
    assert (first["fetchState"], last["fetchState"]) == (5, 16)
    assert not any("returnAllSlices" in request for request in between)
    for request in (first, last):
        statement = open_envelope(request["returnAllSlices"])
        assert statement.owner == w.account.identity.address
        assert statement.body == {"id": w.account.worker_id} == {"id": request["coreStats"]["worker"]}


async def test_a_removed_job_leaves_its_sandboxes_to_others(scheduler, worker):
    scheduler.add("stuck", "async x => { progress(); await new Promise(() => {}) }", ["data:application/json,1"] * 3)
    async with worker(scheduler):
        await scheduler.until(lambda: ("stuck", 1) in scheduler.begun and bool(scheduler.subscribed))
        scheduler.add("job", QUICK, ["data:application/json,7"])
        await scheduler.command("remove", {"jobId": "unheard-of"})
        await scheduler.command("remove", {"jobId": "stuck"})
        await scheduler.until(lambda: bool(scheduler.results))
    assert scheduler.value("job", 1) == 7
    assert sorted(scheduler.returns) == [("stuck", number, "SchedMsg") for number in (1, 2, 3)]


async def test_announcements_are_logged_and_too_many_messages_are_dropped_but_kill_is_heard(scheduler, worker, caplog):
    async with worker(scheduler, stops=True) as w:
        await scheduler.until(lambda: bool(scheduler.subscribed))
        with caplog.at_level(logging.INFO):
            for number in range(70):
                await scheduler.command("announce", {"message": f"news {number}"})
        said = [record.text for record in caplog.records if record.getMessage() == "scheduler_says"]
        assert said == [f"news {number}" for number in range(60)]
        counts = w.statistics()["link"]["counts"]
        assert (counts["command announce"], counts["commands too many"]) == (60, 10)
        await scheduler.command("kill", {"temporary": True})
    assert w.exit_status == AGAIN


async def test_the_public_group_is_asked_when_the_own_groups_had_no_work(scheduler, worker):
    given = {"compute_groups": ("team,hush",), "public_group_fallback": True}
    async with worker(scheduler, **given):
        await scheduler.until(lambda: len(scheduler.requests) >= 4)
        seen = len(scheduler.requests)
        scheduler.add("job", QUICK, ["data:application/json,1"])
        await scheduler.done(1)
        await scheduler.until(lambda: len(scheduler.requests) > seen + 2)
    asked = [request for request in scheduler.requests if request["fetchState"] & 1]
    keys = [[group["joinKey"] for group in request["workerComputeGroups"]] for request in asked]
    assert keys[:4] == [["team"], ["team", "public"], ["team"], ["team", "public"]]
    for request, session in zip(scheduler.requests[:4], scheduler.sessions, strict=False):
        proof = request["workerComputeGroups"][0]["joinHashHash"]
        assert proof == words.join_hash_hash(session, words.join_hash("team", "hush"))


async def test_times_that_the_scheduler_publishes_hold_unless_the_owner_set_his_own(worker):
    scheduler = ToyScheduler()
    scheduler.extra = {
        "supervisor": {
            "sandbox": {"progressThrottle": 0.1, "progressTimeoutMs": 500},
            "tuning": {"reservedSliceLifetimeMs": 1000, "sendStatusBeginMessage": False},
        }
    }
    data = ["data:application/json,1"]
    scheduler.add("hangs", "(() => { for (;;) {} })()", data)
    scheduler.add("dozes", "async x => { progress(); await new Promise(done => setTimeout(done, 1500)); }", data)
    scheduler.add("job", QUICK, data)
    async with scheduler.serving():
        async with worker(scheduler, sandboxes=2):
            await scheduler.done(3)
        assert set(scheduler.results) == {("job", 1)} and not scheduler.begun
        assert sorted(scheduler.returns) == [("dozes", 1, "ENOPROGRESS"), ("hangs", 1, "EASSIGN")]
        scheduler.add("dozes", "async x => { progress(); await new Promise(done => setTimeout(done, 1500)); }", data)
        async with worker(scheduler, progress_timeout_s=30.0):
            await scheduler.until(lambda: ("dozes", 1) in scheduler.results)
