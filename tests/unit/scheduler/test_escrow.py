"""The rules of holds: how far one goes, how a price is divided, and who is paid, under anything that may happen."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from orchestrator.jobs.words import RunStatus
from orchestrator.scheduler import escrow, lifecycle, settling
from orchestrator.scheduler.catalog import build
from orchestrator.scheduler.estimates import Estimate
from orchestrator.scheduler.lifecycle import Budget, Counts, Ending, ErrorLimit, Slice, SliceState, Verdict
from orchestrator.scheduler.settling import Report, Settled
from orchestrator.scheduler.store.jobs import JobRecord, JobState

PRICE = 7
BUDGET = Budget(failures=2, losses=2)
LIMIT = ErrorLimit(failed=4)


@dataclasses.dataclass(frozen=True)
class Taken:
    account: str
    rate: int


def record(price: int = PRICE) -> JobRecord:
    return JobRecord(
        key=1, id="j" * 22, owner="owner", payment_account="payer", spec={}, input_set=None, local_exec=False,
        slice_price=price, estimation_slices=0, created_at=0.0,
    )  # fmt: skip


def state(counts: Counts, funded: int | None, **more: Any) -> JobState:
    return JobState(
        key=1, status=RunStatus.RUNNING, admitted=True, counts=counts, estimate=Estimate(), estimation_slices=0,
        funded=funded, **{"closed": False, **more},
    )  # fmt: skip


@given(st.integers(0, 10**30), st.integers(0, 10**18))
def test_a_price_is_divided_without_a_rest(price: int, rate: int) -> None:
    worker, group = escrow.split(price, rate)
    assert worker + group == price
    assert min(worker, group) >= 0
    assert group * 10**18 <= price * rate < (group + 1) * 10**18


@pytest.mark.parametrize("rate", [-1, 10**18 + 1])
def test_no_group_takes_more_than_there_is(rate: int) -> None:
    with pytest.raises(ValueError, match="commission rate"):
        escrow.split(1, rate)


def test_what_the_hold_covers() -> None:
    counts = Counts(total=10, cursor=5, ready=1, leased=2, accepted=2)
    assert escrow.may_lease(None, counts) == 6
    assert escrow.may_lease(10, counts) == 6
    assert escrow.may_lease(5, counts) == 1
    assert escrow.may_lease(4, counts) == 0 and escrow.is_starved(4, counts) and not escrow.is_starved(5, counts)
    assert not escrow.covers_unleased(4, counts) and escrow.covers_unleased(5, counts)
    assert (escrow.missing(None, counts), escrow.missing(4, counts), escrow.missing(12, counts)) == (0, 6, 0)
    assert (escrow.surplus(None, counts), escrow.surplus(4, counts), escrow.surplus(12, counts)) == (0, 0, 2)
    escrow.validate(4, counts)
    with pytest.raises(escrow.EscrowBroken):
        escrow.validate(3, counts)


def test_what_the_hold_covers_where_workers_must_agree() -> None:
    """Ten slices with at most three results each: seven were paid, two are out, two of three that wait are in doubt."""
    counts = Counts(total=10, cursor=8, ready=3, leased=2, accepted=3, copies=3, paid=7, doubted=2)
    counts.validate()
    assert escrow.used(counts) == 3, "seven results take the money of three slices"
    assert escrow.leasable(9, counts) == 2
    assert escrow.may_lease(9, counts) == 4, "what is in doubt is paid for already"
    assert escrow.may_lease(7, counts) == 2 and not escrow.is_starved(7, counts)
    assert not escrow.covers_unleased(7, counts)
    assert (escrow.missing(9, counts), escrow.surplus(11, counts)) == (1, 1)
    escrow.validate(7, counts)
    with pytest.raises(escrow.EscrowBroken):
        escrow.validate(6, counts)


def test_a_slice_that_is_given_up_is_not_paid_for() -> None:
    counts = Counts(total=3, cursor=3, ready=0, leased=1, accepted=1, failed=1)
    assert (escrow.missing(2, counts), escrow.surplus(3, counts)) == (0, 1)


def test_what_is_held_at_the_deploy() -> None:
    assert escrow.to_fund(total=4, closed=True, estimate=10) == (4, 4)
    assert escrow.to_fund(total=0, closed=True, estimate=10) == (0, 0)
    assert escrow.to_fund(total=0, closed=False, estimate=10) == (1, 10)
    assert escrow.to_fund(total=20, closed=False, estimate=10) == (20, 20)


def test_a_job_without_funds_is_paused_and_goes_on_where_it_was() -> None:
    hungry = state(Counts(total=3, cursor=1, leased=1), funded=1)
    paused = settling.next_state(hungry, LIMIT, 1.0)
    assert paused.status is RunStatus.PAUSED and paused.ended_at is None
    assert "until it has funds" in lifecycle.job_story(settling.facts_of(paused))
    fed = settling.next_state(dataclasses.replace(paused, funded=2), LIMIT, 2.0)
    assert fed.status is RunStatus.RUNNING
    measuring = dataclasses.replace(hungry, status=RunStatus.ESTIMATION, estimation_slices=2)
    paused = settling.next_state(measuring, LIMIT, 1.0)
    fed = settling.next_state(dataclasses.replace(paused, funded=2), LIMIT, 2.0)
    assert (paused.status, fed.status) == (RunStatus.PAUSED, RunStatus.ESTIMATION)


def test_the_commission_of_a_group_comes_out_of_the_wage() -> None:
    job = build(record(1000))
    rows = {1: Slice(1, SliceState.LEASED, 5)}
    report = Report(job, 1, 5, Ending.COMPLETED, payee="worker", commission=Taken("group", 10**17 + 10**15))
    batch = settling.settle(job, state(Counts(total=1, cursor=1, leased=1), 1), rows, [report], BUDGET)
    assert [(one.payee, one.amount, one.fee_account, one.fee) for one in batch.wages] == [("worker", 899, "group", 101)]
    assert report.paid == 899


def test_a_late_result_is_taken_only_when_there_is_money_beside_what_is_out() -> None:
    job = build(record())
    rows = {1: Slice(1, SliceState.READY, 5)}
    counts = Counts(total=3, cursor=2, ready=1, leased=1)
    for funded, verdict, paid in ((1, Verdict.LATE, 0), (2, Verdict.ACCEPTED, PRICE), (None, Verdict.ACCEPTED, PRICE)):
        report = Report(job, 1, 5, Ending.COMPLETED, payee="worker")
        batch = settling.settle(job, state(counts, funded), rows, [report], BUDGET)
        assert (report.verdict, report.paid, len(batch.wages)) == (verdict, paid, min(paid, 1))


def test_a_report_that_is_judged_again_tells_of_no_pay_that_it_did_not_bring() -> None:
    """The database took the first transaction back, or nobody heard that it did not."""
    job = build(record())
    out, counts = Slice(1, SliceState.LEASED, 5), Counts(total=1, cursor=1, leased=1)
    report = Report(job, 1, 5, Ending.COMPLETED, payee="worker")
    settling.settle(job, state(counts, 1), {1: out}, [report], BUDGET)
    assert (report.verdict, report.paid) == (Verdict.ACCEPTED, PRICE)
    settling.settle(job, state(counts, 1), {1: dataclasses.replace(out, lease=6)}, [report], BUDGET)
    assert (report.verdict, report.paid) == (Verdict.LATE, 0)


class Escrow(RuleBasedStateMachine):
    """A job, its workers and its hold: anything may come in any order, late, twice, or under a lease that is over.

    The hold is modelled as the Bank keeps it: one number that deposits fill and wages empty."""

    def __init__(self) -> None:
        super().__init__()
        self.job = build(record())
        self.state = state(Counts(), 0)
        self.rows: dict[int, Slice] = {}
        self.held = 0
        self.paid: dict[int, int] = {}
        self.earned = 0
        self.leases = 0
        self.past: list[tuple[int, int]] = []
        self.refused: set[tuple[int, int]] = set()

    def advance(self) -> None:
        self.state = settling.next_state(self.state, LIMIT, 1.0)
        if self.state.ended_at is not None:
            self.held = 0

    @property
    def is_over(self) -> bool:
        return self.state.status in lifecycle.ENDED

    @initialize(funded=st.integers(0, 3))
    def a_job_is_deployed(self, funded: int) -> None:
        self.more_slices(4)
        self.money_comes(funded)

    @precondition(lambda self: not self.state.closed and not self.is_over)
    @rule(count=st.integers(1, 5))
    def more_slices(self, count: int) -> None:
        counts = dataclasses.replace(self.state.counts, total=self.state.counts.total + count)
        self.state = dataclasses.replace(self.state, counts=counts)
        self.advance()

    @precondition(lambda self: not self.is_over)
    @rule(slices=st.integers(1, 4))
    def money_comes(self, slices: int) -> None:
        self.held += slices * PRICE
        self.state = dataclasses.replace(self.state, funded=(self.state.funded or 0) + slices)
        self.advance()

    @precondition(lambda self: not self.state.closed and not self.is_over)
    @rule()
    def close(self) -> None:
        surplus = escrow.surplus(self.state.funded, self.state.counts)
        self.held -= surplus * PRICE
        self.state = dataclasses.replace(self.state, closed=True, funded=(self.state.funded or 0) - surplus)
        self.advance()

    @precondition(lambda self: self.state.status in lifecycle.DISTRIBUTABLE)
    @rule(wanted=st.integers(1, 4), only_fresh=st.booleans())
    def lease(self, wanted: int, only_fresh: bool) -> None:
        """`only_fresh`: what came back has failed at this worker before, and waits for another one."""
        wanted = min(wanted, escrow.may_lease(self.state.funded, self.state.counts))
        if not wanted:
            return
        self.leases += 1
        counts = self.state.counts
        again = [] if only_fresh else [one for one in self.rows.values() if one.state is SliceState.READY][:wanted]
        for piece in again:
            self.rows[piece.number] = lifecycle.lease(piece, self.leases)
        if again:
            counts = counts.moved(SliceState.READY, SliceState.LEASED, len(again))
        fresh = range(counts.cursor + 1, min(counts.total, counts.cursor + wanted - len(again)) + 1)
        for number in fresh:
            self.rows[number] = lifecycle.lease(Slice(number), self.leases)
        self.state = dataclasses.replace(self.state, counts=counts.leased_fresh(len(fresh)))
        self.past += [(number, self.leases) for number in [*(one.number for one in again), *fresh]]
        self.advance()

    @rule()
    def nothing(self) -> None:
        """A machine whose job has ended goes on all the same."""

    def report(self, lease: int, ending: Ending, rate: int = 0) -> Report:
        number, lease_id = self.past[lease % len(self.past)]
        taken = Taken("group", rate)
        expired = ending is Ending.LOST
        return Report(self.job, number, lease_id, ending, payee="w", expired=expired, commission=taken)

    @precondition(lambda self: self.past)
    @rule(lease=st.integers(0, 4))
    def a_worker_is_lost(self, lease: int) -> None:
        self.settle([self.report(lease, Ending.LOST)])

    @precondition(lambda self: self.past)
    @rule(lease=st.integers(0, 4), rate=st.sampled_from([0, 10**17, 10**18]))
    def a_result_comes(self, lease: int, rate: int) -> None:
        self.settle([self.report(lease, Ending.COMPLETED, rate)])

    @precondition(lambda self: self.past)
    @rule(which=st.lists(st.tuples(st.integers(0, 20), st.sampled_from(Ending)), max_size=5))
    def reports_come_together(self, which: list[tuple[int, Ending]]) -> None:
        self.settle([self.report(lease, ending) for lease, ending in which])

    def settle(self, reports: list[Report]) -> None:
        before = self.state
        batch: Settled = settling.settle(self.job, self.state, self.rows, reports, BUDGET)
        self.rows.update(batch.changed)
        for number, report in batch.accepted.items():
            self.rows[number] = Slice(number, SliceState.ACCEPTED, report.lease)
        self.state = batch.state
        assert {one.number for one in batch.wages} == set(batch.accepted)
        assert len(batch.wages) == len(batch.accepted)
        for wage in batch.wages:
            assert wage.amount + wage.fee == PRICE
            assert wage.number not in self.paid
            self.paid[wage.number] = wage.amount + wage.fee
            self.held -= PRICE
        for report in reports:
            assert report.verdict is Verdict.ACCEPTED or report.paid == 0
        if before.status in lifecycle.ENDED:
            assert not batch.wages
        self.advance()

    @invariant()
    def the_hold_covers_what_is_out(self) -> None:
        counts = self.state.counts
        counts.validate()
        escrow.validate(self.state.funded, counts)
        if not self.is_over:
            assert self.held == PRICE * ((self.state.funded or 0) - counts.accepted)
            assert self.held >= PRICE * counts.leased
        assert set(self.paid) == {one.number for one in self.rows.values() if one.state is SliceState.ACCEPTED}
        assert len(self.paid) == counts.accepted

    @invariant()
    def it_is_paused_just_when_nothing_may_be_leased(self) -> None:
        if not self.is_over:
            starved = escrow.is_starved(self.state.funded, self.state.counts)
            assert (self.state.status is RunStatus.PAUSED) == starved


Escrow.TestCase.settings = hypothesis_settings(max_examples=150, stateful_step_count=30, deadline=None)
TestEscrow = Escrow.TestCase
