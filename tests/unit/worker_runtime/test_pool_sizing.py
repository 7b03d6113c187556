"""How many sandboxes are kept ready, and how much CPU time goes into making them."""

from __future__ import annotations

import asyncio
import heapq
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.worker import machine
from orchestrator.worker import pool_sizing as sizing

GIB = 1 << 30
ROOMY = sizing.Memory(64 * GIB, 64 * GIB)


def test_a_fixed_number_is_kept_whatever_happens() -> None:
    rules = sizing.SizingRules(fixed=3)
    assert sizing.target(rules, 0.0, ROOMY, 0, 0) == sizing.target(rules, 50.0, ROOMY, 0, 0) == 3
    assert sizing.target(sizing.SizingRules(fixed=0), 50.0, ROOMY, 0, 0) == 0


@pytest.mark.parametrize(("peak", "wanted"), [(0.0, 2), (2.02, 2), (2.5, 3), (7.99, 8), (100.0, 8)])
def test_between_least_and_most_the_peak_decides(peak: float, wanted: int) -> None:
    assert sizing.target(sizing.SizingRules(least=2, most=8), peak, ROOMY, 0, 0) == wanted


@given(
    fixed=st.none() | st.integers(0, 100),
    peak=st.floats(0, 1000),
    total=st.integers(0, 64 * GIB),
    part=st.floats(0, 1),
    in_use=st.integers(0, 100),
    idle=st.integers(0, 100),
    size=st.integers(1 << 24, 4 * GIB),
    reserve=st.integers(0, 8 * GIB),
)
def test_no_more_is_planned_than_memory_allows(
    fixed: int | None, peak: float, total: int, part: float, in_use: int, idle: int, size: int, reserve: int
) -> None:
    rules = sizing.SizingRules(fixed, 1, 64, size, reserve)
    memory = sizing.Memory(total, int(total * part))
    wanted = sizing.target(rules, peak, memory, in_use, idle)
    assert wanted >= 0
    assert wanted <= max(fixed if fixed is not None else 64, 0)
    if wanted + in_use > 1:
        assert (wanted + in_use) * size <= total - reserve or wanted == 0
    added = wanted - idle
    if added > 0:
        assert added * size <= memory.available - reserve


def test_memory_that_is_not_known_limits_nothing() -> None:
    assert sizing.target(sizing.SizingRules(fixed=9), 0.0, None, 1000, 0) == 9


def simulate(
    arrivals: list[float], size: int, start_s: float, hands: int, burst: sizing.Burst, repeat_at: float
) -> int:
    """Misses of a pool of that size, full at first, over the pattern; the burst is told of every hand-out."""
    ready, starting = size, 0
    done: list[float] = []
    waiting = 0
    misses = 0

    def begin(now: float) -> None:
        nonlocal starting
        while starting < hands and ready - waiting + starting < size:
            starting += 1
            heapq.heappush(done, now + start_s)

    for offset in sorted(arrivals):
        now = repeat_at + offset
        while done and done[0] <= now:
            at = heapq.heappop(done)
            starting -= 1
            if waiting:
                waiting -= 1
            else:
                ready += 1
            begin(at)
        burst.handed_out(now, start_s, hands / start_s)
        if ready:
            ready -= 1
        else:
            misses += 1
            waiting += 1
        begin(now)
    return misses


@given(
    arrivals=st.lists(st.floats(0, 20), min_size=1, max_size=60),
    start_s=st.floats(0.05, 1.0),
    hands=st.integers(1, 4),
)
def test_a_pool_of_the_size_that_a_burst_needed_serves_it_again_without_a_miss(
    arrivals: list[float], start_s: float, hands: int
) -> None:
    burst = sizing.Burst(half_life_s=1e9)
    for offset in sorted(arrivals):
        burst.handed_out(offset, start_s, hands / start_s)
    size = math.ceil(burst.peak(30.0) - 1e-6)
    # Each time a hand is free only as the batch before it ends: a start in progress may cover fewer than it could.
    assert simulate(arrivals, size + hands - 1, start_s, hands, sizing.Burst(), 100.0) == 0


@given(arrivals=st.lists(st.floats(0, 20), min_size=1, max_size=60))
def test_no_burst_needs_more_than_its_hand_outs(arrivals: list[float]) -> None:
    burst = sizing.Burst()
    for offset in sorted(arrivals):
        burst.handed_out(offset, 0.2, 10.0)
    assert burst.peak(20.0) <= len(arrivals) + 1e-9


def test_hand_outs_one_by_one_need_one_and_the_need_fades() -> None:
    burst = sizing.Burst(half_life_s=100.0)
    for number in range(50):
        burst.handed_out(number * 1.0, 0.2, 10.0)
    assert burst.peak(49.0) == pytest.approx(1.0)
    for _ in range(8):
        burst.handed_out(60.0, 0.2, 10.0)
    assert burst.peak(60.0) == 8.0
    assert burst.peak(160.0) == pytest.approx(4.0)


