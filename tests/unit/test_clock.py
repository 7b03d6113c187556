"""The steady clock follows real time, whatever the wall clock does."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.clock import SLEW, SteadyClock


class Clocks:
    def __init__(self) -> None:
        self.wall = 1e9
        self.monotonic = 50.0

    def pass_time(self, seconds: float) -> None:
        self.wall += seconds
        self.monotonic += seconds

    def steady(self) -> SteadyClock:
        return SteadyClock(lambda: self.wall, lambda: self.monotonic)


def test_without_jumps_it_is_the_wall_clock() -> None:
    clocks = Clocks()
    steady = clocks.steady()
    for _ in range(10):
        clocks.pass_time(7.5)
        assert steady() == pytest.approx(clocks.wall, abs=1e-6)


@given(st.lists(st.tuples(st.floats(0, 1000), st.floats(-7200, 7200)), min_size=1, max_size=30))
def test_no_jump_passes_through_and_it_never_goes_back(steps: list[tuple[float, float]]) -> None:
    clocks = Clocks()
    steady = clocks.steady()
    last = steady()
    for seconds, jump in steps:
        clocks.pass_time(seconds)
        clocks.wall += jump
        now = steady()
        assert seconds * (1 - SLEW) - 1e-3 <= now - last <= seconds * (1 + SLEW) + 1e-3
        last = now


@pytest.mark.parametrize("jump", [3600.0, -3600.0])
def test_a_jump_is_made_up_in_time(jump: float) -> None:
    clocks = Clocks()
    steady = clocks.steady()
    clocks.wall += jump
    assert steady.ahead_s == pytest.approx(-jump, abs=1)
    for _ in range(21):
        clocks.pass_time(3600)
        steady()
    assert steady() == pytest.approx(clocks.wall, abs=1e-3)
