"""The life of slices and jobs: random histories against the rules."""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from orchestrator.jobs.words import RunStatus
from orchestrator.scheduler import lifecycle
from orchestrator.scheduler.lifecycle import (
    Budget,
    Counts,
    Ending,
    ErrorLimit,
    IllegalTransition,
    JobFacts,
    Slice,
    SliceState,
    Verdict,
)

BUDGET = Budget(failures=2, losses=3)
LIMIT = ErrorLimit(failed=3)
TOTAL = 4
endings = st.sampled_from(list(Ending))


class JobHistory(RuleBasedStateMachine):
    """One job with a few slices, and workers that report whatever they like under any lease ever given."""

    def __init__(self) -> None:
        super().__init__()
        self.counts = Counts(total=TOTAL)
        self.slices: dict[int, Slice] = {}
        self.leases = 0
        self.accepted: dict[int, int] = {}
        self.status = RunStatus.NEW
        self.admitted = False

    @rule()
    def join(self) -> None:
        self.admitted = True
        self.advance()

    @precondition(lambda self: self.counts.cursor < TOTAL)
    @rule()
    def lease_fresh(self) -> None:
        self.leases += 1
        number = self.counts.cursor + 1
        self.slices[number] = lifecycle.lease(Slice(number), self.leases)
        self.counts = self.counts.leased_fresh(1)

    @precondition(lambda self: self.counts.ready)
    @rule(data=st.data())
    def lease_again(self, data: st.DataObject) -> None:
        ready = [one for one in self.slices.values() if one.state is SliceState.READY]
        one = data.draw(st.sampled_from(ready))
        self.leases += 1
        self.slices[one.number] = lifecycle.lease(one, self.leases)
        self.counts = self.counts.moved(SliceState.READY, SliceState.LEASED)

    @precondition(lambda self: self.counts.leased)
    @rule(data=st.data())
    def lease_beside(self, data: st.DataObject) -> None:
        late = [one for one in self.slices.values() if lifecycle.may_have_rival(one)]
        if late:
            one = data.draw(st.sampled_from(late))
            self.leases += 1
            self.slices[one.number] = lifecycle.lease_beside(one, self.leases)

    @precondition(lambda self: self.slices)
    @rule(data=st.data(), ending=endings)
    def report(self, data: st.DataObject, ending: Ending) -> None:
        before = data.draw(st.sampled_from(list(self.slices.values())))
        lease = data.draw(st.integers(0, self.leases))
        after, verdict = lifecycle.settle(before, lease, ending, BUDGET)
        self.settled(before, after, verdict, lease)

    @precondition(lambda self: self.slices)
    @rule(data=st.data())
    def expire(self, data: st.DataObject) -> None:
        before = data.draw(st.sampled_from(list(self.slices.values())))
        lease = data.draw(st.integers(0, self.leases))
        after, verdict = lifecycle.expire(before, lease, BUDGET)
        self.settled(before, after, verdict, lease)

    def settled(self, before: Slice, after: Slice, verdict: Verdict, lease: int) -> None:
        if verdict in (Verdict.LATE, Verdict.DUPLICATE):
            assert after == before
            return
        assert lease in (before.lease, before.rival), "only living leases count"
        assert (verdict is Verdict.CARRIED) == (after.state is SliceState.LEASED)
        if verdict is Verdict.CARRIED:
            assert {lease, after.lease} == {before.lease, before.rival}, "the other one goes on"
        if verdict is Verdict.ACCEPTED:
            assert before.number not in self.accepted, "accepted once"
            self.accepted[before.number] = lease
        assert (verdict is Verdict.EXHAUSTED) == (after.state is SliceState.FAILED)
        self.slices[before.number] = after
        self.counts = self.counts.moved(before.state, after.state)
        self.advance()

    def advance(self) -> None:
        facts = self.facts
        after = lifecycle.next_status(facts, LIMIT)
        lifecycle.check_transition(self.status, after)
        self.status = after

    @property
    def facts(self) -> JobFacts:
        return JobFacts(self.status, self.counts, True, self.admitted, self.counts.settled, 2)

    @invariant()
    def all_is_well(self) -> None:
        self.counts.validate()
        for one in self.slices.values():
            one.validate(BUDGET)
            assert str(one.number) in one.story()
        by_state = [one.state for one in self.slices.values()]
        assert self.counts.leased == by_state.count(SliceState.LEASED)
        assert self.counts.accepted == len(self.accepted) == by_state.count(SliceState.ACCEPTED)
        assert lifecycle.job_story(self.facts)
        if self.counts.settled == TOTAL:
            assert self.status in lifecycle.ENDED


