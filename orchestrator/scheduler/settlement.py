"""Where a hold on a slice ends: whatever arrives (result, return, lost lease), this decides and writes it.

One call handles everything that arrived meanwhile, in the caller's transaction and with a number of statements that
does not depend on how many reports there are: slices, results, payments, counters and outgoing events change
together or not at all.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Sequence

from orchestrator.database import Transaction
from orchestrator.jobs.words import RunStatus
from orchestrator.scheduler import lifecycle
from orchestrator.scheduler.catalog import Job
from orchestrator.scheduler.estimates import Measured
from orchestrator.scheduler.lifecycle import Ending, SliceState, Verdict
from orchestrator.scheduler.money import Money, Wage
from orchestrator.scheduler.store import events, jobs, slices
from orchestrator.scheduler.store.jobs import JobState


@dataclasses.dataclass(slots=True)
class Report:
    """One slice whose lease ended in some way. `verdict` and `paid` are filled in by `settle`."""

    job: Job
    number: int
    lease: int
    ending: Ending
    worker: str = ""
    payee: str | None = None
    uri: str = ""
    measured: Measured | None = None
    reason: str = ""
    expired: bool = False
    verdict: Verdict = Verdict.LATE
    paid: int = 0
    state: JobState | None = None
    """the job after this report"""


@dataclasses.dataclass(slots=True)
class Outcome:
    """What others have to hear once the transaction is committed."""

    states: dict[int, JobState] = dataclasses.field(default_factory=dict)
    events: list[events.Event] = dataclasses.field(default_factory=list)
    waiting: bool = False
    """slices wait for a worker that did not wait before"""


@dataclasses.dataclass(slots=True)
class _JobBatch:
    """The reports of one job while they are being settled."""

    job: Job
    state: JobState
    rows: dict[int, lifecycle.Slice]
    accepted: dict[int, Report] = dataclasses.field(default_factory=dict)
    changed: dict[int, lifecycle.Slice] = dataclasses.field(default_factory=dict)
    failures: list[slices.Failure] = dataclasses.field(default_factory=list)
    measured: list[Measured] = dataclasses.field(default_factory=list)
    exhausted: list[Report] = dataclasses.field(default_factory=list)


class Settlement:
    def __init__(self, money: Money, budget: lifecycle.Budget, limit: lifecycle.ErrorLimit) -> None:
        self._money = money
        self._budget = budget
        self._limit = limit

    async def settle(self, tx: Transaction, reports: Sequence[Report], now: float) -> Outcome:
        """Judge every report and write what follows. Reports of one slice are judged in the given order."""
        outcome = Outcome()
        grouped: dict[int, list[Report]] = {}
        for report in reports:
            grouped.setdefault(report.job.key, []).append(report)
        states = await jobs.states(tx, grouped, lock=True)
        fresh: list[events.Event] = []
        for key, batch_reports in grouped.items():
            if key not in states:
                continue
            rows = await slices.load(tx, key, {report.number for report in batch_reports})
            batch = _JobBatch(batch_reports[0].job, states[key], rows)
            for report in batch_reports:
                self._judge(batch, report)
            await self._write(tx, batch, now)
            fresh += _events_of(batch)
            if batch.state is not states[key]:
                outcome.states[key] = batch.state
            outcome.waiting |= any(one.state is SliceState.READY for one in batch.changed.values())
        ended = await self.advance(tx, [(grouped[key][0].job, state) for key, state in outcome.states.items()], now)
        outcome.states.update(ended)
        # The estimation hands out only so many slices at a time: with each result, or at its end, more may go.
        outcome.waiting |= any(
            states[key].status is RunStatus.ESTIMATION and state.ended_at is None and state.counts.waiting > 0
            for key, state in outcome.states.items()
        )
        outcome.waiting |= any(_may_give_more(states[key], after) for key, after in outcome.states.items())
        for report in reports:
            report.state = outcome.states.get(report.job.key) or states.get(report.job.key)
        await jobs.save(tx, list(outcome.states.values()))
        outcome.events = await events.append(tx, fresh)
        return outcome

    async def advance(
        self, tx: Transaction, changed: Iterable[tuple[Job, JobState]], now: float
    ) -> dict[int, JobState]:
        """Give jobs the status that follows from their facts, and money back to those that ended. The caller saves."""
        states: dict[int, JobState] = {}
        for job, state in changed:
            after = next_state(state, self._limit, now)
            if after.ended_at is not None and state.ended_at is None:
                await self._money.release(tx, job)
            states[state.key] = after
        return states

    def _judge(self, batch: _JobBatch, report: Report) -> None:
        piece = batch.rows.get(report.number)
        if piece is None or batch.state.status in lifecycle.ENDED:
            repeated = piece is not None and piece.state is SliceState.ACCEPTED and piece.lease == report.lease
            report.verdict = Verdict.DUPLICATE if repeated else Verdict.LATE
            return
        if report.expired:
            after, report.verdict = lifecycle.expire(piece, report.lease, self._budget)
        else:
            after, report.verdict = lifecycle.settle(piece, report.lease, report.ending, self._budget)
        if report.verdict in (Verdict.LATE, Verdict.DUPLICATE):
            return
        batch.rows[report.number] = after
        batch.state = dataclasses.replace(batch.state, counts=batch.state.counts.moved(piece.state, after.state))
        if report.verdict is Verdict.ACCEPTED:
            batch.accepted[report.number] = report
            batch.changed.pop(report.number, None)
            if report.measured is not None:
                batch.measured.append(report.measured)
            return
        batch.changed[report.number] = after
        if report.ending is Ending.FAILED:
            batch.failures.append(slices.Failure(report.number, report.worker, report.reason))
        if report.verdict is Verdict.EXHAUSTED:
            batch.exhausted.append(report)

    async def _write(self, tx: Transaction, batch: _JobBatch, now: float) -> None:
        key = batch.job.key
        if batch.accepted:
            await slices.mark_accepted(tx, key, batch.accepted)
            results = [slices.Result(number, one.uri, one.lease) for number, one in batch.accepted.items()]
            await slices.add_results(tx, key, results, now)
            batch.state = dataclasses.replace(batch.state, estimate=batch.state.estimate.fold(batch.measured))
            wages = []
            for number, report in batch.accepted.items():
                if report.payee is not None and batch.job.slice_price > 0:
                    report.paid = batch.job.slice_price
                    wages.append(Wage(number, report.payee))
            await self._money.pay(tx, batch.job, wages)
        await slices.save(tx, key, batch.changed.values(), now)
        await slices.add_failures(tx, key, batch.failures, now)
        if batch.failures:
            reason = batch.failures[-1].reason[:500]
            batch.state = dataclasses.replace(batch.state, last_error=batch.state.last_error or reason)


def _may_give_more(before: JobState, after: JobState) -> bool:
    """An estimation gives out few slices at a time; its progress and its end free those that it held back."""
    return before.status is RunStatus.ESTIMATION and after.status not in lifecycle.ENDED and after.counts.waiting > 0


def _events_of(batch: _JobBatch) -> list[events.Event]:
    fresh = [
        events.Event(batch.job.key, "result", number=number, uri=report.uri)
        for number, report in batch.accepted.items()
    ]
    # A worker tells of exceptions itself; that nobody will try a slice again, only the Scheduler knows.
    for report in batch.exhausted:
        body = {
            "name": "Error",
            "message": f"slice {report.number} is given up after its last attempt ended with: {report.reason}",
            "code": "ETOOMANYATTEMPTS",
            "job": batch.job.id,
            "sliceNumber": report.number,
            "worker": report.worker,
        }
        fresh.append(events.Event(batch.job.key, "error", number=report.number, body=json.dumps(body)))
    return fresh


def facts_of(state: JobState) -> lifecycle.JobFacts:
    return lifecycle.JobFacts(
        status=state.status,
        counts=state.counts,
        closed=state.closed,
        admitted=state.admitted,
        measured=state.counts.settled,
        estimation_slices=state.estimation_slices,
    )


def next_state(state: JobState, limit: lifecycle.ErrorLimit, now: float) -> JobState:
    """`state` with the status that its facts call for."""
    status = lifecycle.next_status(facts_of(state), limit)
    lifecycle.check_transition(state.status, status)
    if status is state.status:
        return state
    ended_at = now if status in lifecycle.ENDED else None
    if status is RunStatus.CANCELLED:
        failed = state.counts.failed
        reason = f"The job was stopped because {failed} of its slices failed"
        return dataclasses.replace(
            state, status=status, ended_at=ended_at, stop_code="ETOOMANYERRORS", stop_reason=reason
        )
    return dataclasses.replace(state, status=status, ended_at=ended_at)
