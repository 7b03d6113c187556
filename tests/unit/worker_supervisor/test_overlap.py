"""Jobs that wait leave their cores to others, and jobs that compute never get more sandboxes than cores."""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.worker import allotment
from orchestrator.worker import supervisor_actions as act
from orchestrator.worker import supervisor_events as ev
from orchestrator.worker.quanta import Quanta

DENSITIES = st.floats(0.05, 1.0)
JOBS = st.lists(st.tuples(st.integers(0, 40), DENSITIES), max_size=6)


@given(jobs=JOBS, cores=st.integers(1, 16), more=st.integers(0, 60))
def test_sandboxes_keep_no_more_cores_busy_than_there_are(jobs: list[tuple[int, float]], cores: int, more: int) -> None:
    wanted, densities = [job[0] for job in jobs], [job[1] for job in jobs]
    given_ = allotment.overlapping(wanted, densities, cores, cores + more)
    busy = sum(number * density for number, density in zip(given_, densities, strict=True))
    assert sum(given_) <= cores + more
    assert busy <= cores + allotment.SLOP + 1e-6
    assert all(0 <= number <= want for number, want in zip(given_, wanted, strict=True))
    # Nothing that would fit is left out, and there is always a sandbox for each core.
    for number, want, density in zip(given_, wanted, densities, strict=True):
        if number < want:
            assert sum(given_) == cores + more or busy + density > cores + allotment.SLOP - 1e-6
    assert sum(given_) >= min(sum(wanted), cores)


@given(wanted=st.lists(st.integers(0, 20), max_size=6), cores=st.integers(1, 16), more=st.integers(0, 60))
def test_jobs_that_compute_share_the_cores_as_if_there_were_no_more_sandboxes(
    wanted: list[int], cores: int, more: int
) -> None:
    assert allotment.overlapping(wanted, [1.0] * len(wanted), cores, cores + more) == allotment.shares(wanted, cores)


@given(
    wanted=st.lists(st.integers(30, 40), min_size=2, max_size=4),
    density=DENSITIES,
    cores=st.integers(1, 8),
    most=st.integers(8, 40),
)
def test_equal_jobs_get_equal_parts(wanted: list[int], density: float, cores: int, most: int) -> None:
    given_ = allotment.overlapping(wanted, [density] * len(wanted), cores, most)
    assert max(given_) - min(given_) <= 1


@pytest.mark.parametrize(
    ("cpu_s", "crowding", "density"),
    [
        (0.2, 1.0, 1.0),
        (0.1, 1.0, 0.5),
        (0.1, 2.0, 1.0),
        (0.0, 1.0, 0.05),
        (0.1, None, 1.0),
        (0.9, 1.0, 1.0),
    ],
)
def test_density(cpu_s: float, crowding: float | None, density: float) -> None:
    quanta = Quanta()
    assert quanta.density(1.0) == 1.0, "a job that nobody has measured is taken to compute"
    quanta.add(0.2, cpu_s)
    assert quanta.density(crowding) == pytest.approx(density)


def run(d, *, wall_s: float, cpu_s: float, made, rounds: int = 1, crowding: float = 1.0) -> int:
    """Every running slice ends once per round, and sandboxes that are wanted open; how many are open in the end."""
    for _ in range(rounds):
        heads = [(s.id, next(iter(s.queue))) for s in d.supervisor._sandboxes.values() if s.queue]
        d.now += wall_s
        for sandbox, key in heads:
            d(ev.SliceCompleted(sandbox, key, "r", 1, made.metrics(wall_s, cpu_s), True))
        d(ev.Tick(crowding))
        waiting = [s.id for s in d.supervisor._sandboxes.values() if not s.open]
        d(*(ev.SandboxOpened(sandbox) for sandbox in waiting))
    return len(d.supervisor._sandboxes)