def test_a_start_costs_what_the_fastest_took() -> None:
    costs = sizing.StartCosts(first_guess_s=0.2)
    assert costs.core_s == costs.wall_s == 0.2
    for seconds in (0.4, 0.15, 0.9, 0.9, 0.9):
        costs.add(seconds)
    assert (costs.core_s, costs.wall_s) == (0.15, 0.9)
    for _ in range(40):
        costs.add(5.0)
    assert costs.core_s == 1.0, "an estimate that a slow Engine would make absurd is bounded"


@given(
    steps=st.lists(st.tuples(st.floats(0, 2), st.integers(0, 8), st.booleans()), min_size=1, max_size=200),
    share=st.floats(0.05, 1.0),
)
def test_starts_ahead_of_need_never_take_more_than_their_share(
    steps: list[tuple[float, int, bool]], share: float
) -> None:
    """Over any time, what was spent is what came in, and what lay ready at its beginning."""
    cores, cost, most = 4.0, 0.2, 0.4
    budget = sizing.RefillBudget()
    now, came_in, spent = 0.0, most, 0.0
    for after, busy, wants in steps:
        now += after
        rate = sizing.refill_rate(cores, share, busy)
        assert rate >= share * cores
        budget.advance(now, rate, most)
        came_in += rate * after
        if wants and budget.affords(cost):
            budget.spend(cost)
            spent += cost
        assert spent <= came_in + 1e-6


def test_the_budget_says_when_there_is_enough() -> None:
    budget = sizing.RefillBudget()
    budget.advance(0.0, 0.5, 0.4)
    for _ in range(2):
        assert budget.affords(0.2)
        budget.spend(0.2)
    assert not budget.affords(0.2)
    wait = budget.wait_s(0.2, 0.5)
    assert wait == pytest.approx(0.4)
    budget.advance(wait, 0.5, 0.4)
    assert budget.affords(0.2)


def test_what_could_not_wait_is_paid_back_but_no_debt_is_endless() -> None:
    budget = sizing.RefillBudget()
    budget.advance(0.0, 0.5, 0.4)
    for _ in range(100):
        budget.spend(0.2)
    budget.advance(0.0, 0.5, 0.4)
    assert budget.wait_s(0.2, 0.5) == pytest.approx(1.2)


def test_starts_wait_for_a_core_that_has_nothing_else_to_do() -> None:
    deferral = sizing.Deferral(longest_s=60.0, apart_s=0.5, free=0.5)
    assert deferral.wait_s(100.0, 7.0, 2.0) == 0.5, "one look says nothing"
    assert deferral.wait_s(100.2, 7.4, 2.0) == pytest.approx(0.3)
    assert deferral.wait_s(100.5, 8.0, 2.0) == 0.5, "two cores were busy"
    assert deferral.wait_s(101.0, 8.8, 2.0) == 0.5, "nearly two"
    assert deferral.wait_s(101.5, 9.5, 2.0) == 0.0, "half a core was free"


def test_starts_wait_a_minute_and_no_longer_each_time_that_some_are_wanted() -> None:
    deferral = sizing.Deferral(longest_s=60.0, apart_s=0.5)
    for looks in range(120):
        assert deferral.wait_s(looks / 2, looks * 1.0, 2.0) > 0.0
    assert deferral.wait_s(60.0, 120.0, 2.0) == deferral.wait_s(60.2, 120.4, 2.0) == 0.0
    deferral.over()
    assert deferral.wait_s(61.0, 122.0, 2.0) == 0.5


@pytest.mark.parametrize(("busy", "rate"), [(0, 8.0), (3, 5.0), (6, 2.0), (8, 2.0), (20, 2.0)])
def test_idle_cores_are_free_to_use(busy: int, rate: float) -> None:
    assert sizing.refill_rate(8.0, 0.25, busy) == rate


def test_what_the_machine_says() -> None:
    text = "MemTotal:       1000 kB\nMemFree: 1 kB\nMemAvailable:   400 kB\nHugePages_Total:       0\nodd\n"
    assert machine.parse_meminfo(text) == sizing.Memory(1024_000, 409_600)
    assert machine.parse_meminfo("MemTotal: 10 kB") == sizing.Memory(10_240, 10_240)
    assert machine.parse_meminfo("") is None
    assert machine.parse_runnable("cpu 1 2\nprocs_running 7\n") == 7
    assert machine.parse_runnable("procs_running x\n") is None


def test_this_machine_says_something() -> None:
    memory = machine.memory()
    assert memory is not None
    assert memory.total > memory.available > 0
    assert (machine.crowding() or 0) >= 1.0


async def test_a_crowd_is_the_mean_of_what_was_seen_since_the_last_question() -> None:
    seen: list[float | None] = [1.0, 2.0, 4.0, 2.0, 1.0, None, 3.0]
    crowd = machine.Crowd(look=lambda: seen.pop(0))
    assert crowd.take() is None
    await crowd.watch()
    assert crowd.take() == 2.0
    assert crowd.sample()
    assert crowd.take() is None, "one look says little"


async def test_nobody_looks_at_a_crowd_that_is_not_wanted() -> None:
    asked, looks = asyncio.Event(), []

    def wanted() -> bool:
        asked.set()
        return False

    crowd = machine.Crowd(wanted, lambda: looks.append(1))
    watching = asyncio.ensure_future(crowd.watch())
    await asked.wait()
    watching.cancel()
    assert not looks
