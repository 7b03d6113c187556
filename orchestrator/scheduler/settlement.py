"""Where a hold on a slice ends: whatever arrives (result, return, lost lease), `settling` decides and this writes it.

One call handles everything that arrived meanwhile, in the caller's transaction and with a number of statements that
does not depend on how many reports there are: slices, results, payments, counters and outgoing events change
together or not at all.
"""

from __future__ import annotations

import dataclasses
import secrets
from collections.abc import Iterable, Sequence

from orchestrator.database import Transaction
from orchestrator.jobs.words import RunStatus
from orchestrator.scheduler import escrow, lifecycle, settling
from orchestrator.scheduler.bans import BanRules, Bans, Pair, Record, judged
from orchestrator.scheduler.catalog import Job
from orchestrator.scheduler.court import Court
from orchestrator.scheduler.money import Money
from orchestrator.scheduler.redundancy import Rule, SpotChecks
from orchestrator.scheduler.settling import Report, Settled, next_state
from orchestrator.scheduler.store import bans as ban_rows
from orchestrator.scheduler.store import events, jobs, opinions, slices
from orchestrator.scheduler.store.jobs import JobState
from orchestrator.scheduler.trust import USUAL_RULES, TrustRules


@dataclasses.dataclass(slots=True)
class Outcome:
    """What others have to hear once the transaction is committed."""

    states: dict[int, JobState] = dataclasses.field(default_factory=dict)
    events: list[events.Event] = dataclasses.field(default_factory=list)
    waiting: bool = False
    """slices wait for a worker that did not wait before"""
    troubles: list[tuple[int, str]] = dataclasses.field(default_factory=list)
    """(job, worker) of slices that came back as failed or with a trouble of the worker's"""
    successes: list[tuple[int, str]] = dataclasses.field(default_factory=list)
    """the same of results, for jobs that somebody had trouble with"""
    bans: dict[Pair, Record | None] = dataclasses.field(default_factory=dict)
    """what these change about who is kept from which job"""
    overtaken: list[tuple[Job, int]] = dataclasses.field(default_factory=list)
    """leases under which a slice was still out when another worker's result came"""


