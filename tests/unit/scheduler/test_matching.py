from __future__ import annotations

import dataclasses

import pytest

from orchestrator.scheduler.matching import JobProfile, WorkerProfile, refusal, satisfies
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
    ],
)
def test_refusals_say_why(job: dict[str, object], worker: dict[str, object], why: str) -> None:
    reason = refusal(dataclasses.replace(JOB, **job), dataclasses.replace(WORKER, **worker))  # type: ignore[arg-type]
    assert reason is not None
    assert why in reason


def test_a_local_job_needs_no_group() -> None:
    local = dataclasses.replace(JOB, local_exec=True, groups=frozenset())
    assert refusal(local, dataclasses.replace(WORKER, job_ids=frozenset({"job"}), groups=frozenset())) is None


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
