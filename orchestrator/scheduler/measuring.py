"""What metrics show of a Scheduler's process at this moment, told every so often."""

from __future__ import annotations

import asyncio
import time
from typing import Final

from orchestrator import telemetry
from orchestrator.own_memory import own_memory
from orchestrator.scheduler.core import Core
from orchestrator.scheduler.roster import Roster
from orchestrator.scheduler.task_distributor import TaskDistributor

PAUSE_S: Final = 2.0


class Gauges:
    """Run `run()` while somebody may look."""

    def __init__(self, core: Core, roster: Roster, distributor: TaskDistributor) -> None:
        self._core = core
        self._roster = roster
        self._distributor = distributor

    async def run(self) -> None:
        telemetry.loop_lag.set(0.0)
        self.once()
        while True:
            due = time.monotonic() + PAUSE_S
            await asyncio.sleep(PAUSE_S)
            telemetry.loop_lag.set(max(0.0, time.monotonic() - due))
            self.once()

    def once(self) -> None:
        workers = self._roster.statistics()
        telemetry.workers_present.set(workers["workers"])
        telemetry.cores_present.set(workers["cores"])
        telemetry.jobs_with_work.set(self._core.listing.board.statistics()["waiting"])
        telemetry.requests_waiting.set(self._distributor.statistics()["waiters"])
        telemetry.scheduler_cpu_time.set_total(time.process_time())
        memory = own_memory()
        if memory is not None:
            telemetry.scheduler_memory.set(memory)
