from __future__ import annotations

import dataclasses

from hypothesis import given
from hypothesis import strategies as st

from orchestrator.scheduler.watermark import Moment, Watermark


@dataclasses.dataclass
class _Database:
    """Transactions have ids in the order in which they begin; their rows are seen once they are over."""

    next_id: int = 1
    number: int = 0
    running: dict[int, list[int]] = dataclasses.field(default_factory=dict)
    rows: set[int] = dataclasses.field(default_factory=set)

    def begin(self) -> int:
        self.next_id += 1
        self.running[self.next_id - 1] = []
        return self.next_id - 1

    def look(self) -> Moment:
        oldest = min(self.running, default=self.next_id)
        self.next_id += 1
        return Moment(oldest, self.next_id - 1)


def test_a_slow_writer_is_seen_though_faster_ones_were_before_it() -> None:
    mark = Watermark()
    mark.looked(5, Moment(10, 12))  # 10 is running, and may have drawn a number below 5
    mark.looked(7, Moment(10, 14))
    assert mark.passed == 0
    mark.looked(7, Moment(15, 15))
    assert mark.passed == 7


def test_one_look_is_enough_for_what_was_over() -> None:
    mark = Watermark()
    mark.looked(5, Moment(3, 3))
    mark.looked(9, Moment(4, 4))
    assert mark.passed == 5


STEPS = st.lists(st.sampled_from(["begin", "draw", "commit", "roll back", "ask", "look"]), max_size=60)


@given(STEPS, st.randoms(use_true_random=False))
def test_nothing_is_passed_over(steps: list[str], draw: object) -> None:
    database, mark, seen = _Database(), Watermark(), set[int]()
    newest = 0
    for step in [*steps, "ask", "look"]:
        chosen = draw.choice(sorted(database.running)) if database.running else None  # type: ignore[attr-defined]
        if step == "begin":
            database.begin()
        elif step == "draw" and chosen is not None:
            database.number += 1
            database.running[chosen].append(database.number)
        elif step == "commit" and chosen is not None:
            database.rows |= set(database.running.pop(chosen))
        elif step == "roll back" and chosen is not None:
            del database.running[chosen]
        elif step == "ask":
            newest = database.number
        elif step == "look":
            moment = database.look()
            seen |= {row for row in database.rows if row > mark.passed}
            mark.looked(newest, moment)
            mark.validate()
    assert database.rows <= seen
