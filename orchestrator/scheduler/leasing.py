"""Leases slices to an asking worker: what the board offers it, packed to its load, in one transaction."""

from __future__ import annotations

import collections
import dataclasses
import functools
import secrets
from collections.abc import Awaitable, Callable, Container, Mapping, Sequence
from typing import Any

from orchestrator import telemetry
from orchestrator.database import Transaction
from orchestrator.errors import InvalidInput
from orchestrator.jobs.words import RunStatus
from orchestrator.scheduler import escrow, lifecycle
from orchestrator.scheduler.catalog import Job
from orchestrator.scheduler.core import Core
from orchestrator.scheduler.group_commit import GroupCommit
from orchestrator.scheduler.groups import PUBLIC_GROUP_ID, Commission, route
from orchestrator.scheduler.late import LateRules, Watchman
from orchestrator.scheduler.lifecycle import Slice, SliceState
from orchestrator.scheduler.listing import job_profile
from orchestrator.scheduler.lost_values import LostValues, Unreadable
from orchestrator.scheduler.matching import WhyNot
from orchestrator.scheduler.memberships import Membership
from orchestrator.scheduler.offers import Offers, estimation_left
from orchestrator.scheduler.open_requests import OpenRequest
from orchestrator.scheduler.packing import PackingRules, Portion, pack
from orchestrator.scheduler.presence import Presence
from orchestrator.scheduler.redundancy import Asked
from orchestrator.scheduler.roster import Roster
from orchestrator.scheduler.settlement import Outcome
from orchestrator.scheduler.store import jobs, leases, slices
from orchestrator.scheduler.store.jobs import JobState
from orchestrator.scheduler.store.leases import Lease
from orchestrator.scheduler.store.slices import Fresh
from orchestrator.scheduler.task_answer import Grant, TaskAnswers, in_range
from orchestrator.scheduler.task_request import TaskRequest
from orchestrator.wallet.addresses import checksum

MOST_PLANS = 3
"""how often a request looks again when others took what it had chosen"""


@dataclasses.dataclass(slots=True)
class _Wish:
    """What one request wants leased, and what came of it."""

    wanted: TaskRequest
    groups: Membership
    opened: OpenRequest
    plan: Sequence[Portion]
    known: Mapping[int, Job]
    held: bool = False
    """others have left something of the plan"""
    lease: Lease | None = None
    grants: list[Grant] = dataclasses.field(default_factory=list)
    data: dict[int, dict[int, str]] = dataclasses.field(default_factory=dict)
    """listed inputs, by job and slice"""

    def begin(self) -> None:
        """The transaction begins, perhaps not for the first time."""
        self.held, self.lease, self.grants, self.data = False, None, [], {}


