"""Is the machine needed by others? Patience in both directions, and our own use does not count."""

from __future__ import annotations

import itertools

import hypothesis
import pytest
from hypothesis import strategies as st

from orchestrator.worker.load_control import CpuTimes, Limits, LoadControl, Reading, others_share

MIB = 1 << 20


class Machine:
    """Four cores; every second others use `others` of them and we use `own`."""

    def __init__(self, **limits) -> None:
        self.control = LoadControl(Limits(**limits))
        self.now = self.busy = self.own = 0.0

    def run(self, seconds: int, *, others: float = 0.0, own: float = 0.0, **reading) -> str | None:
        for _ in range(seconds):
            self.now += 1.0
            self.busy += others + own
            self.own += own
            self.control.look(Reading(CpuTimes(4 * self.now, self.busy, self.own), **reading), self.now)
        return self.control.reason


def test_the_use_of_others_pauses_after_a_while():
    machine = Machine(cpu=0.5, busy_s=10.0, calm_s=60.0)
    machine.run(5)
    assert machine.run(8, others=4.0) is None
    assert "limit is 50%" in (machine.run(10, others=4.0) or "")


def test_our_own_use_never_does():
    machine = Machine(cpu=0.1, busy_s=1.0)
    assert machine.run(100, own=4.0) is None and machine.control.cpu == pytest.approx(0.0)


def test_it_takes_calm_to_go_on():
    machine = Machine(cpu=0.5, busy_s=5.0, calm_s=60.0)
    assert machine.run(30, others=4.0)
    assert machine.run(30)  # calm, but not for long
    assert machine.run(300, others=1.8)  # below the limit, but not well below
    assert machine.run(50)
    assert machine.run(30) is None


def test_a_short_peak_is_no_reason():
    machine = Machine(cpu=0.5, busy_s=10.0)
    for _ in range(10):
        assert machine.run(3, others=4.0) is None
        assert machine.run(20) is None


def test_memory_that_is_left():
    machine = Machine(memory_bytes=1000 * MIB, busy_s=2.0, calm_s=5.0)
    assert machine.run(10, available_bytes=1001 * MIB) is None
    assert machine.run(4, available_bytes=999 * MIB) == "999 MiB of memory are left, the limit is 1000 MiB"
    assert machine.run(20, available_bytes=1100 * MIB)  # not well above
    assert machine.run(7, available_bytes=1300 * MIB) is None


def test_memory_pressure():
    machine = Machine(pressure=20.0, busy_s=2.0, calm_s=5.0)
    assert machine.run(4, pressure=30.0) == "memory pressure is 30 %, the limit is 20 %"
    assert machine.run(7, pressure=1.0) is None


def test_what_cannot_be_read_pauses_nothing():
    control = LoadControl(Limits(cpu=0.1, memory_bytes=MIB, pressure=1.0, busy_s=0.0))
    assert control.look(Reading(), 0.0) is None and control.look(Reading(), 100.0) is None


def test_no_time_between_two_looks():
    same = CpuTimes(1.0, 1.0, 0.0)
    assert others_share(same, same) is None


times = st.floats(0, 1e6)


@hypothesis.given(times, times, times, times, times, times)
def test_a_share_is_a_share(a, b, c, d, e, f):
    share = others_share(CpuTimes(a, b, c), CpuTimes(d, e, f))
    assert share is None or 0.0 <= share <= 1.0


@hypothesis.settings(max_examples=50)
@hypothesis.given(st.lists(st.tuples(st.integers(1, 40), st.sampled_from([0.0, 1.9, 2.1, 4.0])), max_size=30))
def test_it_never_flaps(phases):
    """Whatever the machine does, between two changes of mind lies at least one of the patiences."""
    machine = Machine(cpu=0.5, busy_s=10.0, calm_s=30.0)
    changes: list[float] = []
    paused = False
    for seconds, others in phases:
        for _ in range(seconds):
            reason = machine.run(1, others=others)
            if (reason is not None) is not paused:
                paused = reason is not None
                changes.append(machine.now)
    for number, (earlier, later) in enumerate(itertools.pairwise(changes)):
        assert later - earlier >= (30.0 if number % 2 == 0 else 10.0)