class Settlement:
    def __init__(
        self,
        money: Money,
        budget: lifecycle.Budget,
        limit: lifecycle.ErrorLimit,
        rules: TrustRules = USUAL_RULES,
        checks: SpotChecks | None = None,
    ) -> None:
        """`checks` has the secret that says which slices of trusted workers are checked."""
        self._money = money
        self._budget = budget
        self._limit = limit
        self._rules = rules
        self._checks = checks or SpotChecks(secrets.token_bytes(32))
        self.bans = Bans(BanRules())
        """who had trouble with what"""

    async def settle(self, tx: Transaction, reports: Sequence[Report], now: float) -> Outcome:
        """Judge every report and write what follows. Reports of one slice are judged in the given order."""
        outcome = Outcome()
        grouped: dict[int, list[Report]] = {}
        for report in reports:
            grouped.setdefault(report.job.key, []).append(report)
        states = await jobs.states(tx, grouped, lock=True)
        fresh: list[events.Event] = []
        learnt: list[tuple[str, dict[str, list[bool]]]] = []
        batches: list[Settled] = []
        touched = {(report.job.key, report.number) for report in reports if report.job.key in states}
        rows = await slices.lock(tx, sorted(touched)) if touched else {}
        for key, batch_reports in grouped.items():
            if key not in states:
                continue
            job = batch_reports[0].job
            court = None if job.rule is None else await self._court(tx, job, job.rule, batch_reports)
            batch = settling.settle(job, states[key], rows.get(key, {}), batch_reports, self._budget, court=court)
            batches.append(batch)
            if court is not None and court.verdicts:
                learnt.append((job.owner, court.verdicts))
            fresh += batch.events
            if batch.state is not states[key]:
                outcome.states[key] = batch.state
            outcome.waiting |= batch.slices_wait
            outcome.troubles += batch.troubles
            if self.bans.watches(key):
                outcome.successes += [(key, one.worker) for one in batch.accepted.values()]
            outcome.overtaken += [(batch.job, lease) for lease in batch.overtaken]
        await self._write(tx, batches, now)
        ended = await self.advance(tx, [(grouped[key][0].job, state) for key, state in outcome.states.items()], now)
        outcome.states.update(ended)
        # The estimation hands out only so many slices at a time: with each result, or at its end, more may go.
        outcome.waiting |= any(
            states[key].status is RunStatus.ESTIMATION and state.ended_at is None and state.counts.waiting > 0
            for key, state in outcome.states.items()
        )
        outcome.waiting |= any(settling.may_give_more(states[key], after) for key, after in outcome.states.items())
        for report in reports:
            report.state = outcome.states.get(report.job.key) or states.get(report.job.key)
        await self._ban(tx, outcome, now)
        await jobs.save(tx, list(outcome.states.values()))
        # Late and in one order: jobs of one owner share these rows.
        for owner, verdicts in sorted(learnt, key=lambda one: one[0]):
            await opinions.judge(tx, owner, verdicts, now)
        outcome.events = await events.append(tx, fresh)
        return outcome

    async def _ban(self, tx: Transaction, outcome: Outcome, now: float) -> None:
        """Note who had trouble with which job; the jobs are locked."""
        concerned = [*outcome.troubles, *outcome.successes]
        if concerned:
            known = await ban_rows.load(tx, {job for job, _ in concerned})
            outcome.bans = judged(known, outcome.troubles, outcome.successes, now, self.bans.rules)
            await ban_rows.save(tx, outcome.bans)

    async def advance(
        self, tx: Transaction, changed: Iterable[tuple[Job, JobState]], now: float
    ) -> dict[int, JobState]:
        """Give jobs the status that follows from their facts, money to those whose hold is used up, as far as their
        accounts go, and money back to those that ended. The caller saves."""
        states: dict[int, JobState] = {}
        for job, state in changed:
            after = next_state(state, self._limit, now)
            if after.status is RunStatus.PAUSED and after.funded is not None:
                added = await self._money.add(tx, job, escrow.missing(after.funded, after.counts))
                if added:
                    # From `state`: a job that finds money at once was not paused in between.
                    after = next_state(dataclasses.replace(state, funded=after.funded + added), self._limit, now)
            if after.ended_at is not None and state.ended_at is None:
                after = await self.release(tx, job, after)
            states[state.key] = after
        return states

    async def release(self, tx: Transaction, job: Job, state: JobState) -> JobState:
        """The job has ended: what was heard of its slices is paid, the rest goes back. The caller saves."""
        if job.rule is not None:
            heard = await opinions.pending(tx, job.key)
            if heard:
                await self._money.pay(tx, [(job, settling.wages_of(job, heard))])
                await opinions.give_up(tx, job.key)
                paid = state.counts.paid + sum(map(len, heard.values()))
                state = dataclasses.replace(state, counts=dataclasses.replace(state.counts, paid=paid))
        await self._money.release(tx, job)
        return state

    async def _court(self, tx: Transaction, job: Job, rule: Rule, reports: Sequence[Report]) -> Court:
        heard = await opinions.load(tx, job.key, {report.number for report in reports})
        identities = {one.by.identity for those in heard.values() for one in those}
        identities |= {report.identity for report in reports if report.identity}
        trust = await opinions.trust(tx, job.owner, identities)
        return Court(job.id, rule, heard, trust=trust, rules=self._rules, checks=self._checks)

    async def close(self, tx: Transaction, job: Job, state: JobState, now: float) -> JobState:
        """No more slices will come: what is held for more of them goes back. The caller saves."""
        state = dataclasses.replace(state, closed=True)
        surplus = escrow.surplus(state.funded, state.counts)
        if surplus and state.funded is not None:
            await self._money.give_back(tx, job, surplus, transfer_id="closed")
            state = dataclasses.replace(state, funded=state.funded - surplus)
        return (await self.advance(tx, [(job, state)], now))[job.key]

    async def _write(self, tx: Transaction, batches: Sequence[Settled], now: float) -> None:
        """What became of all these jobs' slices: as many statements as for one, unless workers must agree."""
        accepted = [(one.job.key, number) for one in batches for number in one.accepted if number not in one.raced]
        await slices.mark_accepted(tx, accepted)
        changed = [(one.job.key, piece) for one in batches for piece in (*one.raced.values(), *one.changed.values())]
        await slices.save(tx, changed, now)
        await slices.add_results(tx, [(one.job.key, result) for one in batches for result in one.results], now)
        # Opinions are paid when a slice is given up, too.
        await self._money.pay(tx, [(one.job, one.wages) for one in batches if one.wages])
        for one in batches:
            if one.court is not None:
                await opinions.add(tx, one.job.key, one.court.added, now)
                await opinions.settle(tx, one.job.key, one.court.changed)
        await slices.add_failures(tx, [(one.job.key, failure) for one in batches for failure in one.failures], now)