class Leasing:
    """`run()` must be running while requests are answered."""

    def __init__(
        self,
        core: Core,
        roster: Roster,
        presence: Presence,
        watchman: Watchman,
        *,
        rules: PackingRules,
        answers: TaskAnswers,
    ) -> None:
        self._core = core
        self._roster = roster
        self._presence = presence
        self._watchman = watchman
        self._offers = Offers(core, roster)
        self._rules = rules
        self._answers = answers
        # A lease that was made twice would keep its slices from everybody: nothing is tried again here.
        self._commits = GroupCommit(self._lease_together, patience=0.0)
        self._lost = LostValues(core)
        settings = core.settings
        self._late_rules = LateRules(settings.late_factor, settings.late_bias_s, settings.late_unknown_s)

    async def lease(
        self, wanted: TaskRequest, groups: Membership, opened: OpenRequest, reasons: collections.Counter[str]
    ) -> dict[str, Any] | None:
        """One attempt: None when there is nothing for this worker; `reasons` then counts the jobs that wait, by why."""
        passed_over: dict[int, WhyNot] = {}
        for _ in range(MOST_PLANS):
            reasons.clear()
            candidates = await self._offers.candidates(wanted, groups, passed_over, reasons)
            await self._offers.stop_rejected()
            if not candidates:
                return None
            now = self._core.clock()
            load, alone = self._roster.load(now), self._roster.alone(wanted.profile.worker, now)
            plan = pack(
                [candidate for _, _, candidate in candidates], wanted.load, load, self._rules,
                long_slices=wanted.long_slices, gpu_load=wanted.gpu_load, alone=alone,
            )  # fmt: skip
            known = {job.key: job for job, _, _ in candidates}
            unreadable = await self._lost.without_program([known[portion.key] for portion in plan])
            if unreadable:
                passed_over |= dict.fromkeys(unreadable, WhyNot.UNREADABLE)
                continue
            wish = _Wish(wanted, groups, opened, plan, known)
            if plan:
                await self._commits.submit([wish])
            lease, grants = wish.lease, wish.grants
            if lease is not None and grants:
                telemetry.slices_leased.add(sum(len(grant.numbers) for grant in grants))
                try:
                    return await self._answers.of(lease, grants, wish.data)
                except Unreadable as error:
                    await self._lost.give_back(lease.id, error)
                    passed_over |= dict.fromkeys(error.found, WhyNot.UNREADABLE)
                    continue
            if not plan:
                break
            planned = {portion.key for portion in plan}
            if wish.held:  # not taken by others meanwhile: nothing in it is for this worker
                passed_over |= {key: WhyNot.HEARD if known[key].rule else WhyNot.FAILED_HERE for key in planned}
            else:
                self._core.listing.changed(planned)
        for key, why in passed_over.items():
            self._core.refusals.note(key, why, wanted.profile.worker, self._core.clock())
        for why, number in collections.Counter(passed_over.values()).items():
            reasons[why] = max(reasons[why], number)
        return None

    def took(self, lease: Lease) -> None:
        """A lease is committed."""
        self._core.leases.keep(lease)
        for key in lease.jobs:
            entry = self._core.listing.board.get(key)
            rule = None if entry is None else entry.profile.rule
            # Where others must compute the same slices, workers that wait need not do so until these are late.
            at_once = lease.due_at is None or (rule is not None and not rule.trusting)
            self._watchman.leased(key, self._core.clock() if at_once or lease.due_at is None else lease.due_at)

    async def run(self) -> None:
        await self._commits.run()

    async def _lease_together(self, wishes: Sequence[_Wish]) -> None:
        """One transaction for all requests that came while the last one ran: they lease one after the other."""
        for wish in wishes:
            wish.begin()
        async with self._core.database.transaction() as tx:
            planned = {portion.key for wish in wishes for portion in wish.plan}
            states = await jobs.states(tx, planned, lock=True)
            in_groups = await jobs.groups(tx, planned)
            changed: dict[int, JobState] = {}
            fresh: list[Fresh] = []
            for wish, number in zip(wishes, await leases.reserve(tx, len(wishes)), strict=True):
                fresh += await self._lease_planned(tx, wish, number, states, in_groups)
                for grant in wish.grants:
                    states[grant.job.key] = changed[grant.job.key] = grant.state
            await leases.insert(tx, [wish.lease for wish in wishes if wish.lease is not None])
            await slices.lease_fresh(tx, fresh)
            await jobs.save(tx, list(changed.values()))
        for wish in wishes:
            if wish.lease is not None and wish.grants:
                self.took(wish.lease)
                self._presence.took(wish.lease.id, wish.opened.session)
        self._core.publish(Outcome(states=changed))

    async def _lease_planned(
        self,
        tx: Transaction,
        wish: _Wish,
        number: int,
        states: Mapping[int, JobState],
        in_groups: Mapping[int, frozenset[str]],
    ) -> list[Fresh]:
        """Lease what others have left of a plan, under a lease of this number. The rows of the lease and of slices that
        are leased for the first time are the caller's to write."""
        wanted, known = wish.wanted, wish.known
        if wish.opened.abandoned:  # whoever abandons it ends its leases in a transaction before or after this one
            wish.held = True
            return []
        held = _left_of(wish.plan, states, wanted.load)
        routes = _routes([known[portion.key] for portion, _ in held], in_groups, wanted, wish.groups)
        held = [(portion, state) for portion, state in held if portion.key in routes]
        wish.held = bool(held)
        if not held:
            return []
        commissions = {key: taken for key, one in routes.items() if (taken := wish.groups.commission(one))}
        lease = self.new_lease(number, wanted, wish.opened.peer, held, known, commissions=commissions)
        fresh: list[Fresh] = []
        for portion, state in held:
            job = known[portion.key]
            grant = await self._grant(
                tx, job, state, portion.slices, worker=wanted.profile.worker, lease=lease, fresh=fresh
            )
            grant.group = routes[portion.key]
            if grant.numbers:
                wish.grants.append(grant)
        wish.lease = lease if wish.grants else None
        await self._bind(tx, wish.grants)
        wish.data = await self.data(tx, wish.grants)
        return fresh

    async def _grant(
        self, tx: Transaction, job: Job, state: JobState, wanted: int, *, worker: str, lease: Lease, fresh: list[Fresh]
    ) -> Grant:
        """Lease slices of one job: first those that came back, then those never touched, which are noted in `fresh`."""
        now = self._core.clock()
        counts = state.counts
        estimation = state.status is RunStatus.ESTIMATION
        again: list[int] = []
        if counts.ready > 0:
            failed = await slices.failed_here(tx, job.key, min(wanted, counts.ready), worker=worker)
            take = functools.partial(
                slices.take_ready, tx, job.key, worker=worker,
                failed_elsewhere_before=now - self._core.settings.other_worker_s,
                also=await self._without_others(tx, job, worker, failed),
            )  # fmt: skip
            rows = await _take_ready(take, job, state, wanted, lease)
            again = [lifecycle.lease(row, lease.id).number for row in rows]
            await slices.lease_again(tx, job.key, again, lease.id)
            counts = counts.moved(SliceState.READY, SliceState.LEASED, len(again)) if again else counts
            if counts.doubted:
                counts = dataclasses.replace(counts, doubted=counts.doubted - sum(row.opinions > 0 for row in rows))
        number = min(wanted - len(again), counts.total - counts.cursor)
        if counts.doubted and (covered := escrow.leasable(state.funded, counts)) is not None:
            number = min(number, covered)  # `wanted` counts slices in doubt that are not for this worker
        if number > 0:
            fresh.append(Fresh(job.key, counts.cursor + 1, number, lease.id))
            again.extend(range(counts.cursor + 1, counts.cursor + number + 1))
            counts = counts.leased_fresh(number)
        state = dataclasses.replace(state, counts=counts, served_at=now)
        return Grant(job, state, again, estimation, PUBLIC_GROUP_ID)

    async def _without_others(
        self, tx: Transaction, job: Job, worker: str, failed: Mapping[int, Container[str]]
    ) -> list[int]:
        """Those of the slices that this worker failed, each with all who failed it, that no other worker could try."""
        if not failed:
            return []
        groups = (await jobs.groups(tx, [job.key])).get(job.key, frozenset())
        profile, now = job_profile(job, groups), self._core.clock()
        return [number for number, by in failed.items() if not self._roster.others_could(profile, worker, now, by)]

    async def _bind(self, tx: Transaction, grants: Sequence[Grant]) -> None:
        """What was leased may have used up what is held for a job."""
        changed = [(grant.job, grant.state) for grant in grants]
        states = await self._core.settlement.advance(tx, changed, self._core.clock())
        for grant in grants:
            grant.state = states[grant.job.key]
            escrow.validate(grant.state.funded, grant.state.counts)

    async def routes(
        self, tx: Transaction, asked: Sequence[Job], wanted: TaskRequest, groups: Membership
    ) -> dict[int, str]:
        """Through which compute group the worker gets each of these jobs; without those that are in none of its groups
        any more."""
        return _routes(asked, await jobs.groups(tx, [job.key for job in asked]), wanted, groups)

    def new_lease(
        self,
        number: int,
        wanted: TaskRequest,
        peer: str,
        held: Sequence[tuple[Portion, JobState]],
        known: Mapping[int, Job],
        *,
        commissions: Mapping[int, Commission],
    ) -> Lease:
        work_s = sum(portion.slices * state.estimate.wall_ms / 1000 for portion, state in held) / max(wanted.load, 1.0)
        now = self._core.clock()
        return Lease(
            number,
            token=secrets.token_urlsafe(16),
            worker=wanted.profile.worker,
            peer=peer,
            payment_address=payee_of(wanted),
            jobs=frozenset(known[portion.key].key for portion, _ in held),
            opened_at=now,
            expires_at=now + self._core.settings.lease_s + 2 * work_s,
            due_at=now
            + self._late_rules.due_in([(portion.slices, state.estimate) for portion, state in held], wanted.load),
            commissions=commissions,
            request=wanted.request_id,
        )

    async def data(self, tx: Transaction, grants: Sequence[Grant]) -> dict[int, dict[int, str]]:
        """Input URIs by job and slice, where they are listed."""
        return {
            grant.job.key: await slices.inputs(tx, grant.job.key, listed)
            for grant in grants
            if (listed := [number for number in grant.numbers if not in_range(grant.job, number)])
        }


