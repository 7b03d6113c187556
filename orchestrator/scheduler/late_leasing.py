"""Leases slices that are late at other workers to a worker which finds nothing else to do."""

from __future__ import annotations

import dataclasses
import logging
import math
from collections.abc import Sequence
from typing import Any

from orchestrator import telemetry
from orchestrator.database import Transaction
from orchestrator.jobs.words import RunStatus
from orchestrator.scheduler import lifecycle
from orchestrator.scheduler.board import Entry
from orchestrator.scheduler.catalog import Job
from orchestrator.scheduler.core import Core
from orchestrator.scheduler.late import COME_BACK_S, LOOK_AGAIN_S, Restart, Watchman, split
from orchestrator.scheduler.leasing import Leasing, payee_of
from orchestrator.scheduler.lost_values import LostValues, Unreadable
from orchestrator.scheduler.matching import why_not
from orchestrator.scheduler.memberships import Membership
from orchestrator.scheduler.offers import profile_for
from orchestrator.scheduler.open_requests import OpenRequest
from orchestrator.scheduler.packing import Portion
from orchestrator.scheduler.redundancy import Asked, Rule
from orchestrator.scheduler.store import jobs, leases, slices
from orchestrator.scheduler.store.slices import Late
from orchestrator.scheduler.task_answer import Grant, TaskAnswers
from orchestrator.scheduler.task_request import TaskRequest

log = logging.getLogger(__name__)

MOST_ENDING = 20
"""jobs whose late slices are looked for in one request"""
MOST_LATE = 64
"""slices of such a job that are looked at, those with the oldest leases"""


class LateLeasing:
    def __init__(self, core: Core, leasing: Leasing, answers: TaskAnswers, watchman: Watchman) -> None:
        self._core = core
        self._leasing = leasing
        self._answers = answers
        self._watchman = watchman
        self._lost = LostValues(core)
        self._restart = Restart(core.clock(), min(COME_BACK_S, core.settings.lease_s))

    async def lease(self, wanted: TaskRequest, groups: Membership, opened: OpenRequest) -> dict[str, Any] | None:
        """For a worker without anything else to do: slices that are late at other workers."""
        fitting = self._fitting(wanted, groups)
        if not fitting:
            return None
        async with self._core.database.snapshot() as tx:
            known, found = await self._find_late(tx, wanted, fitting, opened.peer)
        unreadable = await self._lost.without_program(known.values())
        found = {key: numbers for key, numbers in found.items() if key not in unreadable}
        if not found:
            return None
        grants: list[Grant] = []
        async with self._core.database.transaction() as tx:
            states = await jobs.states(tx, found, lock=True)
            if opened.abandoned:
                return None
            routes = await self._leasing.routes(tx, [known[key] for key in states], wanted, groups)
            for key, state in ((key, states[key]) for key in routes):
                rows = await slices.load(tx, key, found[key])
                numbers = [row.number for row in rows.values() if lifecycle.may_have_rival(row)]
                if numbers and state.status in lifecycle.DISTRIBUTABLE:
                    estimation = state.status is RunStatus.ESTIMATION
                    grants.append(Grant(known[key], state, numbers, estimation, routes[key], cotasks=1))
            if not grants:
                return None
            held = [(Portion(grant.job.key, len(grant.numbers)), grant.state) for grant in grants]
            commissions = {key: taken for key, one in routes.items() if (taken := groups.commission(one))}
            [number] = await leases.reserve(tx, 1)
            lease = self._leasing.new_lease(number, wanted, opened.peer, held, known, commissions=commissions)
            await leases.insert(tx, [lease])
            for grant in grants:
                await slices.lease_beside(tx, grant.job.key, grant.numbers, lease.id)
            data = await self._leasing.data(tx, grants)
        self._leasing.took(lease)
        number = sum(len(grant.numbers) for grant in grants)
        telemetry.slices_leased.add(number)
        telemetry.slices_leased_again.add(number)
        log.info("late_slices_leased", extra={"worker": wanted.profile.worker, "count": number})
        try:
            return await self._answers.of(lease, grants, data)
        except Unreadable as error:
            await self._lost.give_back(lease.id, error)
            return None

    def _fitting(self, wanted: TaskRequest, membership: Membership) -> list[Entry]:
        """Jobs of the worker's whose last slices are out, without those of which nothing can be late."""
        now, found = self._core.clock(), []
        for entry in self._core.listing.board.ending(wanted.profile, MOST_ENDING):
            if not self._watchman.is_quiet(entry.key, now):
                profile = entry.profile
                if membership.known:
                    profile = profile_for(profile, entry.state, membership, wanted.profile.groups)
                if why_not(profile, wanted.profile, entry.state.estimate) is None:
                    found.append(entry)
        return found

    async def _find_late(
        self, tx: Transaction, wanted: TaskRequest, entries: Sequence[Entry], peer: str
    ) -> tuple[dict[int, Job], dict[int, list[int]]]:
        """Jobs, and the numbers of their slices to lease, at most one per free core."""
        who = Asked(wanted.profile.worker, peer, payee_of(wanted))
        left = max(1, math.floor(wanted.load))
        found: dict[int, list[int]] = {}
        for entry in entries:
            if left <= 0:
                break
            late = await self._look(tx, entry, who)
            if late:
                found[entry.key] = [one.piece.number for one in late[: 1 if entry.profile.discrete else left]]
                left -= len(found[entry.key])
        return await self._core.catalog.by_keys(tx, found), found

    async def _look(self, tx: Transaction, entry: Entry, who: Asked | None) -> list[Late]:
        """Slices of a job that are late, and that this worker may have; without one, all that are late."""
        now, rule = self._core.clock(), entry.profile.rule
        worker = "" if who is None else who.worker
        out = await self._out(tx, entry.key, rule, worker, who)
        late, nothing_late, next_at = split(out, worker, now, self._restart)
        if rule is not None and who is not None and not late:
            # Only what this one may have was read. If there is nothing for anybody, the next ones need not look.
            out = await self._out(tx, entry.key, rule, "", None)
            _, nothing_late, next_at = split(out, "", now, self._restart)
        if len(out) == MOST_LATE or self._core.database.is_shared:
            # There are more, or other processes may lease some.
            next_at = min(next_at, now + LOOK_AGAIN_S)
        self._watchman.looked(entry.key, now, nothing_late=nothing_late, next_at=next_at)
        return late

    async def _out(self, tx: Transaction, job: int, rule: Rule | None, worker: str, who: Asked | None) -> list[Late]:
        """What is out of a job and may be for this worker."""
        if rule is None:
            return await slices.longest_out(tx, job, MOST_LATE, worker=worker)
        out = await slices.longest_out(tx, job, MOST_LATE, worker=worker, unheard_of=who)
        if rule.trusting:
            return out
        # Others must compute these anyway: whoever has nothing else to do need not wait for the first of them.
        return [
            dataclasses.replace(one, due_at=one.opened_at) if one.piece.opinions + 1 < rule.agree else one
            for one in out
        ]

    async def find(self, entry: Entry) -> int:
        """How many slices of a job are late for somebody; when the next will be is noted."""
        async with self._core.database.snapshot() as tx:
            return len(await self._look(tx, entry, None))
