"""When slices are late, and when it is worth looking for them."""

from __future__ import annotations

import dataclasses
import math

import pytest

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
    out = [Held("me", 1.0), Held("other", 9.0), Held("third", 10.4)]
    late, look_at = split(out, "me", 10.0, LONG_AGO)
    assert late == [out[1]]
    assert look_at == 10.4
    assert split([], "me", 10.0, LONG_AGO) == ([], 10.0 + LOOK_AGAIN_S)
    assert split([Held("other", 500.0)], "me", 10.0, LONG_AGO) == ([], 10.0 + LOOK_AGAIN_S)


def test_workers_may_come_back_first_after_a_restart() -> None:
    before, after = Held("a", 20.0, opened_at=5.0), Held("b", 20.0, opened_at=12.0)
    restart = Restart(10.0, 45.0)
    assert split([before, after], "me", 21.0, restart)[0] == [after]
    assert split([before, after], "me", 55.0, restart)[0] == [before, after]


def test_nobody_looks_in_vain() -> None:
    watchman = Watchman()
    assert watchman.next_look([]) == math.inf
    assert not watchman.is_quiet(1, 5.0)
    watchman.look_again(1, 7.0)
    assert watchman.is_quiet(1, 6.0)
    assert not watchman.is_quiet(1, 7.0)
    watchman.look_again(2, 6.5)
    assert watchman.next_look([1, 2]) == 6.5
    assert watchman.next_look([1, 3]) == 0.0
