"""What the board offers an asking worker, and what keeps a worker from a job at the moment."""

from __future__ import annotations

import collections
import dataclasses
import math
from collections.abc import Mapping

from orchestrator.jobs.words import Capability, RunStatus
from orchestrator.scheduler import escrow, lifecycle
from orchestrator.scheduler.board import Choice, Entry
from orchestrator.scheduler.catalog import Job
from orchestrator.scheduler.core import Core
from orchestrator.scheduler.matching import JobProfile, WhyNot, why_not
from orchestrator.scheduler.memberships import Membership
from orchestrator.scheduler.packing import Candidate
from orchestrator.scheduler.pricing import hold_for
from orchestrator.scheduler.roster import Roster
from orchestrator.scheduler.settlement import Outcome
from orchestrator.scheduler.settling import cancelled, facts_of
from orchestrator.scheduler.store import jobs
from orchestrator.scheduler.store.jobs import JobState
from orchestrator.scheduler.task_answer import slice_seconds
from orchestrator.scheduler.task_request import TaskRequest


class Offers:
    def __init__(self, core: Core, roster: Roster) -> None:
        self._core = core
        self._roster = roster
        self._rejected_since: dict[int, float] = {}

    async def candidates(
        self,
        wanted: TaskRequest,
        membership: Membership,
        passed_over: Mapping[int, WhyNot],
        reasons: collections.Counter[str],
    ) -> list[tuple[Job, JobState, Candidate]]:
        """What the board offers this worker; no more of it is looked at than a request may cost."""
        now = self._core.clock()
        listing = self._core.listing
        await listing.fresh(now)

        def look(entry: Entry) -> WhyNot | None:
            reason = passed_over.get(entry.key) or self._why_not(entry, wanted, membership, now)
            if reason is not None:
                self._core.refusals.note(entry.key, reason, wanted.profile.worker, now)
            return reason

        choices, refused, unfit = listing.board.window(wanted.profile, look, min(32, 4 + 2 * math.ceil(wanted.load)))
        for key, code in unfit:
            self._core.refusals.note(key, code, wanted.profile.worker, now)
        reasons.update({str(code): count for code, count in refused.items()})
        if not choices:
            return []
        known = await self._core.catalog.known(self._core.database, [choice.entry.key for choice in choices])
        ratio = wanted.profile.speed.ratio({one.entry.profile.job_id: one.entry.state.estimate for one in choices})
        return [
            (known[one.entry.key], one.entry.state, candidate_for(one, known[one.entry.key], wanted, ratio))
            for one in choices
        ]

    def _why_not(self, entry: Entry, wanted: TaskRequest, membership: Membership, now: float) -> WhyNot | None:
        """What keeps this worker from this job at the moment."""
        profile, state, worker = entry.profile, entry.state, wanted.profile
        if membership.known:
            profile = profile_for(profile, state, membership, worker.groups)
        refusal = why_not(profile, worker, state.estimate)
        if refusal is not None:
            self._note_rejection(profile, state, wanted)
            return refusal[0]
        self._rejected_since.pop(entry.key, None)
        left = estimation_left(state, wanted.load)
        if left is not None and left <= 0:
            return WhyNot.ESTIMATING
        if profile.needs & Capability.WEBGPU and wanted.gpu_load < 1:
            return WhyNot.GPU
        banned = self._core.listing.bans.of(entry.key, now)
        had_it = (
            profile.discrete
            and profile.job_id in worker.worked_discrete
            and now - state.served_at < self._core.settings.other_worker_s
        )
        if (had_it or worker.worker in banned) and self._roster.others_could(profile, worker.worker, now, banned):
            return WhyNot.DISCRETE if had_it else WhyNot.BANNED
        return None

    def _note_rejection(self, profile: JobProfile, state: JobState, wanted: TaskRequest) -> None:
        """A job whose slices wait, of which nothing is out, and which every live worker has rejected, would wait for
        ever; see `stop_rejected`."""
        now = self._core.clock()
        rejected = profile.job_id in wanted.profile.rejected
        others = self._roster.others_could(profile, wanted.profile.worker, now)
        if rejected and state.counts.leased == 0 and not others:
            self._rejected_since.setdefault(state.key, now)

    async def stop_rejected(self) -> None:
        now = self._core.clock()
        patience = self._core.settings.rejected_job_s
        stuck = [key for key, since in self._rejected_since.items() if now - since >= patience]
        if not stuck:
            return
        for key in stuck:  # requests come together: the next one has nothing to do
            del self._rejected_since[key]
        async with self._core.database.transaction() as tx:
            known = await self._core.catalog.by_keys(tx, stuck)
            stopped = {}
            for key, state in (await jobs.states(tx, stuck, lock=True)).items():
                if state.status in lifecycle.ENDED or state.counts.leased:
                    continue
                stop = cancelled(state, now, "ETOOMANYERRORS", "Every worker that is here has rejected the job")
                stopped[key] = await self._core.settlement.release(tx, known[key], stop)
            await jobs.save(tx, list(stopped.values()))
        self._core.publish(Outcome(states=stopped))


def profile_for(
    profile: JobProfile, state: JobState, membership: Membership, worker_groups: frozenset[str]
) -> JobProfile:
    """As a worker sees it that is in groups: they may take no job that pays so much, and keep a part of each price."""
    payment = hold_for(state.counts.total, profile.most_payment)
    groups = membership.open_to(profile.groups, payment)
    price = membership.pay(groups, worker_groups, profile.slice_price)
    return dataclasses.replace(profile, groups=groups, slice_price=price)


def estimation_left(state: JobState, load: float) -> int | None:
    """Slices that may go out to measure the job; None when it is not being estimated. `load` is what the asking worker
    wants, in cores."""
    if state.status is not RunStatus.ESTIMATION:
        return None
    counts = state.counts
    wanted = counts.total if state.estimation_slices is None else state.estimation_slices
    measured = facts_of(state).measured
    # Once a first slice has ended, cores need not stand idle while others compute the rest of the estimation.
    out = max(wanted - measured, math.ceil(load) if measured else 0)
    return min(escrow.may_lease(state.funded, counts), out - counts.leased)


def candidate_for(choice: Choice, job: Job, wanted: TaskRequest, speed: float) -> Candidate:
    """`speed` is the worker's time for a slice over everybody's."""
    entry, state = choice.entry, choice.entry.state
    work_s, slice_s = state.estimate.work_s, slice_seconds(state)
    if work_s is not None and slice_s is not None:
        ratio = wanted.profile.speed.slice_ratio(job.id, state.estimate, speed)
        work_s, slice_s = work_s * ratio, slice_s * ratio
    return Candidate(
        key=job.key,
        waiting=escrow.may_lease(state.funded, state.counts),
        leased=state.counts.leased,
        slice_s=slice_s,
        work_s=work_s,
        estimation_left=estimation_left(state, wanted.load),
        greedy_estimation=job.spec["greedyEstimation"],
        discrete=job.spec["discrete"],
        served_at=state.served_at,
        owner=job.owner,
        owner_account=choice.owner_account,
        account=entry.account,
        weight=entry.weight,
        first=choice.first,
        gpu=bool(job.spec["requirements"] & Capability.WEBGPU),
    )
