"""Pure: what follows from the reports on one job's slices.

`settle` judges reports in the order in which they came and returns everything that has to be written and told. It
is called with the job's state and the touched slices as they are in the database, and writes nothing: whoever calls
it stores the whole outcome in one transaction, or nothing of it.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence

from orchestrator.jobs.words import RunStatus
from orchestrator.scheduler import escrow, lifecycle
from orchestrator.scheduler.catalog import Job
from orchestrator.scheduler.estimates import Measured
from orchestrator.scheduler.lifecycle import Ending, Slice, SliceState, Verdict
from orchestrator.scheduler.money import Wage
from orchestrator.scheduler.store.events import Event
from orchestrator.scheduler.store.jobs import JobState
from orchestrator.scheduler.store.slices import Failure, Result

MAX_REASON = 500


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
    uri: str = ""
    measured: Measured | None = None
    reason: str = ""
    expired: bool = False
    verdict: Verdict = Verdict.LATE
    paid: int = 0
    state: JobState | None = None
    """the job after this report"""


@dataclasses.dataclass(slots=True)
class Settled:
    """What became of one job and its slices; all of it is written, or nothing."""

    job: Job
    state: JobState
    accepted: dict[int, Report] = dataclasses.field(default_factory=dict)
    changed: dict[int, Slice] = dataclasses.field(default_factory=dict)
    """slices that are not accepted, as they are now"""
    raced: dict[int, Slice] = dataclasses.field(default_factory=dict)
    """accepted slices that two workers had, as they are now"""
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
    def slices_wait(self) -> bool:
        """Slices wait for a worker that did not wait before."""
        return any(one.state is SliceState.READY for one in self.changed.values())


def settle(
    job: Job, state: JobState, rows: Mapping[int, Slice], reports: Sequence[Report], budget: lifecycle.Budget
) -> Settled:
    """Judge the reports of one job. The job's status is not looked at yet: see `next_state`."""
    batch = Settled(job, state)
    pieces = dict(rows)
    measured: list[Measured] = []
    for report in reports:
        _judge(batch, pieces, report, budget, rows.get(report.number))
        if report.verdict is Verdict.ACCEPTED:
            if report.measured is not None:
                measured.append(report.measured)
            if report.payee is not None and job.slice_price > 0:
                batch.wages.append(_wage(report))
    if batch.accepted:
        batch.state = dataclasses.replace(batch.state, estimate=batch.state.estimate.fold(measured))
    if batch.failures and not batch.state.last_error:
        batch.state = dataclasses.replace(batch.state, last_error=batch.failures[-1].reason[:MAX_REASON])
    return batch


def _judge(
    batch: Settled, pieces: dict[int, Slice], report: Report, budget: lifecycle.Budget, was: Slice | None
) -> None:
    """`was` is the slice as it is in the database."""
    piece = pieces.get(report.number)
    if piece is None or batch.state.status in lifecycle.ENDED:
        repeated = piece is not None and piece.state is SliceState.ACCEPTED and piece.lease == report.lease
        report.verdict = Verdict.DUPLICATE if repeated else Verdict.LATE
        return
    if report.expired:
        after, report.verdict = lifecycle.expire(piece, report.lease, budget)
    else:
        after, report.verdict = lifecycle.settle(piece, report.lease, report.ending, budget)
    unleased = report.verdict is Verdict.ACCEPTED and piece.state is SliceState.READY
    if unleased and not escrow.covers_unleased(batch.state.funded, batch.state.counts):
        report.verdict = Verdict.LATE
    if report.verdict in (Verdict.LATE, Verdict.DUPLICATE):
        return
    pieces[report.number] = after
    batch.state = dataclasses.replace(batch.state, counts=batch.state.counts.moved(piece.state, after.state))
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


def _wage(report: Report) -> Wage:
    """Fills in `paid`: what the worker itself gets."""
    assert report.payee is not None
    taken = report.commission
    report.paid, fee = escrow.split(report.job.slice_price, 0 if taken is None else taken.rate)
    return Wage(report.number, report.payee, report.paid, None if taken is None else taken.account, fee)


def _given_up(report: Report) -> str:
    return json.dumps(
        {
            "name": "Error",
            "message": f"slice {report.number} is given up after its last attempt ended with: {report.reason}",
            "code": "ETOOMANYATTEMPTS",
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
