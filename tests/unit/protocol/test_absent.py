"""Who makes room first among sessions without a transport: compared with a plain list."""

from __future__ import annotations

import dataclasses
from collections import Counter
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from orchestrator.protocol.books import Absent


@dataclasses.dataclass(eq=False)
class Link:
    place: str


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 3))))
def test_the_oldest_of_the_largest_crowd_is_first(steps: list[tuple[bool, int]]) -> None:
    absent, model = Absent(), []
    for comes, number in steps:
        if comes or not model:
            link: Any = Link(f"place {number}")
            absent.add(link)
            model.append(link)
        else:
            link = model.pop(number % len(model))
            absent.discard(link)
            absent.discard(link)
        assert all(one in absent for one in model) and (link in absent) == (link in model)
        first = absent.first()
        if not model:
            assert first is None
            continue
        crowds = Counter(one.place for one in model)
        assert first is not None
        assert crowds[first.place] == max(crowds.values())
        assert first is next(one for one in model if one.place == first.place)
