from __future__ import annotations

import dataclasses

import pytest

from orchestrator.jobs.words import Isolation
from orchestrator.scheduler.estimates import Estimate, Measured
from orchestrator.scheduler.matching import JobProfile, WhyNot, WorkerProfile, census, refusal, satisfies, why_not
from orchestrator.scheduler.pricing import MinimumWage, read_minimum_wage
from orchestrator.scheduler.roster import Roster

JOB = JobProfile("job", 64, frozenset({"public"}), False, ("map-basic", "^1.0.0"))
WORKER = WorkerProfile("worker", 80, frozenset({"public"}), frozenset(), (("map-basic", "1.0.0"),))


def test_a_worker_that_fits() -> None:
    assert refusal(JOB, WORKER) is None


@pytest.mark.parametrize(
    ("job", "worker", "why"),
    [
        ({}, {"job_ids": frozenset({"other"})}, "other jobs"),
        ({"local_exec": True}, {}, "own worker"),
        ({"groups": frozenset()}, {}, "compute group"),
        ({}, {"groups": frozenset()}, "compute group"),
        ({}, {"rejected": frozenset({"job"})}, "rejected"),
        ({}, {"unresolved": frozenset({"job"})}, "fetching"),
        ({"needs": 64 | 32}, {}, "0x20"),
        ({"worktime": ("pyodide", "^0.28.0")}, {}, "pyodide"),
        ({"worktime": ("map-basic", "^2.0.0")}, {}, "map-basic"),
        ({"isolation": Isolation.USERNS}, {}, "userns"),
        ({"isolation": Isolation.GVISOR}, {"isolation": Isolation.USERNS}, "gvisor"),
    ],
)
def test_refusals_say_why(job: dict[str, object], worker: dict[str, object], why: str) -> None:
    reason = refusal(dataclasses.replace(JOB, **job), dataclasses.replace(WORKER, **worker))  # type: ignore[arg-type]
    assert reason is not None
    assert why in reason


def test_a_local_job_needs_no_group() -> None:
    local = dataclasses.replace(JOB, local_exec=True, groups=frozenset())
    assert refusal(local, dataclasses.replace(WORKER, job_ids=frozenset({"job"}), groups=frozenset())) is None


def test_a_stronger_wall_than_asked_for_will_do() -> None:
    asks = dataclasses.replace(JOB, isolation=Isolation.USERNS)
    for level in (Isolation.USERNS, Isolation.GVISOR, Isolation.KATA):
        assert refusal(asks, dataclasses.replace(WORKER, isolation=level)) is None


HOUR = Estimate().fold([Measured(cpu_ms=3_600_000, wall_ms=3_600_000, gpu_ms=0, in_bytes=2e6, out_bytes=0)])


@pytest.mark.parametrize(
    ("price", "estimate", "fits"),
    [
        (0, Estimate(), False),
        (1, Estimate(), True),
        (2 * 10**17, HOUR, True),
        (2 * 10**17 - 2, HOUR, False),
        (2 * 10**17 - 2, None, True),
    ],
)
def test_a_job_must_pay_the_minimum_wage_once_its_slices_are_known(
    price: int, estimate: Estimate | None, fits: bool
) -> None:
    wants = dataclasses.replace(WORKER, minimum_wage=MinimumWage(cpu_hour=0.1, in_mb=0.05))
    found = why_not(dataclasses.replace(JOB, slice_price=price), wants, estimate)
    assert (found is None) is fits
    assert fits or (found is not None and found[0] is WhyNot.WAGE)
    assert why_not(JOB, WORKER, estimate) is None, "who asks for nothing takes what pays nothing"


def test_wages_that_make_no_sense_ask_for_nothing() -> None:
    assert not read_minimum_wage({"CPU": "much", "GPU": -1, "in": float("nan"), "out": True})
    assert not read_minimum_wage(None)
    assert read_minimum_wage({"CPU": 0.5, "out": 1}) == MinimumWage(0.5, 0, 0, 1)


def test_a_census_counts_workers_by_reason() -> None:
    workers = [
        WORKER,
        dataclasses.replace(WORKER, worker="b", capabilities=0),
        dataclasses.replace(WORKER, worker="c", groups=frozenset()),
        dataclasses.replace(WORKER, worker="d", groups=frozenset()),
    ]
    assert census(JOB, workers) == (1, {WhyNot.CAPABILITY: 1, WhyNot.GROUP: 2})


@pytest.mark.parametrize(
    ("version", "wanted", "fits"),
    [
        ("1.0.0", "^1.0.0", True),
        ("1.9.3", "^1.2.0", True),
        ("2.0.0", "^1.0.0", False),
        ("1.1.0", "^1.2.0", False),
        ("0.28.2", "^0.28.0", True),
        ("0.29.0", "^0.28.0", False),
        ("0.0.4", "^0.0.3", False),
        ("1.2.9", "~1.2.3", True),
        ("1.3.0", "~1.2.3", False),
        ("1.2.3", "1.2.3", True),
        ("1.2.4", "1.2.3", False),
        ("1.2.4", "1.2", True),
        ("1.2.4", "1.x", True),
        ("1.2.4", "*", True),
        ("1.2.4", ">=0.0.0", True),
        ("1.2.4", ">=1.0.0 <1.2.0", False),
        ("3.0.0", "^1.0.0 || ^3.0.0", True),
        ("nonsense", "*", False),
        ("1.0.0", "nonsense", False),
    ],
)
def test_version_ranges(version: str, wanted: str, fits: bool) -> None:
    assert satisfies(version, wanted) is fits


def test_the_roster_knows_who_is_there() -> None:
    roster = Roster(alive_s=10)
    roster.saw(WORKER, 2.0, now=0)
    assert roster.load(1) == 2.0
    assert not roster.others_could(JOB, "worker", 1)
    roster.saw(dataclasses.replace(WORKER, worker="second"), 1.0, now=5)
    assert roster.others_could(JOB, "worker", 6)
    assert roster.load(6) == 3.0
    roster.saw(WORKER, 0.5, now=6)
    assert roster.load(6) == 3.0, "a busy worker that asks for little is as large as before"
    roster.heard("worker", 14)
    assert roster.load(16) == 2.0
    roster.gone("worker")
    assert roster.load(16) == 0.0


def test_others_are_found_among_many_of_other_kinds() -> None:
    roster = Roster(alive_s=10)
    for number in range(50):
        roster.saw(dataclasses.replace(WORKER, worker=f"plain {number}"), 1.0, now=0)
    roster.saw(dataclasses.replace(WORKER, worker="gpu", capabilities=80 | 32), 1.0, now=0)
    needs_gpu = dataclasses.replace(JOB, needs=32)
    assert roster.others_could(needs_gpu, "plain 3", 1)
    assert not roster.others_could(needs_gpu, "gpu", 1)
    assert not roster.others_could(needs_gpu, "plain 3", 1, excluded={"gpu"})
    assert len(list(roster.profiles(1))) == 51
    roster.gone("gpu")
    assert not roster.others_could(needs_gpu, "plain 3", 1)
    assert roster.load(1) == 50
    assert roster.load(20) == 0