def test_a_job_that_waits_gets_more_sandboxes_than_cores_by_doubling(desk, made):
    d = desk(sandboxes=1, max_sandboxes=8)
    d.start({"job": list(range(1, 301))})
    d(ev.Tick(1.0))
    numbers = [run(d, wall_s=0.2, cpu_s=0.002, made=made) for _ in range(6)]
    assert numbers == [2, 4, 8, 8, 8, 8]
    assert d.supervisor.statistics().sandboxes_busy == 8
    assert d.supervisor.statistics().jobs["job"].density == 0.05


def test_a_job_that_waits_half_of_its_time_gets_two_per_core(desk, made):
    d = desk(sandboxes=2, max_sandboxes=16)
    d.start({"job": list(range(1, 301))})
    assert run(d, wall_s=0.2, cpu_s=0.1, made=made, rounds=8) == 4


@pytest.mark.parametrize("crowding", [1.0, 4.0])
def test_a_job_that_computes_never_gets_more_than_the_cores(desk, made, crowding):
    """Nor when others keep the cores busy, so that half of its time goes by waiting for one."""
    d = desk(sandboxes=2, max_sandboxes=16)
    d.start({"job": list(range(1, 301))})
    cpu_s = 0.2 if crowding == 1.0 else 0.05
    d(ev.Tick(crowding))
    assert run(d, wall_s=0.2, cpu_s=cpu_s, made=made, rounds=8, crowding=crowding) == 2


def test_where_crowding_is_not_known_nothing_overlaps(desk, made):
    d = desk(sandboxes=2, max_sandboxes=16)
    d.start({"job": list(range(1, 301))})
    for _ in range(6):
        for sandbox, key in [(s.id, next(iter(s.queue))) for s in d.supervisor._sandboxes.values() if s.queue]:
            d(ev.SliceCompleted(sandbox, key, "r", 1, made.metrics(0.2, 0.001), True))
        d(ev.Tick(), after=1.0)
    assert len(d.supervisor._sandboxes) == 2


def test_a_job_that_begins_to_compute_gives_its_sandboxes_up_after_their_slices(desk, made):
    d = desk(sandboxes=1, max_sandboxes=4)
    d.start({"job": list(range(1, 301))})
    d(ev.Tick(1.0))
    assert run(d, wall_s=0.2, cpu_s=0.002, made=made, rounds=5) == 4
    before = d.supervisor.statistics().counts.get("slices returned", 0)
    assert run(d, wall_s=0.8, cpu_s=0.2, made=made, rounds=12, crowding=4.0) == 1
    assert d.supervisor.statistics().counts.get("slices returned", 0) == before


def test_a_job_that_computes_gets_its_core_from_one_that_waits(desk, made):
    d = desk(sandboxes=1, max_sandboxes=4, queue_s=0.1)
    d.start({"sleepy": list(range(1, 301))})
    d(ev.Tick(1.0))
    assert run(d, wall_s=0.2, cpu_s=0.01, made=made, rounds=5) == 4
    d.task({"busy": list(range(1, 31))})
    d(ev.JobFetched("busy"))
    run(d, wall_s=0.2, cpu_s=0.01, made=made)
    assert d.supervisor.statistics().jobs["busy"].sandboxes == 1


def test_more_work_is_asked_for_when_slices_leave_cores_idle(desk, made):
    d = desk(sandboxes=1, max_sandboxes=4, prefetch_s=5.0)
    d.start({"job": list(range(1, 301))})
    d(ev.Tick(1.0))
    run(d, wall_s=0.2, cpu_s=0.2, made=made)
    computing = d.supervisor._space(d.now)
    run(d, wall_s=0.2, cpu_s=0.001, made=made, rounds=30)
    left = d.supervisor.statistics().held - d.supervisor.statistics().reported
    assert computing < 0.0 and left > 100
    expected = 1 - left * d.supervisor._jobs["job"].quanta.wall_s * 0.25 / 5.0
    assert d.supervisor._space(d.now) == pytest.approx(expected, abs=0.3)


