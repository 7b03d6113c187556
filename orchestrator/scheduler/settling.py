"""Pure: what follows from the reports on one job's slices.

`settle` judges reports in the order in which they came and returns everything that has to be written and told. It
is called with the job's state and the touched slices as they are in the database, and writes nothing: whoever calls
it stores the whole outcome in one transaction, or nothing of it.
"""

from __future__ import annotations

import collections
import dataclasses
import json
from collections.abc import Mapping, Sequence

from orchestrator.jobs.words import RunStatus
from orchestrator.scheduler import escrow, lifecycle
from orchestrator.scheduler.catalog import Job
from orchestrator.scheduler.court import Court
from orchestrator.scheduler.estimates import Measured
from orchestrator.scheduler.lifecycle import Ending, Slice, SliceState, Verdict
from orchestrator.scheduler.money import Wage
from orchestrator.scheduler.redundancy import Asked, Opinion, Outcome, State
from orchestrator.scheduler.store.events import Event
from orchestrator.scheduler.store.jobs import JobState
from orchestrator.scheduler.store.slices import Failure, Result

MAX_REASON = 500
WRONG_REASON = "EWRONG: others agree on another result; not paid"
UNASKED_REASON = "EUNASKED: the same worker, identity or payment address gave a result of this slice before"
_OF_WORKERS = (WRONG_REASON, UNASKED_REASON)
"""failures that say nothing about the job"""
UNDECIDED_CODE = "ENOAGREEMENT"
_MEASURED = frozenset({Verdict.ACCEPTED, Verdict.OPINION, Verdict.UNDECIDED})


@dataclasses.dataclass(slots=True)
class Report:
    """One slice whose lease ended in some way. `verdict`, `paid` and `state` are filled in when it is settled."""

    job: Job
    number: int
    lease: int
    ending: Ending
    worker: str = ""
    payee: str | None = None
    commission: escrow.Commission | None = None
    """what the compute group takes through which the worker got the slice"""
    identity: str = ""
    """of who reports; with `digest` only where workers must agree"""
    digest: str = ""
    """of the result's canonical bytes"""
    uri: str = ""
    measured: Measured | None = None
    reason: str = ""
    expired: bool = False
    unanswered: bool = False
    """it tells of no lease: nobody else has given an opinion on the slice for too long, as `reason` says"""
    verdict: Verdict = Verdict.LATE
    paid: int = 0
    state: JobState | None = None
    """the job after this report"""


@dataclasses.dataclass(slots=True)
class Settled:
    """What became of one job and its slices; all of it is written, or nothing."""

    job: Job
    begun: JobState
    """the job before, with what was counted of it so far; `state` is how it is now"""
    court: Court | None = None
    """the opinions on the slices, where workers must agree"""
    moved: collections.Counter[tuple[SliceState, SliceState]] = dataclasses.field(default_factory=collections.Counter)
    """slices whose change is not in `begun` yet: the counters of a job are changed once for many results"""
    accepted: dict[int, Report] = dataclasses.field(default_factory=dict)
    changed: dict[int, Slice] = dataclasses.field(default_factory=dict)
    """slices that are not accepted, as they are now"""
    raced: dict[int, Slice] = dataclasses.field(default_factory=dict)
    """accepted slices that two workers had, or on which several agreed, as they are now"""
    troubles: list[tuple[int, str]] = dataclasses.field(default_factory=list)
    """(job, worker) for each slice that came back as failed or with a trouble of the worker's"""
    overtaken: list[int] = dataclasses.field(default_factory=list)
    """the leases whose workers came second"""
    failures: list[Failure] = dataclasses.field(default_factory=list)
    exhausted: list[Report] = dataclasses.field(default_factory=list)
    wages: list[Wage] = dataclasses.field(default_factory=list)

    @property
    def results(self) -> list[Result]:
        return [Result(number, one.uri, one.lease) for number, one in self.accepted.items()]

    @property
    def events(self) -> list[Event]:
        key = self.job.key
        fresh = [Event(key, "result", number=number, uri=one.uri) for number, one in self.accepted.items()]
        # A worker tells of exceptions itself; that nobody will try a slice again, only the Scheduler knows.
        return fresh + [Event(key, "error", number=one.number, body=_given_up(one)) for one in self.exhausted]

    @property
    def state(self) -> JobState:
        """The job as it is now."""
        if self.moved:
            self.begun = dataclasses.replace(self.begun, counts=self._counted())
        return self.begun

    @state.setter
    def state(self, state: JobState) -> None:
        self.begun = state

    def _counted(self) -> lifecycle.Counts:
        counts = self.begun.counts
        for (before, after), times in self.moved.items():
            counts = counts.moved(before, after, times)
        self.moved.clear()
        return counts

    def measure(self, measured: Sequence[Measured]) -> None:
        """What slices cost is in the job's estimate from now on."""
        estimate = self.begun.estimate.fold(measured)
        self.begun = dataclasses.replace(self.begun, counts=self._counted(), estimate=estimate)

    def change(self, before: Slice, after: Slice) -> None:
        """Keep the job's counters in step with a slice."""
        if before.state is not after.state:
            self.moved[before.state, after.state] += 1
        # An ordinary job's slices have no opinions.
        doubted = lifecycle.is_doubted(after) - lifecycle.is_doubted(before) if after.opinions else 0
        if doubted:
            state = self.state
            counts = dataclasses.replace(state.counts, doubted=state.counts.doubted + doubted)
            self.state = dataclasses.replace(state, counts=counts)

    @property
    def slices_wait(self) -> bool:
        """Slices wait for a worker that did not wait before."""
        return any(one.state is SliceState.READY for one in self.changed.values())


