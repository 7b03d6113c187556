"""Jobs whose values cannot be read wait while the store is away, and fail when a value is gone."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping

from orchestrator.scheduler import lifecycle
from orchestrator.scheduler.blobs import BlobAway
from orchestrator.scheduler.catalog import Job
from orchestrator.scheduler.core import Core
from orchestrator.scheduler.lifecycle import Ending
from orchestrator.scheduler.settlement import Outcome
from orchestrator.scheduler.settling import Report, cancelled
from orchestrator.scheduler.store import jobs, leases, slices

log = logging.getLogger(__name__)


class Unreadable(Exception):
    """Slices were leased, and something of these jobs cannot be read: inputs, by job and slice, or the program."""

    def __init__(self, found: Mapping[int, Mapping[int, BlobAway]], error: BlobAway) -> None:
        super().__init__(error.message)
        self.found = found


class LostValues:
    def __init__(self, core: Core) -> None:
        self._core = core

    async def without_program(self, asked: Iterable[Job]) -> frozenset[int]:
        """Those of the jobs whose code or arguments cannot be read; one whose program is gone is stopped."""
        found = await self._core.programs.unreadable(asked)
        gone = {key: error for key, error in found.items() if not error.retryable}
        if gone:
            await self._stop(gone)
        return frozenset(found)

    async def _stop(self, gone: Mapping[int, BlobAway]) -> None:
        core, now = self._core, self._core.clock()
        stopped = {}
        async with core.database.transaction() as tx:
            known = await core.catalog.by_keys(tx, gone)
            for key, state in (await jobs.states(tx, gone, lock=True)).items():
                if state.status not in lifecycle.ENDED:
                    stopped[key] = cancelled(state, now, "EBLOB", f"It cannot be computed: {gone[key].message}")
                    await core.money.release(tx, known[key])
            await jobs.save(tx, list(stopped.values()))
        core.publish(Outcome(states=stopped))

    async def give_back(self, lease: int, unreadable: Unreadable) -> None:
        """End a lease that nobody has heard of. A slice whose input is gone has failed, which is no worker's fault."""
        core = self._core
        async with core.database.transaction() as tx:
            held = leases.jobs_of((await leases.load(tx, [lease])).values())
            out = await slices.leased_under(tx, held)
            known = await core.catalog.by_keys(tx, {job for job, _, _ in out})
            reports = []
            for job, number, _ in out:
                error = unreadable.found.get(job, {}).get(number)
                gone = error is not None and not error.retryable
                reports.append(
                    Report(
                        known[job], number, lease, Ending.FAILED if gone else Ending.RETURNED,
                        reason="" if error is None else f"{error.code}: {error.message}",
                    )
                )  # fmt: skip
            outcome = await core.settlement.settle(tx, reports, core.clock())
            await leases.end(tx, [lease])
        log.warning("slices come back unseen: %s", unreadable, extra={"action": "value-unreadable"})
        core.publish(outcome)
