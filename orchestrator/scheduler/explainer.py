"""Gathers why a job waits: from its rows, its account, and what workers said last, to this process or another."""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from orchestrator.database import Transaction
from orchestrator.jobs.words import Capability, RunStatus
from orchestrator.scheduler import escrow, explaining
from orchestrator.scheduler import groups as rules
from orchestrator.scheduler.catalog import Job
from orchestrator.scheduler.core import Core
from orchestrator.scheduler.explaining import Doubt, Facts, GroupFacts, Holding
from orchestrator.scheduler.groups import PUBLIC_GROUP_ID, Group, Use
from orchestrator.scheduler.listing import job_profile
from orchestrator.scheduler.matching import JobProfile, WhyNot, WorkerProfile, census
from orchestrator.scheduler.memberships import Membership
from orchestrator.scheduler.pricing import hold_for, to_dcc
from orchestrator.scheduler.redundancy import Panel, Rule
from orchestrator.scheduler.refusals import together
from orchestrator.scheduler.roster import Roster
from orchestrator.scheduler.settling import facts_of
from orchestrator.scheduler.store import groups, jobs, opinions, slices
from orchestrator.scheduler.store.jobs import JobState

MOST_HOLDINGS = 20
MOST_REASONS = 5
LATELY_S = 60.0
"""a refusal older than this stands for nothing any more"""


class Explainer:
    def __init__(self, core: Core, roster: Roster) -> None:
        self._core = core
        self._roster = roster
        if core.cluster is not None:
            core.cluster.answer("refused", self._refused)

    async def explain(self, job: Job) -> dict[str, Any]:
        """The answer of `explainJob`: findings, and the facts behind them."""
        lately = await self._lately(job.key)
        async with self._core.database.snapshot() as tx:
            facts = await self._facts(tx, job, lately)
        return {
            "job": job.id,
            "status": str(facts.status),
            "findings": explaining.as_json(explaining.explain(facts)),
            "slices": {
                "total": facts.counts.total,
                "waiting": facts.counts.waiting,
                "leased": facts.counts.leased,
                "computed": facts.counts.accepted,
                "failed": facts.counts.failed,
            },
            "workers": {
                "present": facts.present,
                "able": facts.able,
                "refused": {str(code): count for code, count in facts.reasons.items()},
                "refusedLately": {str(code): count for code, count in facts.lately.items()},
            },
            "leases": [
                {"worker": one.worker, "slices": one.slices, "expiresInSeconds": round(one.expires_in_s, 1)}
                for one in facts.holdings
            ],
            "computeGroups": [group.label for group in facts.groups],
            "competitors": {"waiting": facts.competitors, "payingMore": facts.paying_more},
            "money": {"slicePrice": to_dcc(facts.price), "available": to_dcc(facts.available)},
        } | (
            {}
            if facts.rule is None
            else {
                "redundancy": facts.rule.to_json()
                | {"inDoubt": facts.counts.doubted, "opinions": {str(state): n for state, n in facts.opinions.items()}}
            }
        )

    async def _facts(self, tx: Transaction, job: Job, lately: Mapping[WhyNot, int]) -> Facts:
        now = self._core.clock()
        state = (await jobs.states(tx, [job.key]))[job.key]
        ids = (await jobs.groups(tx, [job.key])).get(job.key, frozenset())
        known = await groups.by_ids(tx, ids)
        about_groups, usable = self._groups(job, state, ids, known)
        profile = job_profile(job, usable)
        present = list(self._roster.profiles(now))
        paid = _paid(profile, present, known)
        able, reasons = _census(profile, state, paid)
        competitors, paying_more = await jobs.competing(tx, job.record, ids)
        holdings = await slices.holdings(tx, job.key, MOST_HOLDINGS)
        worktime = job.spec["worktime"]
        return Facts(
            job_id=job.id,
            status=state.status,
            counts=state.counts,
            closed=state.closed,
            admitted=state.admitted,
            local_exec=job.record.local_exec,
            estimating=_left_to_measure(state),
            price=job.slice_price,
            account=job.payment_account,
            available=(await self._core.money.balances(tx, [job.payment_account]))[job.payment_account],
            slice_cost=job.slice_cost,
            rule=job.rule,
            opinions={} if job.rule is None else await opinions.count(tx, job.key),
            doubt=None if job.rule is None else await self._doubt(tx, job, job.rule, now),
            required=hold_for(escrow.missing(state.funded, state.counts), job.slice_cost),
            groups=tuple(about_groups),
            present=len(present),
            able=able,
            reasons=reasons,
            lately=lately,
            lacking=_lacking(profile, present),
            worktime=f"{worktime['name']} {worktime['version']}",
            isolation=None if profile.isolation is None else str(profile.isolation),
            wage=_least_wage(profile, state, paid),
            holdings=tuple(
                Holding(worker, count, now - opened, expires - now) for worker, count, opened, expires in holdings
            ),
            failures=tuple(await slices.failure_reasons(tx, job.key, MOST_REASONS)),
            competitors=competitors,
            paying_more=paying_more,
            last_error=state.last_error,
            stop_code=state.stop_code,
            stop_reason=state.stop_reason,
            other_worker_s=self._core.settings.other_worker_s,
            rejected_job_s=self._core.settings.rejected_job_s,
        )

    async def _doubt(self, tx: Transaction, job: Job, rule: Rule, now: float) -> Doubt | None:
        found = await slices.longest_in_doubt(tx, job.key)
        if found is None:
            return None
        number, since = found
        heard = (await opinions.load(tx, job.key, [number])).get(number, [])
        trust = await opinions.trust(tx, job.owner, [one.by.identity for one in heard])
        decision = Panel(rule, tuple(heard)).decide(trust, self._core.trust)
        left_s = since + self._core.settings.opinion_wait_s - now
        return Doubt(number, now - since, left_s, decision.quorum, decision.missing)

    def _groups(
        self, job: Job, state: JobState, ids: frozenset[str], known: Mapping[str, Group]
    ) -> tuple[list[GroupFacts], frozenset[str]]:
        """About each group, and those that take the job as it is now."""
        now = self._core.clock()
        payment = hold_for(state.counts.total, job.slice_cost)
        found, usable = [], set()
        for one in sorted(ids):
            group = known.get(one)
            use = self._roster.use_of(one, now, besides="")
            if group is None:
                found.append(GroupFacts("public" if one == PUBLIC_GROUP_ID else one, use.workers))
                usable.add(one)
                continue
            outgrown = rules.pays_too_much(group, payment)
            full = not rules.has_room_for(group, Use(workers=1), use)
            found.append(GroupFacts(group.label, use.workers, full=full, outgrown=outgrown))
            if not outgrown:
                usable.add(one)
        return found, frozenset(usable)

    async def _lately(self, key: int) -> dict[WhyNot, int]:
        """Whichever process has refused the job to workers."""
        told = [self._refused([key])]
        if self._core.cluster is not None:
            told += await self._core.cluster.ask("refused", key)
        return together(told)

    def _refused(self, item: Sequence[Any]) -> dict[str, tuple[int, list[str]]]:
        return self._core.refusals.since(item[0], self._core.clock() - LATELY_S)