def settle(
    job: Job,
    state: JobState,
    rows: Mapping[int, Slice],
    reports: Sequence[Report],
    budget: lifecycle.Budget,
    *,
    court: Court | None = None,
) -> Settled:
    """Judge the reports of one job. The job's status is not looked at yet: see `next_state`."""
    batch = Settled(job, state, court)
    pieces = dict(rows)
    measured: list[Measured] = []
    is_paid = court is None and job.slice_price > 0
    for report in reports:
        _judge(batch, pieces, report, budget, rows.get(report.number))
        verdict = report.verdict
        if report.measured is not None and (verdict is Verdict.ACCEPTED or verdict in _MEASURED):
            measured.append(report.measured)
        if is_paid and verdict is Verdict.ACCEPTED and report.payee is not None:
            batch.wages.append(_wage(report))
    if measured:
        batch.measure(measured)
    errors = [one.reason for one in batch.failures if one.reason not in _OF_WORKERS]
    if errors and not batch.state.last_error:
        batch.state = dataclasses.replace(batch.state, last_error=errors[-1][:MAX_REASON])
    return batch


def _judge(
    batch: Settled, pieces: dict[int, Slice], report: Report, budget: lifecycle.Budget, was: Slice | None
) -> None:
    """`was` is the slice as it is in the database."""
    report.paid = 0  # a transaction that the database took back is done again
    piece = pieces.get(report.number)
    court = batch.court
    if report.unanswered:
        if court is not None and piece is not None and batch.state.status not in lifecycle.ENDED:
            pieces[report.number] = _stop_asking(batch, court, piece, report)
        return
    if court is not None and report.ending is Ending.COMPLETED:
        told = court.under(report.number, report.lease)
        if told is not None:
            report.verdict = Verdict.WRONG if told.state is State.WRONG else Verdict.DUPLICATE
            return
    if piece is None or batch.begun.status in lifecycle.ENDED:
        repeated = piece is not None and piece.state is SliceState.ACCEPTED and piece.lease == report.lease
        report.verdict = Verdict.DUPLICATE if repeated else Verdict.LATE
        return
    if report.expired:
        after, report.verdict = lifecycle.expire(piece, report.lease, budget)
    else:
        after, report.verdict = lifecycle.settle(piece, report.lease, report.ending, budget)
    unleased = report.verdict is Verdict.ACCEPTED and piece.state is SliceState.READY and not piece.opinions
    if unleased and not escrow.covers_unleased(batch.state.funded, batch.state.counts):
        report.verdict = Verdict.LATE
    if report.verdict in (Verdict.LATE, Verdict.DUPLICATE):
        return
    if court is not None and report.verdict is Verdict.ACCEPTED:
        pieces[report.number] = _hear(batch, court, piece, report, budget)
        return
    pieces[report.number] = after
    batch.change(piece, after)
    if report.verdict is Verdict.ACCEPTED:
        batch.accepted[report.number] = report
        batch.changed.pop(report.number, None)
        if was is not None and was.rival:
            batch.raced[report.number] = after
        if piece.rival:
            batch.overtaken.append(piece.rival if after.lease == piece.lease else piece.lease)
        return
    batch.changed[report.number] = after
    if report.ending is not Ending.RETURNED and not report.expired:
        batch.troubles.append((batch.job.key, report.worker))
    if report.ending is Ending.FAILED:
        batch.failures.append(Failure(report.number, report.worker, report.reason))
    if report.verdict is Verdict.EXHAUSTED:
        batch.exhausted.append(report)
        if court is not None:
            court.give_up(report.number)
            _pay_opinions(batch, court, report.number)