TestJobHistory = JobHistory.TestCase
TestJobHistory.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)


def test_a_lost_worker_cannot_overwrite_its_successor() -> None:
    first = lifecycle.lease(Slice(1), 1)
    waiting, verdict = lifecycle.expire(first, 1, BUDGET)
    assert verdict is Verdict.RETRY
    second = lifecycle.lease(waiting, 2)
    assert lifecycle.settle(second, 1, Ending.COMPLETED, BUDGET) == (second, Verdict.LATE)


@pytest.mark.parametrize(("first", "second"), [(1, 2), (2, 1)])
def test_the_first_result_of_two_takes_the_slice(first: int, second: int) -> None:
    both = lifecycle.lease_beside(lifecycle.lease(Slice(1), 1), 2)
    assert "two workers" in both.story()
    done, verdict = lifecycle.settle(both, first, Ending.COMPLETED, BUDGET)
    assert (verdict, done.lease, done.rival) == (Verdict.ACCEPTED, first, 0)
    assert lifecycle.settle(done, second, Ending.COMPLETED, BUDGET) == (done, Verdict.LATE)
    assert lifecycle.settle(done, first, Ending.COMPLETED, BUDGET) == (done, Verdict.DUPLICATE)


@pytest.mark.parametrize("ended", [1, 2])
@pytest.mark.parametrize("how", [Ending.LOST, Ending.RETURNED, Ending.FAILED, None])
def test_when_one_of_two_workers_drops_out_the_other_goes_on(ended: int, how: Ending | None) -> None:
    both = lifecycle.lease_beside(lifecycle.lease(Slice(1), 1), 2)
    left, verdict = lifecycle.expire(both, ended, BUDGET) if how is None else lifecycle.settle(both, ended, how, BUDGET)
    assert (verdict, left.state, left.lease, left.rival) == (Verdict.CARRIED, SliceState.LEASED, 3 - ended, 0)
    assert lifecycle.settle(left, ended, Ending.COMPLETED, BUDGET) == (left, Verdict.LATE)
    assert lifecycle.lease_beside(left, 3).rival == 3 - ended
    assert lifecycle.settle(left, 3 - ended, Ending.COMPLETED, BUDGET)[1] is Verdict.ACCEPTED


def test_a_slice_never_has_three_workers() -> None:
    both = lifecycle.lease_beside(lifecycle.lease(Slice(1), 1), 2)
    for piece, lease in ((both, 3), (Slice(1), 1), (lifecycle.lease(Slice(1), 5), 5)):
        with pytest.raises(IllegalTransition):
            lifecycle.lease_beside(piece, lease)


def test_a_late_result_counts_while_nobody_else_has_the_slice() -> None:
    waiting, _ = lifecycle.expire(lifecycle.lease(Slice(1), 1), 1, BUDGET)
    after, verdict = lifecycle.settle(waiting, 1, Ending.COMPLETED, BUDGET)
    assert (after.state, verdict) == (SliceState.ACCEPTED, Verdict.ACCEPTED)


def test_a_result_after_a_return_does_not_count() -> None:
    waiting, _ = lifecycle.settle(lifecycle.lease(Slice(1), 1), 1, Ending.FAILED, BUDGET)
    assert lifecycle.settle(waiting, 1, Ending.COMPLETED, BUDGET)[1] is Verdict.LATE


@pytest.mark.parametrize(
    "broken",
    [
        Slice(0),
        Slice(1, SliceState.LEASED),
        Slice(1, SliceState.ACCEPTED),
        Slice(1, SliceState.FAILED, 1),
        Slice(1, SliceState.READY, 0, 2),
    ],
)
def test_validate_finds_what_is_wrong(broken: Slice) -> None:
    with pytest.raises(IllegalTransition):
        broken.validate(BUDGET)