def _left_to_measure(state: JobState) -> int | None:
    if state.status is not RunStatus.ESTIMATION:
        return None
    wanted = state.counts.total if state.estimation_slices is None else state.estimation_slices
    return max(wanted - facts_of(state).measured, 0)


def _lacking(job: JobProfile, present: Sequence[WorkerProfile]) -> dict[str, int]:
    """Of the workers that are in the job's groups, how many lack which of the capabilities that it requires."""
    near = [worker for worker in present if worker.groups & job.groups]
    counts = {}
    for capability in Capability:
        lacking = sum(not worker.capabilities & capability for worker in near)
        if job.needs & capability and lacking:
            counts[(capability.name or "").lower()] = lacking
    return counts


_Paid = Mapping[int, Sequence[WorkerProfile]]
"""workers by what they get of the price of a slice"""


def _paid(job: JobProfile, present: Iterable[WorkerProfile], known: Mapping[str, Group]) -> _Paid:
    membership, found = Membership(known, frozenset()), collections.defaultdict(list)
    for worker in present:
        found[membership.pay(job.groups, worker.groups, job.slice_price)].append(worker)
    return found


def _census(job: JobProfile, state: JobState, paid: _Paid) -> tuple[int, collections.Counter[WhyNot]]:
    able, reasons = 0, collections.Counter[WhyNot]()
    for pay, workers in paid.items():
        could, why = census(dataclasses.replace(job, slice_price=pay), workers, state.estimate)
        able += could
        reasons.update(why)
    return able, reasons


def _least_wage(job: JobProfile, state: JobState, paid: _Paid) -> int | None:
    """Units per slice that the job must offer for the least demanding worker among those that ask for more than they
    would get of it."""
    prices = [
        worker.minimum_wage.slice_price(state.estimate) * (job.slice_price / pay if pay else 1.0)
        for pay, workers in paid.items()
        for worker in workers
        if not worker.minimum_wage.accepts(pay, state.estimate)
    ]
    return max(round(min(prices)), 1) if prices else None
