"""Leases slices that are late at other workers to a worker which finds nothing else to do."""

from __future__ import annotations

import dataclasses
import logging
import math
from typing import Any

from orchestrator import telemetry
from orchestrator.database import Transaction
from orchestrator.jobs.words import RunStatus
from orchestrator.scheduler import lifecycle
from orchestrator.scheduler.catalog import Job
from orchestrator.scheduler.core import Core
from orchestrator.scheduler.late import COME_BACK_S, Restart, Watchman, split
from orchestrator.scheduler.leasing import Leasing, payee_of
from orchestrator.scheduler.matching import why_not
from orchestrator.scheduler.memberships import Membership
from orchestrator.scheduler.offers import profile_for
from orchestrator.scheduler.open_requests import OpenRequest
from orchestrator.scheduler.packing import Portion
from orchestrator.scheduler.redundancy import Asked, Rule
from orchestrator.scheduler.store import jobs, slices
from orchestrator.scheduler.store.slices import Late
from orchestrator.scheduler.task_answer import Grant, TaskAnswers
from orchestrator.scheduler.task_request import TaskRequest

log = logging.getLogger(__name__)

MOST_ENDING = 20
"""jobs whose late slices are looked for in one request"""
MOST_LATE = 64
"""slices of such a job that are looked at, those with the oldest leases"""


class LateLeasing:
    def __init__(self, core: Core, leasing: Leasing, answers: TaskAnswers) -> None:
        self._core = core
        self._leasing = leasing
        self._answers = answers
        self.watchman = Watchman()
        self._restart = Restart(core.clock(), min(COME_BACK_S, core.settings.lease_s))

    async def lease(
        self, wanted: TaskRequest, groups: Membership, opened: OpenRequest
    ) -> tuple[dict[str, Any] | None, float]:
        """For a worker without anything else to do: slices that are late at other workers, and when to look again."""
        async with self._core.database.snapshot() as tx:
            known, found, look_at = await self._find_late(tx, wanted, groups, opened.peer)
        if not found:
            return None, look_at
        grants: list[Grant] = []
        async with self._core.database.transaction() as tx:
            states = await jobs.states(tx, found, lock=True)
            if opened.abandoned:
                return None, math.inf
            routes = await self._leasing.routes(tx, [known[key] for key in states], wanted, groups)
            for key, state in ((key, states[key]) for key in routes):
                rows = await slices.load(tx, key, found[key])
                numbers = [row.number for row in rows.values() if lifecycle.may_have_rival(row)]
                if numbers and state.status in lifecycle.DISTRIBUTABLE:
                    estimation = state.status is RunStatus.ESTIMATION
                    grants.append(Grant(known[key], state, numbers, estimation, routes[key], cotasks=1))
            if not grants:
                return None, look_at
            held = [(Portion(grant.job.key, len(grant.numbers)), grant.state) for grant in grants]
            commissions = {key: taken for key, one in routes.items() if (taken := groups.commission(one))}
            lease = await self._leasing.open_lease(tx, wanted, opened.peer, held, known, commissions=commissions)
            for grant in grants:
                await slices.lease_beside(tx, grant.job.key, grant.numbers, lease.id)
            data = await self._leasing.data(tx, grants)
        self._core.leases.keep(lease)
        number = sum(len(grant.numbers) for grant in grants)
        telemetry.slices_leased.add(number)
        log.info("late_slices_leased", extra={"worker": wanted.profile.worker, "count": number})
        return await self._answers.of(lease, grants, data), look_at

    async def _find_late(
        self, tx: Transaction, wanted: TaskRequest, membership: Membership, peer: str
    ) -> tuple[dict[int, Job], dict[int, list[int]], float]:
        """Jobs, the numbers of their slices to lease, at most one per free core, and when to look again."""
        now, worker = self._core.clock(), wanted.profile.worker
        entries = self._core.listing.board.ending(wanted.profile, MOST_ENDING)
        left = max(1, math.floor(wanted.load))
        found: dict[int, list[int]] = {}
        fitting = []
        for entry in entries:
            key, state = entry.key, entry.state
            profile = profile_for(entry.profile, state, membership) if membership.known else entry.profile
            if why_not(profile, wanted.profile, state.estimate) is not None:
                continue
            fitting.append(key)
            if left <= 0 or self.watchman.is_quiet(key, now):
                continue
            out = await self._out(tx, key, entry.profile.rule, Asked(worker, peer, payee_of(wanted)))
            late, look_at = split(out, worker, now, self._restart)
            if late:
                found[key] = [one.piece.number for one in late[: 1 if entry.profile.discrete else left]]
                left -= len(found[key])
            else:
                self.watchman.look_again(key, look_at)
        known = await self._core.catalog.by_keys(tx, found)
        return known, found, self.watchman.next_look(fitting)

    async def _out(self, tx: Transaction, job: int, rule: Rule | None, who: Asked) -> list[Late]:
        """What is out of a job and may be for this worker."""
        if rule is None:
            return await slices.longest_out(tx, job, MOST_LATE, not_failed_by=who.worker)
        out = await slices.longest_out(tx, job, MOST_LATE, not_failed_by=who.worker, unheard_of=who)
        if rule.trusting:
            return out
        # Others must compute these anyway: whoever has nothing else to do need not wait for the first of them.
        return [
            dataclasses.replace(one, due_at=one.opened_at) if one.piece.opinions + 1 < rule.agree else one
            for one in out
        ]