def test_without_more_sandboxes_than_cores_density_does_not_matter(desk, made):
    d = desk(sandboxes=2)
    d.start({"job": list(range(1, 301))})
    assert run(d, wall_s=0.2, cpu_s=0.001, made=made, rounds=5) == 2
    assert d.all(act.OpenSandbox, ever=True)[-1].job_id == "job"


def test_a_few_short_slices_are_not_worth_another_sandbox(desk, made):
    d = desk(sandboxes=1, max_sandboxes=8, queue_s=0.0)
    d.start({"job": list(range(1, 21))})
    d(ev.Tick(1.0))
    assert run(d, wall_s=0.01, cpu_s=0.0001, made=made, rounds=6) == 1


def test_the_first_slices_of_a_job_say_nothing_until_the_crowd_was_seen_that_they_ran_in(desk, made):
    """New sandboxes start beside them: a job that computes looks as if it waited, and the machine was idle before."""
    d = desk(sandboxes=2, max_sandboxes=8)
    d(ev.Tick(1.0))
    d(ev.Tick(1.0), after=1.0)
    d.now += 0.5
    d.start({"job": list(range(1, 301))})
    assert run(d, wall_s=0.5, cpu_s=0.25, made=made, crowding=1.0) == 2, "half of that second was before the job"
    assert run(d, wall_s=1.0, cpu_s=0.5, made=made, crowding=2.0) == 2, "there was a crowd"
    assert run(d, wall_s=1.0, cpu_s=0.95, made=made, crowding=1.0, rounds=5) == 2, "and it is not forgotten at once"


def test_time_without_a_core_is_no_waiting_where_the_kernel_tells_it():
    quanta = Quanta()
    quanta.add(0.3, 0.1, 2 / 3)
    assert quanta.density(1.0) == pytest.approx(1.0)
    assert quanta.density(None) == pytest.approx(1.0)
    for _ in range(100):
        quanta.add(0.3, 0.1, 1 / 3)
    assert quanta.density(3.0) == pytest.approx(0.5, abs=0.01), "crowding is not needed then"
    quanta.add(0.3, 0.1, None)
    assert quanta.density(2.0) == pytest.approx(2 / 3, abs=0.01)


def test_a_job_that_computes_on_a_busy_machine_keeps_its_sandboxes(desk, made):
    """It gets a third of a core, less than a fair part of those that the crowd wants."""
    d = desk(sandboxes=2, max_sandboxes=8)
    d.start({"job": list(range(1, 301))})
    for _ in range(8):
        heads = [(s.id, next(iter(s.queue))) for s in d.supervisor._sandboxes.values() if s.queue]
        d.now += 0.3
        for sandbox, key in heads:
            spent = dataclasses.replace(made.metrics(0.3, 0.1), queued_share=0.64)
            d(ev.SliceCompleted(sandbox, key, "r", 1, spent, True))
        d(ev.Tick(1.5))
    assert len(d.supervisor._sandboxes) == 2


def test_the_crowd_is_wanted_until_the_kernel_tells_how_long_slices_waited(desk, made):
    d = desk(sandboxes=1, max_sandboxes=4)
    d.start({"job": list(range(1, 301))})
    assert d.supervisor.wants_crowding
    run(d, wall_s=0.3, cpu_s=0.3, made=made)
    assert d.supervisor.wants_crowding
    [(sandbox, key)] = [(s.id, next(iter(s.queue))) for s in d.supervisor._sandboxes.values() if s.queue]
    spent = dataclasses.replace(made.metrics(0.3, 0.1), queued_share=0.5)
    d(ev.SliceCompleted(sandbox, key, "r", 1, spent, True))
    assert not d.supervisor.wants_crowding
    assert not desk(sandboxes=2, max_sandboxes=2).supervisor.wants_crowding, "nothing overlaps"
