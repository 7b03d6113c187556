"""A real worker, asked over its control socket."""

from __future__ import annotations

import asyncio

import pytest

from orchestrator.settings import WorkerSettings
from orchestrator.worker.control_client import ControlClient, NoWorker
from orchestrator.worker.control_socket import StateInUse
from orchestrator.worker.service import Worker

pytestmark = pytest.mark.docker

JOB = "j" * 22
SLOW = "n => { progress(); const end = Date.now() + 300; while (Date.now() < end) progress(); return n }"


def data(count: int) -> list[str]:
    return [f"data:application/json,{n}" for n in range(1, count + 1)]


async def test_status_and_drain(scheduler, worker):
    scheduler.add(JOB, SLOW, data(6))
    async with worker(scheduler, stops=True) as w:
        await w.ready.wait()
        async with ControlClient(w.settings.state_dir) as client:
            await scheduler.until(lambda: bool(scheduler.begun))
            status = await client.status()
            assert status["worker"] == w.account.worker_id and status["state"] == "working"
            assert status["supervisor"]["held"] > 1 and status["supervisor"]["capacity"] == 1
            [slot] = status["slots"]
            assert slot["state"] == "working" and slot["job"] == JOB and slot["for_s"] >= 0
            assert slot["cpu_s"] > 0 and slot["memory_bytes"] > 1 << 20
            usage = status["usage"]
            assert usage["sandboxes_cpu_s"] >= slot["cpu_s"] and usage["sandboxes_memory_bytes"] >= slot["memory_bytes"]
            assert usage["worker_cpu_s"] > 0 and usage["worker_memory_bytes"] > 1 << 20
            lines = [line async for line in client.drain_and_wait()]
    assert {line["event"] for line in lines[:-1]} == {"draining"} and lines[0]["held"] > 0
    end = lines[-1]
    assert end["event"] == "ended" and end["delivered"] and end["unacknowledged"] == 0
    assert len(scheduler.results) == end["accepted"] == 6 and not scheduler.returns
    assert scheduler.goodbye.is_set()
    assert w.status()["earned_dcc"] == "0.006"
    async with ControlClient(w.settings.state_dir) as client:
        with pytest.raises(NoWorker):
            await client.status()


async def test_a_drain_of_an_idle_worker_ends_it(scheduler, worker):
    async with worker(scheduler, stops=True) as w:
        await w.ready.wait()
        async with ControlClient(w.settings.state_dir) as client:
            async with asyncio.timeout(20):
                last = [line async for line in client.drain_and_wait()][-1]
    assert last == {"event": "ended", "delivered": True, "unacknowledged": 0, "accepted": 0, "returned": 0}


async def test_a_second_worker_on_the_folder_says_who_is_there_and_takes_nothing(scheduler, worker):
    async with worker(scheduler) as w:
        await w.ready.wait()
        other = Worker(WorkerSettings(scheduler_url=scheduler.url, state_dir=w.settings.state_dir))
        with pytest.raises(StateInUse, match="already"):
            await other.run()
        async with ControlClient(w.settings.state_dir) as client:
            assert (await client.status())["state"] == "idle"


async def test_without_a_scheduler_it_can_be_asked_and_drained(tmp_path):
    made = Worker(WorkerSettings(scheduler_url="http://127.0.0.1:1/", state_dir=tmp_path / "w", sandboxes=1, warm=0))
    async with asyncio.TaskGroup() as group:
        running = group.create_task(made.run())
        async with ControlClient(made.settings.state_dir) as client:
            while True:  # the socket is there a moment after the start
                try:
                    assert (await client.status())["state"] == "connecting"
                    break
                except NoWorker:
                    await asyncio.sleep(0.01)
            last = [line async for line in client.drain_and_wait()][-1]
        assert last["delivered"] is True
        await running


async def test_explain_tells_the_story_of_a_slice(scheduler, worker):
    scheduler.add(JOB, "n => { progress(); return n }", data(1))
    async with worker(scheduler) as w:
        await scheduler.done(1)
        async with ControlClient(w.settings.state_dir) as client:
            answer = await client.explain(job=JOB, slice_number=1, sandbox=1)
    said = [line["what"] for line in answer["stories"]["slice"]]
    assert said[:3] == ["received", "queued in a sandbox", "completed"]
    assert answer["stories"]["job"] and answer["stories"]["sandbox"]
    assert all(line["ago_s"] >= 0 for line in answer["stories"]["slice"])