# --- where workers must agree


def _hear(batch: Settled, court: Court, piece: Slice, report: Report, budget: lifecycle.Budget) -> Slice:
    """A result of a slice on which others are heard, too; the slice as it is then."""
    number, taken = report.number, report.commission
    opinion = Opinion(
        report.lease,
        Asked(report.worker, report.identity, report.payee),
        report.digest,
        uri=report.uri,
        fee_account=None if taken is None else taken.account,
        fee_rate=0 if taken is None else taken.rate,
    )
    if not court.may_ask(number, opinion.by):
        return _unasked(batch, court, piece, report, budget)
    decision = court.hear(number, opinion)
    if decision.outcome is Outcome.MORE:
        report.verdict = Verdict.OPINION
        after = lifecycle.hear(piece, report.lease)
        batch.changed[number] = after
        batch.change(piece, after)
        return after
    agreed = decision.outcome is Outcome.AGREED
    shown = court.accepted(number) if agreed else opinion
    after = lifecycle.decided(piece, shown.lease, agreed=agreed)
    batch.change(piece, after)
    if piece.rival:
        batch.overtaken.append(piece.rival if report.lease == piece.lease else piece.lease)
    if agreed:
        right = shown.digest == report.digest
        report.verdict = Verdict.ACCEPTED if right else Verdict.WRONG
        uri = report.uri if right else shown.uri
        batch.accepted[number] = dataclasses.replace(report, lease=shown.lease, worker=shown.by.worker, uri=uri)
        batch.raced[number] = after
        batch.changed.pop(number, None)
        for one in court.wrong(number):
            batch.troubles.append((batch.job.key, one.by.worker))
            batch.failures.append(Failure(number, one.by.worker, WRONG_REASON))
    else:
        heard = len(court.panel(number).opinions)
        report.verdict = Verdict.UNDECIDED
        report.reason = f"{UNDECIDED_CODE}: {heard} workers computed it, and no {court.rule.agree} of them agree"
        batch.changed[number] = after
        batch.exhausted.append(report)
        if not batch.state.last_error:
            batch.state = dataclasses.replace(batch.state, last_error=report.reason)
    report.paid = _pay_opinions(batch, court, number, report.lease)
    return after


def _stop_asking(batch: Settled, court: Court, piece: Slice, report: Report) -> Slice:
    """Give a slice in doubt up, whatever its opinions are: that nobody came is no reason to believe fewer of them."""
    if not lifecycle.is_doubted(piece):
        return piece
    heard, decision = len(court.panel(report.number).opinions), court.decision(report.number)
    report.verdict = Verdict.UNDECIDED
    report.reason = (
        f"{UNDECIDED_CODE}: {_workers(heard)} computed it, {decision.quorum} must agree, and {report.reason}"
    )
    after = lifecycle.give_up(piece)
    batch.changed[report.number] = after
    batch.change(piece, after)
    batch.exhausted.append(report)
    if not batch.state.last_error:
        batch.state = dataclasses.replace(batch.state, last_error=report.reason)
    court.give_up(report.number)
    _pay_opinions(batch, court, report.number)
    return after