def test_a_slice_cannot_be_leased_under_an_old_number_or_twice() -> None:
    one = lifecycle.lease(Slice(1), 5)
    with pytest.raises(IllegalTransition):
        lifecycle.lease(one, 6)
    with pytest.raises(IllegalTransition):
        lifecycle.lease(dataclasses.replace(one, state=SliceState.READY), 5)
    with pytest.raises(IllegalTransition):
        Counts(total=1).moved(SliceState.FAILED, SliceState.READY)
    with pytest.raises(IllegalTransition):
        Counts(total=1, cursor=1).validate()


def facts(**changes: object) -> JobFacts:
    base = JobFacts(RunStatus.NEW, Counts(total=10), True, False, 0, 3)
    return dataclasses.replace(base, **changes)  # type: ignore[arg-type]


def test_a_job_waits_for_a_group_even_when_it_is_closed() -> None:
    assert lifecycle.next_status(facts(), LIMIT) is RunStatus.NEW
    assert lifecycle.next_status(facts(admitted=True), LIMIT) is RunStatus.ESTIMATION


def test_estimation() -> None:
    job = facts(admitted=True, status=RunStatus.ESTIMATION)
    assert lifecycle.next_status(dataclasses.replace(job, measured=2), LIMIT) is RunStatus.ESTIMATION
    assert lifecycle.next_status(dataclasses.replace(job, measured=3), LIMIT) is RunStatus.RUNNING
    assert lifecycle.next_status(facts(admitted=True, estimation_slices=0), LIMIT) is RunStatus.RUNNING
    endless = facts(admitted=True, status=RunStatus.ESTIMATION, estimation_slices=None, measured=9)
    assert lifecycle.next_status(endless, LIMIT) is RunStatus.ESTIMATION
    back = facts(admitted=True, status=RunStatus.RUNNING, measured=0)
    assert lifecycle.next_status(back, LIMIT) is RunStatus.RUNNING


def test_an_empty_job_finishes_when_it_is_closed() -> None:
    empty = facts(counts=Counts(), admitted=True)
    assert lifecycle.next_status(dataclasses.replace(empty, closed=False), LIMIT) is not RunStatus.FINISHED
    assert lifecycle.next_status(empty, LIMIT) is RunStatus.FINISHED


def test_too_many_errors() -> None:
    def counts(accepted: int, failed: int, total: int = 100) -> Counts:
        return Counts(total=total, cursor=accepted + failed, accepted=accepted, failed=failed)

    def stops(one: Counts, closed: bool = True) -> bool:
        return lifecycle.too_many_errors(one, closed=closed, limit=LIMIT)

    assert stops(counts(0, 3))
    assert not stops(counts(0, 2))
    assert not stops(counts(50, 50))
    assert stops(counts(0, 2, total=2))
    assert not stops(counts(0, 2, total=2), closed=False)
    assert not stops(counts(1, 1, total=2))


@given(st.sampled_from(list(RunStatus)), st.sampled_from(list(RunStatus)))
def test_ended_jobs_stay_ended(before: RunStatus, after: RunStatus) -> None:
    if before in lifecycle.ENDED and after is not before:
        with pytest.raises(IllegalTransition):
            lifecycle.check_transition(before, after)


@pytest.mark.parametrize(
    ("reason", "ending"),
    [
        ("ENOPROGRESS", Ending.FAILED),
        ("ESLICETOOSLOW", Ending.FAILED),
        ("ENOMEMORY", Ending.FAILED),
        ("EFETCH", Ending.LOST),
        ("ESANDBOXKILLED", Ending.LOST),
        ("EWORKERSTOPPING", Ending.RETURNED),
        ("EPAUSED", Ending.RETURNED),
        ("EWAGE", Ending.RETURNED),
        ("EJOBFILTER", Ending.RETURNED),
        ("EWORKREJECT", Ending.RETURNED),
        ("Worker wanted fewer running slices", Ending.RETURNED),
        ("repoMan", Ending.RETURNED),
        ("", Ending.RETURNED),
        ("E", Ending.RETURNED),
    ],
)
def test_whose_fault_a_return_is(reason: str, ending: Ending) -> None:
    assert lifecycle.ending_of_return(reason) is ending
