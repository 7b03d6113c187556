"""Who is called when there is work: as many as there is work for, those first who have waited longest."""

from __future__ import annotations

import dataclasses

from hypothesis import given
from hypothesis import strategies as st

from orchestrator.scheduler.estimates import Estimate
from orchestrator.scheduler.groups import Use
from orchestrator.scheduler.matching import JobProfile, WorkerProfile
from orchestrator.scheduler.task_request import TaskRequest
from orchestrator.scheduler.waiting_line import Call, Waiter, WaitingLine, left_over

JOB = JobProfile("job", 64, frozenset({"public"}), False, ("map-basic", "*"))
WORKER = WorkerProfile("w", 64, frozenset({"public"}), frozenset(), ())
COST = Estimate()


class Line:
    """A line, and who was called in it, in order."""

    def __init__(self) -> None:
        self.line = WaitingLine()
        self.called: list[str] = []

    def come(self, name: str, **fields: object) -> Waiter:
        profile = dataclasses.replace(WORKER, worker=name, **fields)  # type: ignore[arg-type]
        wanted = TaskRequest(profile, (), Use(), 1.0, None, True, False, None, {})
        return self.line.enter(wanted, lambda: self.called.append(name))

    def rest(self, name: str, **fields: object) -> Waiter:
        waiter = self.come(name, **fields)
        assert self.line.rest(waiter)
        return waiter

    def call(self, slices: int, *, each: int = 1, tried: frozenset[int] = frozenset(), by: Waiter | None = None) -> int:
        return self.line.call(1, JOB, COST, slices, lambda _waiter, _given: each, tried=tried, by=by)


def test_as_many_are_called_as_there_is_work_for() -> None:
    line = Line()
    for name in "abcdef":
        line.rest(name)
    assert line.call(2) == 2
    assert line.called == ["a", "b"]
    assert line.call(10, each=5) == 2
    assert line.called == ["a", "b", "c", "d"]
    line.line.validate()


def test_whoever_may_not_have_the_job_is_passed_over() -> None:
    line = Line()
    line.rest("other group", groups=frozenset({"private"}))
    line.rest("rejected it", rejected=frozenset({"job"}))
    line.rest("fetches it", unresolved=frozenset({"job"}))
    line.rest("cannot", capabilities=0)
    line.rest("can")
    line.rest("another kind", capabilities=64 | 1)
    assert line.call(9) == 2
    assert line.called == ["can", "another kind"]


def test_nobody_is_called_twice_before_it_has_looked() -> None:
    line = Line()
    waiter = line.rest("a")
    assert line.call(1) == 1
    assert line.call(1) == 0
    assert [call.slices for call in line.line.look(waiter)] == [1]
    assert not line.line.rest(waiter) or line.called == ["a"]


def test_work_that_comes_while_a_worker_looks_is_not_missed() -> None:
    line = Line()
    waiter = line.come("a")
    line.line.look(waiter)
    line.call(1)
    assert line.called == []
    assert not line.line.rest(waiter), "it looks again"
    line.line.look(waiter)
    assert line.line.rest(waiter)
    line.rest("b")
    other = line.come("c")
    line.line.look(other)
    assert line.call(1) == 1
    assert line.line.rest(other), "somebody else was called for it"


def test_what_was_not_taken_goes_to_others_once() -> None:
    line = Line()
    first, second = line.rest("a"), line.rest("b")
    line.call(1)
    (call,) = line.line.look(first)
    (left,) = left_over([call], {"other": 3})
    assert left == Call(1, "job", 1, frozenset({first.number}))
    assert line.call(left.slices, tried=left.tried, by=first) == 1
    assert line.line.rest(first), "it has looked already"
    (left,) = left_over(line.line.look(second), {})
    assert line.call(left.slices, tried=left.tried, by=second) == 0, "the first was tried"
    assert line.called == ["a", "b"]
    assert list(left_over([call], {"job": 1})) == []


def test_whoever_leaves_hands_its_calls_over() -> None:
    line = Line()
    waiter = line.rest("a")
    line.call(1)
    assert [call.job_id for call in line.line.leave(waiter)] == ["job"]
    line.rest("b")
    assert len(line.line) == 1
    line.line.validate()


def test_all_are_called_when_everything_may_have_changed() -> None:
    line = Line()
    for name in "abc":
        line.rest(name)
    looking = line.come("d")
    line.line.call_all()
    assert line.called == ["a", "b", "c"]
    assert not line.line.rest(looking)
    line.line.validate()


@given(st.lists(st.tuples(st.sampled_from("nlrcx"), st.integers(0, 5), st.integers(1, 4)), max_size=80))
def test_no_work_is_left_while_somebody_rests_who_could_take_it(steps: list[tuple[str, int, int]]) -> None:
    """Workers come, look, rest and leave in any order while slices come; each look takes one slice. In the end, when
    everybody that was called has looked, no slice is left beside a worker that rests."""
    line, slices = WaitingLine(), 0
    waiters: list[Waiter] = []

    def call(number: int) -> None:
        line.call(1, JOB, COST, number, lambda _waiter, _given: 1)

    def look(waiter: Waiter) -> None:
        nonlocal slices
        calls = line.look(waiter)
        taken = min(1, slices)
        slices -= taken
        for left in left_over(calls, {"job": taken}):
            if slices:
                line.call(1, JOB, COST, min(left.slices, slices), lambda _w, _g: 1, tried=left.tried, by=waiter)
        if taken:
            leave(waiter)

    def leave(waiter: Waiter) -> None:
        waiters.remove(waiter)
        for left in line.leave(waiter):
            if slices:
                line.call(1, JOB, COST, min(left.slices, slices), lambda _w, _g: 1, tried=left.tried)

    def enter() -> None:
        waiter = line.enter(TaskRequest(WORKER, (), Use(), 1.0, None, True, False, None, {}), lambda: None)
        waiters.append(waiter)
        look(waiter)

    for kind, index, number in steps:
        if kind == "n":
            enter()
        elif kind == "c":
            slices += number
            call(slices)
        elif waiters:
            waiter = waiters[index % len(waiters)]
            if kind == "l" and waiter.place is None:
                look(waiter)
            elif kind == "r" and waiter.place is None and not waiter.calls:
                line.rest(waiter)
            elif kind == "x":
                leave(waiter)
        line.validate()
    for _ in range(200):
        busy = [waiter for waiter in waiters if waiter.place is None]
        if not busy:
            break
        for waiter in busy:
            if waiter in waiters and waiter.place is None:
                look(waiter)
                if waiter in waiters and not waiter.calls:
                    line.rest(waiter)
    assert not (slices and any(waiter.place is not None for waiter in waiters))


def test_where_very_many_wait_each_waits_longer_and_nobody_for_ever() -> None:
    line = Line()
    for number in range(2_400):
        line.rest(f"w{number}")
    assert line.line.patience_s(5.0) == 5.0
    for number in range(2_600):
        line.rest(f"v{number}")
    assert line.line.patience_s(5.0) == 10.0
    assert line.line.patience_s(1.0) == 4.0
    assert line.line.patience_s(0.0) == 0.0, "who wants no waiting gets none"
