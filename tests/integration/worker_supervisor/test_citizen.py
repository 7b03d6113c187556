"""A real Worker that pauses, takes new settings, and is ended by its Scheduler."""

from __future__ import annotations

import pytest

from orchestrator.worker.ordered_end import AGAIN, DISABLED, WorkerDisabled
from orchestrator.worker.service import Worker

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
