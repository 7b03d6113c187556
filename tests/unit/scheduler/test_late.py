"""When slices are late, and when it is worth looking for them."""

from __future__ import annotations

import dataclasses
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.scheduler.estimates import Estimate, Measured
from orchestrator.scheduler.late import LOOK_AGAIN_S, LateRules, Restart, Watchman, split

RULES = LateRules(factor=2.0, bias_s=5.0, unknown_s=60.0)


def cost(*walls_s: float) -> Estimate:
    return Estimate().fold(Measured(one * 1000, one * 1000, 0, 0, 0) for one in walls_s)


@dataclasses.dataclass(frozen=True)
class Held:
    worker: str
    due_at: float
    opened_at: float = 1.0
    failed_here: bool = False


LONG_AGO = Restart(0.0, 45.0)


def test_a_task_is_due_after_its_work_and_the_longest_usual_slice() -> None:
    assert RULES.due_in([(10, cost(3.0))], load=2.0) == pytest.approx(5 + 2 * (10 * 3 / 2 + 3))
    assert RULES.due_in([(1, cost(1.0)), (1, cost(100.0))], load=2.0) == pytest.approx(5 + 2 * (101 / 2 + 100))


def test_slices_that_differ_get_more_time() -> None:
    even, odd = cost(5.0, 5.0), cost(1.0, 9.0)
    assert RULES.due_in([(1, odd)], 1.0) == pytest.approx(RULES.due_in([(1, even)], 1.0) + 2 * 2 * 4)


def test_nothing_is_hurried_before_it_was_measured() -> None:
    assert RULES.due_in([(3, Estimate())], load=4.0) == 5 + 2 * 60


def test_late_slices_are_those_of_others_that_are_due() -> None:
    out = [Held("me", 1.0), Held("other", 9.0), Held("third", 10.4), Held("fourth", 2.0, failed_here=True)]
    late, nothing_late, next_at = split(out, "me", 10.0, LONG_AGO)
    assert late == [out[1]]
    assert (nothing_late, next_at) == (False, 10.4)
    assert split([], "me", 10.0, LONG_AGO) == ([], True, math.inf)
    assert split([Held("me", 5.0)], "me", 10.0, LONG_AGO) == ([], False, math.inf), "late for others"
    assert split([Held("other", 500.0)], "me", 10.0, LONG_AGO) == ([], True, 500.0)


def test_workers_may_come_back_first_after_a_restart() -> None:
    before, after = Held("a", 20.0, opened_at=5.0), Held("b", 20.0, opened_at=12.0)
    restart = Restart(10.0, 45.0)
    assert split([before, after], "me", 21.0, restart)[0] == [after]
    assert split([before, after], "me", 55.0, restart)[0] == [before, after]


def test_nobody_looks_before_something_can_be_late() -> None:
    watchman = Watchman()
    assert watchman.next_look() == math.inf
    assert not watchman.is_quiet(1, 5.0), "nobody has looked yet"
    watchman.looked(1, 5.0, nothing_late=True, next_at=7.0)
    watchman.looked(2, 5.0, nothing_late=True, next_at=math.inf)
    assert watchman.is_quiet(1, 6.9) and not watchman.is_quiet(1, 7.0)
    assert watchman.is_quiet(2, 1e9)
    assert watchman.next_look() == 7.0
    assert watchman.due(6.9) == []
    assert watchman.due(7.0) == [1]
    assert watchman.due(7.0) == [], "each is told once"


def test_what_goes_out_later_may_be_late_sooner() -> None:
    watchman = Watchman()
    watchman.looked(1, 0.0, nothing_late=True, next_at=50.0)
    watchman.leased(1, 20.0)
    watchman.leased(1, 30.0)
    assert watchman.is_quiet(1, 19.0) and not watchman.is_quiet(1, 20.0)
    assert watchman.due(20.0) == [1]
    watchman.leased(2, 25.0)
    assert not watchman.is_quiet(2, 1.0), "of what went out before nothing is known"


def test_what_is_late_is_no_reason_to_look_all_the_time() -> None:
    watchman = Watchman()
    watchman.looked(1, 10.0, nothing_late=False, next_at=99.0)
    assert not watchman.is_quiet(1, 10.0), "whoever comes may have it"
    assert watchman.next_look() == 99.0
    watchman.changed(1, 10.1)
    watchman.changed(1, 10.2)
    assert watchman.due(10.9) == []
    assert watchman.due(10.0 + LOOK_AGAIN_S) == [1]
    watchman.changed(3, 10.5)
    assert watchman.due(10.5) == [3], "at once when nobody has looked yet"


def test_what_comes_back_from_one_of_two_workers_is_late_at_the_other() -> None:
    watchman = Watchman()
    watchman.looked(1, 10.0, nothing_late=True, next_at=math.inf)  # both workers had leases of the one slice
    assert watchman.is_quiet(1, 1e6)
    watchman.changed(1, 20.0)
    assert not watchman.is_quiet(1, 20.0)


def test_a_job_that_has_ended_is_forgotten() -> None:
    watchman = Watchman()
    watchman.leased(1, 5.0)
    watchman.forget(1)
    assert watchman.due(9.0) == []


@given(st.lists(st.tuples(st.sampled_from("lkcf"), st.integers(1, 4), st.floats(0, 100)), max_size=60))
def test_every_planned_look_is_told_at_its_time(steps: list[tuple[str, int, float]]) -> None:
    watchman = Watchman()
    planned: dict[int, float] = {}
    looked: dict[int, float] = {}
    for kind, job, at in steps:
        if kind == "l":
            watchman.leased(job, at)
            planned[job] = min(planned.get(job, math.inf), at)
        elif kind == "k":
            watchman.looked(job, at, nothing_late=True, next_at=at + 5)
            planned[job], looked[job] = at + 5, at
        elif kind == "c":
            watchman.changed(job, at)
            planned[job] = min(planned.get(job, math.inf), max(at, looked.get(job, -math.inf) + LOOK_AGAIN_S))
        else:
            watchman.forget(job)
            planned.pop(job, None)
            looked.pop(job, None)
        watchman.validate()
        assert watchman.next_look() == min(planned.values(), default=math.inf)
    assert sorted(watchman.due(50.0)) == sorted(job for job, when in planned.items() if when <= 50.0)