def _workers(number: int) -> str:
    return "1 worker" if number == 1 else f"{number} workers"


def _unasked(batch: Settled, court: Court, piece: Slice, report: Report, budget: lifecycle.Budget) -> Slice:
    """Nobody learns anything from this result: somebody else is asked. It counts as lost, and its worker as one that
    failed the slice, so that it does not get it again and again."""
    report.verdict = Verdict.UNASKED
    report.reason = UNASKED_REASON
    if piece.state is SliceState.READY:
        return piece
    after, verdict = lifecycle.settle(piece, report.lease, Ending.LOST, budget)
    batch.changed[report.number] = after
    batch.change(piece, after)
    batch.failures.append(Failure(report.number, report.worker, UNASKED_REASON))
    batch.troubles.append((batch.job.key, report.worker))
    if verdict is Verdict.EXHAUSTED:
        batch.exhausted.append(report)
        court.give_up(report.number)
        _pay_opinions(batch, court, report.number)
    return after


def _pay_opinions(batch: Settled, court: Court, number: int, lease: int = 0) -> int:
    """Pay what was heard of a slice, now that it is decided; what the opinion under `lease` gets of it."""
    due = court.to_pay(number)
    counts = batch.state.counts
    batch.state = dataclasses.replace(batch.state, counts=dataclasses.replace(counts, paid=counts.paid + len(due)))
    wages = wages_of(batch.job, {number: due})
    batch.wages += wages
    return sum(wage.amount for wage in wages if wage.lease == lease)


def wages_of(job: Job, due: Mapping[int, Sequence[Opinion]]) -> list[Wage]:
    """What is paid for opinions, by slice."""
    wages = []
    for number, opinions in due.items():
        for one in opinions:
            if one.by.payee is not None and job.slice_price > 0:
                amount, fee = escrow.split(job.slice_price, one.fee_rate)
                wages.append(Wage(number, one.by.payee, amount, one.fee_account, fee, lease=one.lease))
    return wages


def _wage(report: Report) -> Wage:
    """Fills in `paid`: what the worker itself gets."""
    assert report.payee is not None
    taken = report.commission
    report.paid, fee = escrow.split(report.job.slice_price, 0 if taken is None else taken.rate)
    return Wage(report.number, report.payee, report.paid, None if taken is None else taken.account, fee)


def _given_up(report: Report) -> str:
    undecided = report.verdict is Verdict.UNDECIDED
    why = report.reason if undecided else f"its last attempt ended with: {report.reason}"
    return json.dumps(
        {
            "name": "Error",
            "message": f"slice {report.number} is given up{': ' if undecided else ' after '}{why}",
            "code": UNDECIDED_CODE if undecided else "ETOOMANYATTEMPTS",
            "job": report.job.id,
            "sliceNumber": report.number,
            "worker": report.worker,
        }
    )


def facts_of(state: JobState) -> lifecycle.JobFacts:
    return lifecycle.JobFacts(
        status=state.status,
        counts=state.counts,
        closed=state.closed,
        admitted=state.admitted,
        measured=state.counts.settled,
        estimation_slices=state.estimation_slices,
        starved=escrow.is_starved(state.funded, state.counts),
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


def cancelled(state: JobState, now: float, code: str, reason: str) -> JobState:
    """The job stopped from outside. Raises `IllegalTransition` when it has ended already."""
    lifecycle.check_transition(state.status, RunStatus.CANCELLED)
    return dataclasses.replace(state, status=RunStatus.CANCELLED, ended_at=now, stop_code=code, stop_reason=reason)


def may_give_more(before: JobState, after: JobState) -> bool:
    """An estimation gives out few slices at a time; its progress and its end free those that it held back. So does a
    job that has funds again."""
    held_back = before.status in (RunStatus.ESTIMATION, RunStatus.PAUSED)
    return held_back and after.status not in lifecycle.ENDED and after.counts.waiting > 0
