"""A real Scheduler with short waits, on a real SQLite file and on a real PostgreSQL."""

from __future__ import annotations

import pathlib
from collections.abc import AsyncIterator

import pytest

from orchestrator.scheduler.app import SchedulerApp
from orchestrator.settings import SchedulerSettings


@pytest.fixture
def settings(tmp_path: pathlib.Path, database_url: str) -> SchedulerSettings:
    return SchedulerSettings(
        port=0,
        state_dir=tmp_path / "scheduler",
        database_url=database_url,
        initial_credit=1000 * 10**18,
        stop_settle_s=0.05,
        stop_repeat_s=0.2,
        status_interval_s=0.05,
        long_poll_s=1.0,
        other_worker_s=30.0,
    )


@pytest.fixture
async def app(settings: SchedulerSettings) -> AsyncIterator[SchedulerApp]:
    async with SchedulerApp(settings) as running:
        yield running
