"""The reconcile loop: puts right what nobody reports. It sleeps until the next deadline."""

from __future__ import annotations

import asyncio
import logging

from orchestrator.database import persistently
from orchestrator.scheduler.core import Core
from orchestrator.scheduler.late import COME_BACK_S
from orchestrator.scheduler.lifecycle import Ending
from orchestrator.scheduler.settlement import Outcome
from orchestrator.scheduler.settling import Report
from orchestrator.scheduler.store import jobs, leases, slices

log = logging.getLogger(__name__)

GROUP = 100
"""leases per transaction"""
REMEMBERED_S = 86_400.0
"""how long an ended lease is kept, so that a late repetition of a report is recognised"""


class Reconciler:
    """Leases that expired give their slices back; leases long ended are dropped.

    At the start no lease is overdue: nobody could be heard before.
    """

    def __init__(self, core: Core, *, pardon: bool = True) -> None:
        """`pardon`: nobody could be heard before, so no lease is overdue yet."""
        self._core = core
        self._pardons = pardon

    async def run(self) -> None:
        if self._pardons:
            await persistently(self._pardon)
        while True:
            while await persistently(self.expire):
                pass
            await persistently(self._write_market)
            await asyncio.sleep(await persistently(self._pause))

    async def _write_market(self) -> None:
        async with self._core.database.transaction() as tx:
            await self._core.listing.write_market(tx, self._core.clock())

    async def _pardon(self) -> None:
        patience = min(COME_BACK_S, self._core.settings.lease_s)
        async with self._core.database.transaction() as tx:
            await leases.renew_all(tx, self._core.clock() + patience)

    async def _pause(self) -> float:
        """Seconds until the next lease may expire. New leases never expire before `lease_s` from now."""
        async with self._core.database.snapshot() as tx:
            expiry = await leases.next_expiry(tx)
        longest = self._core.settings.lease_s
        if expiry is None:
            return longest
        return min(max(expiry - self._core.clock(), 0.05), longest)

    async def expire(self) -> int:
        """End a group of overdue leases; how many there were."""
        now = self._core.clock()
        async with self._core.database.snapshot() as tx:
            seen = {lease.id: lease for lease in await leases.overdue(tx, now, GROUP)}
            out = await slices.leased_under(tx, leases.jobs_of(seen.values())) if seen else []
        if not seen:
            return 0
        async with self._core.database.transaction() as tx:
            # Jobs before leases, as everybody locks them; a lease may have been renewed or ended meanwhile.
            await jobs.states(tx, {job for job, _, _ in out}, lock=True)
            overdue = await leases.take_overdue(tx, seen, now)
            out = await slices.leased_under(tx, leases.jobs_of(overdue.values()))
            known = await self._core.catalog.by_keys(tx, {job for job, _, _ in out})
            reports = [
                Report(
                    known[job], number, lease, Ending.LOST,
                    worker=overdue[lease].worker, reason="ELEASEEXPIRED: its worker was not heard of", expired=True,
                )
                for job, number, lease in out
            ]  # fmt: skip
            outcome: Outcome = await self._core.settlement.settle(tx, reports, now)
            await leases.end(tx, overdue)
            await leases.forget(tx, now - REMEMBERED_S)
        if reports:
            log.warning(
                "%d leases expired with %d slices out", len(overdue), len(reports), extra={"action": "lease-expired"}
            )
        self._core.publish(outcome)
        return len(overdue)