def payee_of(wanted: TaskRequest) -> str | None:
    """Whom the worker wants paid, checksummed; None when it is no address."""
    try:
        return None if wanted.payment_address is None else checksum(wanted.payment_address)
    except InvalidInput:
        return None


async def _take_ready(
    take: Callable[..., Awaitable[list[Slice]]], job: Job, state: JobState, wanted: int, lease: Lease
) -> list[Slice]:
    """Slices that wait again. Where workers must agree, first those on which somebody else was heard."""
    counts = state.counts
    if job.rule is None:
        return await take(min(wanted, counts.ready))
    who = Asked(lease.worker, lease.peer, lease.payment_address)
    rows = await take(min(wanted, counts.doubted), heard=True, unheard_of=who)
    left = min(wanted - len(rows), counts.ready - counts.doubted)
    covered = escrow.leasable(state.funded, counts)
    return rows + await take(left if covered is None else min(left, covered), heard=False)


def _routes(
    asked: Sequence[Job], in_groups: Mapping[int, frozenset[str]], wanted: TaskRequest, groups: Membership
) -> dict[int, str]:
    routes = {}
    for job in asked:
        group = route(in_groups.get(job.key, frozenset()), wanted.profile.groups, groups.known)
        if group is not None or job.record.local_exec:
            routes[job.key] = group or PUBLIC_GROUP_ID
    return routes


def _left_of(plan: Sequence[Portion], states: Mapping[int, JobState], load: float) -> list[tuple[Portion, JobState]]:
    """What is left of a plan once its jobs are locked: others lease and settle at the same time."""
    held = []
    for portion in plan:
        state = states.get(portion.key)
        if state is None or state.status not in lifecycle.DISTRIBUTABLE:
            continue
        left = estimation_left(state, load)
        left = escrow.may_lease(state.funded, state.counts) if left is None else left
        if left > 0:
            held.append((dataclasses.replace(portion, slices=min(portion.slices, left)), state))
    return held
