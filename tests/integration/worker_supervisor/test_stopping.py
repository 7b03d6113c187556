"""A Worker that is stopped while its Scheduler is away says goodbye to nobody, and not for long."""

from __future__ import annotations

import asyncio

import pytest

from tests.integration.worker_supervisor.conftest import ToyScheduler
from tests.integration.worker_supervisor.test_worker import watch

pytestmark = pytest.mark.docker

JOB = "j" * 22
LONGEST_S = 8.0  # half a second for the goodbye, one to close the sessions; the rest is the machine's


async def test_the_goodbye_to_a_scheduler_that_is_away_is_short(worker):
    toy = ToyScheduler()
    clock = asyncio.get_running_loop().time
    async with worker(toy, stops=True, goodbye_timeout_s=0.5) as w:
        async with toy.serving():
            accepted = watch(w, lambda counts: counts.get("results accepted") == 1)
            toy.add(JOB, "n => { progress(); return n }", ["data:application/json,1"])
            await accepted.wait()
        began = clock()
        w.stop()
    assert clock() - began < LONGEST_S
    assert not toy.goodbye.is_set()
