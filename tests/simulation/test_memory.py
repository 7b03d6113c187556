"""Thousands of workers, over rows without SQL; and proof that these rows are as good as the others."""

from __future__ import annotations

import dataclasses
from unittest import mock

import pytest

from orchestrator.scheduler.waiting_line import Call, Waiter, WaitingLine
from tests.simulation.__main__ import command
from tests.simulation.simulation import Limits, plan_of, simulate, without_sql

MANY = Limits(workers=2200, jobs=60, slices=30, fault_minutes=0.3, in_memory=True, least=0.9)
CROWDED = 143


@pytest.fixture(autouse=True)
def quiet(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("CRITICAL")


@pytest.mark.parametrize("seed", [4, 7, 18, 30, 35, 41])
def test_a_seed_runs_the_same_steps_over_sql_and_in_memory(seed: int) -> None:
    plan = without_sql(plan_of(seed))
    over_sql, in_memory = simulate(dataclasses.replace(plan, in_memory=False)), simulate(plan)
    assert over_sql.violation is None
    assert in_memory.log == over_sql.log


def test_workers_that_wait_are_called_for_what_is_there_and_not_all_in_turn() -> None:
    plan = plan_of(4, Limits(workers=100, jobs=20, slices=100, fault_minutes=0.5, in_memory=True, least=0.8))
    looks = 0
    look = WaitingLine.look

    def counted(line: WaitingLine, waiter: Waiter) -> list[Call]:
        nonlocal looks
        looks += 1
        return look(line, waiter)

    with mock.patch.object(WaitingLine, "look", counted):
        report = simulate(plan)
    assert report.violation is None
    assert looks < 3 * report.figures["requests"]


@pytest.mark.timeout(600)
def test_all_rules_hold_with_thousands_of_workers() -> None:
    plan = plan_of(CROWDED, MANY)
    assert len(plan.workers) > 2000 and len(plan.jobs) > 50
    report = simulate(plan)
    assert report.violation is None, f"{report.violation}\nagain: {command(CROWDED, MANY)}"
    log = "\n".join(report.log)
    for happening in ("crashes", "stalls", "lies", ": late ", ": accepted ", ": opinion "):
        assert happening in log, happening
