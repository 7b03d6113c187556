"""What ended jobs leave behind is dropped by rule: first events that nobody fetched, then code, arguments, inputs,
results and the rows of slices. The job itself, with its counts and why it ended, stays, and so does every posting of
the ledger. What was put aside for jobs that were refused then goes, too."""

from __future__ import annotations

import asyncio
import logging

from orchestrator.database import persistently
from orchestrator.scheduler.core import Core
from orchestrator.scheduler.programs import without_program
from orchestrator.scheduler.store import blob_intents, jobs, opinions
from orchestrator.scheduler.store import retention as store

log = logging.getLogger(__name__)

EVERY_S = 60.0
JOBS_AT_ONCE = 100
TRUST_KEPT_S = 90 * 86_400.0
"""how long an owner's trust in a worker lasts that gives no opinions any more"""
REFUSED_S = 3600.0
"""how long a job may take from the first of its values to its row"""
ROWS_AT_ONCE = 5000
"""rows per transaction: nobody waits long for one"""


class Retention:
    """Each process does it; on a shared database they take different jobs."""

    def __init__(self, core: Core) -> None:
        self._core = core

    async def run(self) -> None:
        while True:
            await self.sweep()
            await asyncio.sleep(EVERY_S)

    async def sweep(self) -> int:
        """Drop what is due; from how many jobs."""
        settings = self._core.settings
        dropped = 0
        for what, kept_s in ((store.EVENTS, settings.keep_events_s), (store.RESULTS, settings.keep_results_s)):
            while due := await persistently(lambda what=what, kept_s=kept_s: self._due(what, kept_s)):  # type: ignore[misc]
                done = 0
                for key in due:
                    done += await self._drop(key, what)
                dropped += done
                if not done:
                    break  # another process is busy with the rest
        await persistently(self._forget_workers)
        await self._drop_refused()
        if dropped:
            log.info("dropped what %d ended jobs had left", dropped, extra={"action": "retention"})
        return dropped

    async def _forget_workers(self) -> None:
        async with self._core.database.transaction() as tx:
            await opinions.forget_trust(tx, self._core.clock() - TRUST_KEPT_S)

    async def _drop_refused(self) -> None:
        """Values of jobs whose process died before it could drop them, or give them a row."""
        core = self._core

        async def due() -> list[str]:
            async with core.database.snapshot() as tx:
                return await blob_intents.older(tx, core.clock() - REFUSED_S, JOBS_AT_ONCE)

        async def drop(job: str) -> None:
            async with core.database.transaction() as tx:
                orphaned = await blob_intents.take(tx, job, before=core.clock() - REFUSED_S)
                if orphaned:
                    await core.blobs.drop(job)
                if orphaned is not None:
                    await blob_intents.end(tx, job)

        try:
            for job in await persistently(due):
                await persistently(lambda job=job: drop(job))  # type: ignore[misc]
        except OSError as error:
            log.warning("values of a refused job cannot be dropped: %s", error, extra={"action": "blob-away"})

    async def _due(self, what: store.What, kept_s: float) -> list[int]:
        async with self._core.database.snapshot() as tx:
            return await store.due(tx, what, self._core.clock() - kept_s, JOBS_AT_ONCE)

    async def _drop(self, key: int, what: store.What) -> bool:
        """False when another process is at it."""

        async def some() -> bool | None:
            async with self._core.database.transaction() as tx:
                job = await store.take(tx, key, what)
                if job is None:
                    return False
                if await store.drop_some(tx, key, what, ROWS_AT_ONCE):
                    return None
                if what is store.RESULTS:
                    await self._core.blobs.drop(job)
                    await jobs.change_spec(tx, key, without_program)
                await store.dropped(tx, key, what, self._core.clock())
                return True

        try:
            while (done := await persistently(some)) is None:
                pass
        except OSError as error:
            log.warning("values of an ended job cannot be dropped: %s", error, extra={"action": "blob-away"})
            return False
        return done
