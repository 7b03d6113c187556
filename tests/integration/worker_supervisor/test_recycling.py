"""Sandboxes that have served long enough are replaced, and no slice notices: real containers."""

from __future__ import annotations

import pytest

pytestmark = pytest.mark.docker

JOB = "j" * 22
#: What hangs on the function itself outlives the slice.
LEAKS = """async function work(n) {
  progress();
  work.kept = work.kept || [];
  work.kept.push(new Uint8Array(25e6).fill(n));
  await new Promise(done => setTimeout(done, 300));
  return work.kept.length }"""


def data(count: int) -> list[str]:
    return [f"data:application/json,{n}" for n in range(1, count + 1)]


async def test_after_so_many_slices(scheduler, worker):
    scheduler.add(JOB, "n => { progress(); return n }", data(50))
    async with worker(scheduler, sandbox_max_slices=20) as w:
        await scheduler.done(50)
    assert len(scheduler.results) == 50 and not scheduler.returns
    counts = w.supervisor.statistics().counts
    assert counts["sandboxes recycled: slices"] == 2 and counts["sandboxes opened"] == 3


async def test_a_job_that_leaks_is_given_a_new_sandbox_before_its_memory_runs_out(scheduler, worker):
    scheduler.add(JOB, LEAKS, data(30))
    async with worker(scheduler, sandbox_max_growth_mib=100, max_sandboxes=1) as w:
        await scheduler.done(30, timeout_s=60)
    assert len(scheduler.results) == 30 and not scheduler.returns
    counts = w.supervisor.statistics().counts
    assert counts["sandboxes recycled: memory growth"] >= 1
    lives = [scheduler.value(JOB, n) for n in range(1, 31)]
    assert max(lives) < 25, "it went on leaking"
