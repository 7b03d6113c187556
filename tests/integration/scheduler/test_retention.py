"""What ended jobs leave is dropped by rule, on both databases."""

from __future__ import annotations

import asyncio
import time

import pytest
import sqlalchemy as sa

from orchestrator.bank import Bank
from orchestrator.scheduler import retention
from orchestrator.scheduler.app import SchedulerApp
from orchestrator.scheduler.store import schema
from orchestrator.settings import SchedulerSettings
from tests.integration.scheduler.actors import deployer, serving

KEPT_S = {"keep_events_s": 1000.0, "keep_results_s": 5000.0}


class Clock:
    """The time of day, or later."""

    def __init__(self) -> None:
        self.ahead = 0.0

    def __call__(self) -> float:
        return time.time() + self.ahead


async def _rows(app: SchedulerApp, *tables: sa.Table) -> list[int]:
    async with app.core.database.snapshot() as tx:
        return [(await tx.execute(sa.select(sa.func.count()).select_from(table))).scalar_one() for table in tables]


async def test_what_ended_jobs_leave_goes_and_the_rest_stays(
    settings: SchedulerSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retention, "ROWS_AT_ONCE", 7)
    clock = Clock()
    async with SchedulerApp(settings.model_copy(update=KEPT_S), clock=clock) as app:
        sweeper = retention.Retention(app.core)
        async with deployer(app.url) as client, serving(app.url, lambda x, _: x):
            job = await client.listed(list(range(20)))
            await client.wait_for("stop")
            unheard, _ = await client.submit(dataRange={"start": 1, "end": 3, "step": 1})
            await client.join(unheard)
            async with asyncio.timeout(20):
                while (await client.pheme.request("countSlices", {"job": unheard}))["computed"] < 3:
                    pass  # nobody listens to it
        kept = (schema.slice_results, schema.slice_inputs, schema.slices)
        before = await _rows(app, *kept)
        assert before == [23, 20, 23]
        assert (await _rows(app, schema.events))[0] >= 3
        assert await sweeper.sweep() == 0
        clock.ahead += 1001
        assert await sweeper.sweep() == 2
        assert await _rows(app, *kept, schema.events) == [*before, 0]
        clock.ahead += 4000
        assert await sweeper.sweep() == 2
        assert await _rows(app, *kept, schema.slice_failures) == [0, 0, 0, 0]
        assert await sweeper.sweep() == 0
        async with app.core.database.snapshot() as tx:
            assert (await Bank().audit(tx)).problems == ()
        assert await _rows(app, schema.jobs) == [2], job


async def test_jobs_that_run_keep_everything(settings: SchedulerSettings) -> None:
    clock = Clock()
    async with SchedulerApp(settings.model_copy(update=KEPT_S), clock=clock) as app, deployer(app.url) as client:
        await client.submit(dataRange={"start": 1, "end": 3, "step": 1})
        clock.ahead += 100_000
        assert await retention.Retention(app.core).sweep() == 0
