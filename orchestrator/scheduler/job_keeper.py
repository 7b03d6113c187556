"""Looks after jobs about which nobody asks: those that wait for funds, those that were left behind, and slices on which
nobody else gives an opinion."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence

from orchestrator.database import persistently
from orchestrator.jobs.words import RunStatus
from orchestrator.scheduler import lifecycle
from orchestrator.scheduler.core import Core
from orchestrator.scheduler.lifecycle import Ending
from orchestrator.scheduler.settlement import Outcome
from orchestrator.scheduler.settling import Report, cancelled
from orchestrator.scheduler.store import jobs, slices
from orchestrator.scheduler.store.jobs import JobState

log = logging.getLogger(__name__)

LONGEST_LOOK_S = 600.0
"""at least so often slices are looked for on which nobody else gives an opinion"""
LOOK_S = 2.0
"""longest time until money is noticed that came in another way than through this process's teller"""
MOST_PAUSED = 10_000
MOST_ABANDONED = 100
"""jobs per transaction"""
MOST_UNANSWERED = 500
"""slices per transaction"""


class JobKeeper:
    """`run()` works until cancelled.

    A paused job goes on as soon as its payment account can pay for one more slice. A job is abandoned when its owner
    has not been heard of, no worker has taken anything of it and nothing of it is out for `abandoned_job_s`: it is
    stopped with EABANDONED and what it holds goes back. A client that listens to a job counts as its owner. A slice on
    which workers must agree is given up when it has waited for `opinion_wait_s` and nobody else took it.
    """

    def __init__(self, core: Core) -> None:
        self._core = core

    async def run(self) -> None:
        settings = self._core.settings
        calls_s = min(3600.0, settings.abandoned_job_s / 10)
        # Not at once: after a Scheduler was away, its clients need a while to come back and listen.
        next_call = self._core.clock() + calls_s
        next_look = self._core.clock() + min(3600.0, settings.opinion_wait_s / 10)
        while True:
            ticket = self._core.money_came.ticket()
            await persistently(self.fund)
            now = self._core.clock()
            if now >= next_call:
                next_call = now + calls_s
                await persistently(self._call)
                while await persistently(self.expire):
                    pass
            if now >= next_look:
                next_look = now + min(LONGEST_LOOK_S, settings.opinion_wait_s / 10)
                while await persistently(self.give_up):
                    pass
            try:
                async with asyncio.timeout(LOOK_S):
                    await ticket.wait()
            except TimeoutError:
                pass

    async def fund(self) -> int:
        """Resume every paused job whose account has funds; how many there were."""
        core = self._core
        async with core.database.snapshot() as tx:
            keys = await jobs.paused(tx, MOST_PAUSED)
            if not keys:
                return 0
            known = await core.catalog.by_keys(tx, keys)
            accounts = sorted({job.payment_account for job in known.values()})
            balances = await core.money.balances(tx, accounts)
        able = [key for key in keys if balances[known[key].payment_account] >= known[key].slice_cost]
        resumed = 0
        for key in able:
            async with core.database.transaction() as tx:
                state = (await jobs.states(tx, [key], lock=True)).get(key)
                if state is None or state.status is not RunStatus.PAUSED:
                    continue
                state = (await core.settlement.advance(tx, [(known[key], state)], core.clock()))[key]
                await jobs.save(tx, [state])
            resumed += state.status is not RunStatus.PAUSED
            core.publish_state(state)
        return resumed

    async def _call(self) -> None:
        """Owners who listen are there."""
        watched = self._core.audience.watched() if self._core.audience is not None else frozenset()
        if watched:
            async with self._core.database.transaction() as tx:
                await jobs.touch(tx, watched, self._core.clock())

    async def expire(self) -> int:
        """Stop a group of abandoned jobs; how many there were."""
        core, now = self._core, self._core.clock()
        before = now - core.settings.abandoned_job_s
        async with core.database.snapshot() as tx:
            keys = await jobs.abandoned(tx, before, MOST_ABANDONED)
        if not keys:
            return 0
        stopped = await self._stop(keys, now, before)
        if stopped:
            log.warning("%d jobs were abandoned by their owners", len(stopped), extra={"action": "job-abandoned"})
        core.publish(Outcome(states={state.key: state for state in stopped}))
        return len(stopped)

    async def give_up(self) -> int:
        """Give up a group of slices that have waited too long for one more opinion; how many there were."""
        core, now = self._core, self._core.clock()
        wait_s = core.settings.opinion_wait_s
        before = now - wait_s
        async with core.database.snapshot() as tx:
            seen = {job for job, _ in await slices.unanswered(tx, before, MOST_UNANSWERED)}
        if not seen:
            return 0
        span = f"{wait_s / 3600:g} hours" if wait_s >= 3600 else f"{wait_s:g} s"
        reason = f"nobody else has given an opinion for {span}"
        async with core.database.transaction() as tx:
            await jobs.states(tx, seen, lock=True)
            found = await slices.unanswered(tx, before, MOST_UNANSWERED, of=seen)
            known = await core.catalog.by_keys(tx, seen)
            reports = [
                Report(known[job], number, 0, Ending.LOST, reason=reason, unanswered=True) for job, number in found
            ]
            outcome = await core.settlement.settle(tx, reports, now)
        core.publish(outcome)
        if found:
            log.warning("%d slices were given up without agreement", len(found), extra={"action": "slices-unanswered"})
        return len(found)

    async def _stop(self, keys: Sequence[int], now: float, before: float) -> list[JobState]:
        core = self._core
        days = core.settings.abandoned_job_s / 86_400
        reason = f"Nobody has done anything about the job for {days:g} days: neither its owner nor a worker"
        stopped = []
        async with core.database.transaction() as tx:
            known = await core.catalog.by_keys(tx, keys)
            for key, state in (await jobs.states(tx, keys, lock=True)).items():
                # What was seen in the snapshot may have changed.
                if (
                    state.status in lifecycle.ENDED
                    or state.counts.leased
                    or max(state.heard_at, state.served_at) >= before
                ):
                    continue
                stop = cancelled(state, now, "EABANDONED", reason)
                stopped.append(await core.settlement.release(tx, known[key], stop))
            await jobs.save(tx, stopped)
        return stopped
