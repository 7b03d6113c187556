"""A sandbox that has served long enough is replaced after the slices that it holds, and the books say why."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.jobs.words import SliceMetrics
from orchestrator.worker import recycling
from orchestrator.worker import supervisor_actions as act
from orchestrator.worker import supervisor_events as ev

MIB = 1 << 20
LIMITS = recycling.Limits(slices=1000, age_s=3600.0, growth_bytes=100 * MIB, growth_from_s=5.0)


def worn(peaks_mib: list[int]) -> recycling.Wear:
    wear = recycling.Wear()
    for peak in peaks_mib:
        wear.ran(peak * MIB)
    return wear


@pytest.mark.parametrize(
    ("peaks", "age_s", "reached"),
    [
        ([], 0.0, None),
        ([10] * 999, 3599.0, None),
        ([10] * 1000, 0.0, "slices"),
        ([], 3600.0, "age"),
        ([10, *range(20, 100, 10)], 60.0, None),
        ([10] + [111] * 8, 60.0, "memory growth"),
        ([10] + [111] * 8, 4.9, None),
        ([10] + [111] * 7, 60.0, None),
        ([200] * 20, 60.0, None),
        ([10] + [300, 300, 300, 40] * 5, 60.0, None),
    ],
)
def test_limits(peaks: list[int], age_s: float, reached: str | None) -> None:
    assert recycling.limit_reached(LIMITS, worn(peaks), age_s) == reached


@given(peaks=st.lists(st.integers(0, 110), min_size=1, max_size=60))
def test_memory_that_stays_near_the_first_slice_never_ends_a_sandbox(peaks: list[int]) -> None:
    assert recycling.limit_reached(LIMITS, worn([10, *peaks]), 60.0) is None


@given(step=st.integers(1, 50), count=st.integers(0, 300))
def test_a_leak_ends_it_when_it_has_grown_by_the_limit(step: int, count: int) -> None:
    """Told from the lowest of the last eight, so at most eight slices late."""
    wear = recycling.Wear()
    for number in range(count):
        wear.ran(number * step * MIB)
        reached = recycling.limit_reached(LIMITS, wear, 60.0)
        if number * step <= 100:
            assert reached is None
        if (number - 7) * step > 100:
            assert reached == "memory growth"


def metrics(peak_bytes: int) -> SliceMetrics:
    return SliceMetrics(
        cpu_time_s=0.01, wall_time_s=0.01, bytes_in=1, bytes_out=1, peak_memory_bytes=peak_bytes, gpu_time_s=0.0
    )


def test_no_sandbox_gets_more_slices_than_its_limit_and_the_next_takes_over(desk):
    d = desk(sandboxes=1, recycling=recycling.Limits(slices=20))
    [sandbox] = d.start({"job": list(range(1, 101))})
    [(_, key)] = d.submitted()
    d.complete(sandbox, key, wall_s=0.001)
    queue = d.submitted()
    assert len(queue) == 19, "a hundred would fit"
    for _, key in queue:
        assert not d.all(act.CloseSandbox)
        d.complete(sandbox, key, wall_s=0.001)
    closed = d.one(act.CloseSandbox)
    assert (closed.sandbox, closed.reason, closed.limit) == (sandbox, "retired: slices", "slices")
    assert d.one(act.OpenSandbox).sandbox != sandbox
    assert d.supervisor.statistics().counts["sandboxes recycled: slices"] == 1
    assert any("reached its limit of slices" in text for _time, text in d.supervisor.story(sandbox))


def test_an_old_sandbox_finishes_its_slice_first(desk):
    d = desk(sandboxes=1, recycling=recycling.Limits(age_s=100.0))
    [sandbox] = d.start({"job": [1, 2]})
    [(_, key)] = d.submitted()
    d(ev.Tick(), after=101.0)
    assert not d.all(act.CloseSandbox)
    d.complete(sandbox, key, wall_s=1.0)
    assert d.one(act.CloseSandbox).limit == "age"
    d(ev.SandboxOpened(d.one(act.OpenSandbox).sandbox))
    assert len(d.submitted()) == 1


def test_an_old_sandbox_with_nothing_to_do_is_replaced_at_once(desk):
    d = desk(sandboxes=1, sandbox_linger_s=1e6, recycling=recycling.Limits(age_s=100.0))
    [sandbox] = d.start({"job": [1]})
    [(_, key)] = d.submitted()
    d.complete(sandbox, key)
    d(ev.Tick(), after=101.0)
    assert d.one(act.CloseSandbox).limit == "age"


def test_a_leaking_job_gets_a_new_sandbox(desk):
    d = desk(sandboxes=1, queue_s=0.0, recycling=LIMITS)
    [sandbox] = d.start({"job": list(range(1, 101))})
    [(_, key)] = d.submitted()
    d.now += 10.0
    for number in range(100):
        d(ev.SliceCompleted(sandbox, key, "r", 1, metrics((10 + 20 * number) * MIB), True))
        if d.all(act.CloseSandbox):
            break
        [(_, key)] = d.submitted()
    assert d.one(act.CloseSandbox).limit == "memory growth"
    assert 10 < number < 20


def test_one_that_reached_its_limit_is_not_called_back_when_its_job_wants_more(desk):
    d = desk(sandboxes=2, recycling=recycling.Limits(age_s=100.0))
    one, _two = d.start({"job": [1, 2]})
    d(ev.Tick(), after=101.0)
    d.task({"job": list(range(3, 30))})
    keys = {sandbox: next(iter(d.supervisor._sandboxes[sandbox].queue)) for sandbox in (one, _two)}
    d.complete(one, keys[one])
    assert d.one(act.CloseSandbox).sandbox == one
    assert not [where for where, _key in d.submitted() if where == one]
