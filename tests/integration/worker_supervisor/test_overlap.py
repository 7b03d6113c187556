"""Waiting slices share a core, computing ones do not: real containers, one core to use."""

from __future__ import annotations

import pytest

from orchestrator.worker.service import Worker

pytestmark = pytest.mark.docker

JOB = "j" * 22
SLEEPS = "async n => { progress(); await new Promise(done => setTimeout(done, 200)); return n }"
# So much work, not so much time: on a busy machine an answer is long on its way, and that must be little beside it.
COMPUTES = """n => {
  progress(); let sum = 0; for (let k = 0; k < 2e8; k++) sum = (sum * 31 + k) | 0; return sum ? n : 0 }"""


def most_at_once(w: Worker) -> list[int]:
    """A list of one number: the most sandboxes that were at work at the same time."""
    seen, handle_all = [0], w.supervisor.handle_all

    def watching(events, now):
        actions = handle_all(events, now)
        seen[0] = max(seen[0], w.supervisor.statistics().sandboxes_busy)
        return actions

    w.supervisor.handle_all = watching
    return seen


def data(count: int) -> list[str]:
    return [f"data:application/json,{n}" for n in range(1, count + 1)]


async def test_slices_that_sleep_overlap_on_one_core(scheduler, worker):
    scheduler.add(JOB, SLEEPS, data(60))
    async with worker(scheduler, sandboxes=1, max_sandboxes=4) as w:
        seen = most_at_once(w)
        await scheduler.done(60)
    assert len(scheduler.results) == 60 and not scheduler.returns
    assert seen[0] == 4


async def test_slices_that_compute_do_not(scheduler, worker):
    scheduler.add(JOB, COMPUTES, data(15))
    async with worker(scheduler, sandboxes=1, max_sandboxes=4) as w:
        seen = most_at_once(w)
        await scheduler.done(15, timeout_s=120)
    assert len(scheduler.results) == 15
    assert seen[0] == 1
