"""Scheduler and Bank under two hundred seeds of faults, and proof that a broken rule is found."""

from __future__ import annotations

import dataclasses
import os
import pathlib
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any
from unittest import mock

import pytest

from orchestrator.bank.ledger import Book, Payment
from orchestrator.scheduler import escrow, lifecycle, settling
from orchestrator.scheduler.court import Court
from orchestrator.scheduler.job_keeper import JobKeeper
from orchestrator.scheduler.lease_book import LeaseBook
from orchestrator.scheduler.leasing import Leasing
from orchestrator.scheduler.lifecycle import Budget, Counts, Ending, Slice, SliceState, Verdict
from orchestrator.scheduler.money import Money
from orchestrator.scheduler.redundancy import Decision, Opinion, Panel
from orchestrator.scheduler.settling import Report, Settled
from orchestrator.scheduler.store import leases, slices
from tests.simulation import rules
from tests.simulation.__main__ import command, main
from tests.simulation.simulation import Limits, Plan, plan_of, simulate

ROOT = pathlib.Path(__file__).parents[2]
SEEDS = 200
GROUP = 20
FOUND_WITHIN = 40
"""seeds after which a broken rule must have been found"""
LIMITS = Limits()
SMALL = Limits(workers=8, slices=30, fault_minutes=0.7)
"""for three of four seeds"""
TELLING = (4, 0, 30, 7, 18, 1, 16)
"""seeds in which much goes wrong: most broken rules show in them"""


@pytest.fixture(autouse=True)
def quiet(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("CRITICAL")


@pytest.mark.parametrize("first", range(0, SEEDS, GROUP))
def test_all_rules_hold(first: int) -> None:
    for seed in range(first, first + GROUP):
        limits = SMALL if seed % 4 else LIMITS
        report = simulate(plan_of(seed, limits))
        assert report.violation is None, f"{report.violation}\nagain: {command(seed, limits)}"


def test_the_seeds_cover_what_they_should() -> None:
    """Crashes, lies, repetitions and refusals do happen: otherwise the rules were not tried."""
    logs = "\n".join("\n".join(simulate(plan_of(seed, LIMITS)).log) for seed in (16, 18, 37))
    for happening in (
        "crashes",
        "stalls",
        "lies",
        "is killed",
        ": late ",
        ": duplicate ",
        ": accepted ",
        "EPERM",
        "ENOFUNDS",
    ):
        assert happening in logs, happening


@pytest.mark.parametrize("seed", [16, 4])
def test_a_seed_runs_the_same_steps_in_another_process(seed: int, tmp_path: pathlib.Path) -> None:
    """Whatever the order of sets of strings is there."""
    logs = []
    for hash_seed in ("1", "2"):
        log = tmp_path / hash_seed
        subprocess.run(
            [sys.executable, "-m", "tests.simulation", "--seed", str(seed), "--log", str(log)],
            check=True, cwd=ROOT, env=os.environ | {"PYTHONHASHSEED": hash_seed}, stdout=subprocess.DEVNULL,
        )  # fmt: skip
        logs.append(log.read_bytes())
    assert logs[0] == logs[1]
    assert logs[0].count(b"\n") > 50


# --- where too few are there to agree


def _lonely(seed: int) -> Plan:
    """A plan with one worker that lies now and then, and in every second seed an honest one, where two of four must
    agree."""
    plan = plan_of(seed, SMALL)
    liar, honest = (
        dataclasses.replace(plan.workers[0], leaves=False, liar=liar, deceives=liar) for liar in (True, False)
    )
    jobs = [
        dataclasses.replace(
            job, slices=9, slice_s=0.5, price=1, cancels=False, redundancy={"agree": 2, "of": 4, "trusting": False}
        )
        for job in plan.jobs
    ]
    workers = (liar, honest) if seed % 2 else (liar,)
    return dataclasses.replace(plan, workers=workers, jobs=tuple(jobs), opinion_wait_s=90.0)


@pytest.mark.parametrize("seed", range(6))
def test_slices_on_which_nobody_else_can_be_asked_are_given_up(seed: int) -> None:
    """No wrong result is accepted meanwhile, whoever was heard is paid, and every job ends."""
    report = simulate(_lonely(seed))
    assert report.violation is None
    assert seed % 2 or report.figures["accepted"] == 0 < report.figures["given up"]


def test_without_that_they_would_wait_for_ever() -> None:
    with mock.patch.object(slices, "unanswered", _nothing_expires):
        assert "every job ends" in (simulate(_lonely(0)).violation or "")


async def _the_first_is_believed(self: JobKeeper) -> int:
    """Time relaxes the quorum."""
    with mock.patch.object(settling, "_stop_asking", _believed):
        return await _give_up(self)


def _believed(batch: Settled, court: Court, piece: Slice, report: Report) -> Slice:
    first = court.panel(report.number).opinions[0]
    after = dataclasses.replace(piece, state=SliceState.ACCEPTED, lease=first.lease)
    batch.change(piece, after)
    batch.accepted[report.number] = dataclasses.replace(report, lease=first.lease, uri=first.uri)
    batch.raced[report.number] = after
    court.give_up(report.number)
    settling._pay_opinions(batch, court, report.number)
    return after


_give_up = JobKeeper.give_up


def test_that_time_relaxes_the_quorum_is_found() -> None:
    with mock.patch.object(JobKeeper, "give_up", _the_first_is_believed):
        found = [simulate(_lonely(seed)).violation for seed in (0, 2, 4)]
    assert any(found)


# --- a simulator that finds nothing proves nothing: rules broken on purpose


def _late_reports_count(piece: Slice, lease_id: int, ending: Ending, budget: Budget) -> tuple[Slice, Verdict]:
    if piece.state is SliceState.LEASED and ending is Ending.COMPLETED:
        lease_id = piece.lease
    return _settle(piece, lease_id, ending, budget)


def _repetitions_count(piece: Slice, lease_id: int, ending: Ending, budget: Budget) -> tuple[Slice, Verdict]:
    after, verdict = _settle(piece, lease_id, ending, budget)
    return after, Verdict.ACCEPTED if verdict is Verdict.DUPLICATE else verdict


def _expired_slices_are_forgotten(piece: Slice, lease_id: int, budget: Budget) -> tuple[Slice, Verdict]:
    return piece, Verdict.LATE


async def _nothing_expires(*_: Any) -> list[Any]:
    return []


async def _ready_slices_are_overlooked(*_: Any, **__: Any) -> list[Any]:
    return []


def _whoever_reports(self: LeaseBook, claim: Any, peer: str) -> Any:
    return self._known.get(claim.lease)


def _payments_repeat(self: Book, hold_id: str, payments: Any) -> int:
    again = [dataclasses.replace(one, transfer_id=f"{one.transfer_id}:again") for one in payments]
    return _pay(self, hold_id, [*payments, *again])


def _payments_are_short(self: Book, hold_id: str, payments: Any) -> int:
    return _pay(self, hold_id, [Payment(one.transfer_id, one.payee, max(1, one.amount // 2)) for one in payments])


def _release_keeps_money(self: Book, hold_id: str) -> int:
    hold = self._hold(hold_id)
    hold.is_open = False
    self.closed_holds.append(hold)
    return 0


async def _holds_too_little(self: Money, tx: Any, job: Any, *, least: int, wanted: int) -> int | None:
    held = await _open(self, tx, job, least=least // 2, wanted=wanted // 2)
    return None if held is None else wanted


async def _adds_nothing(self: Money, tx: Any, job: Any, number: int) -> int:
    return max(number, 0)


def _everything_may_be_leased(funded: int | None, counts: Counts) -> int:
    return counts.waiting


async def _adds_less_than_it_says(self: Money, tx: Any, job: Any, number: int) -> int:
    await _add(self, tx, job, number - 1)
    return max(number, 0)


def _accepted_slices_cost_nothing(funded: int | None, counts: Counts) -> int:
    return counts.waiting if funded is None else min(counts.waiting, funded - counts.leased)


def _balances_are_not_checked(self: Book, name: str, change: int) -> None:
    pass


def _one_fewer_agrees(self: Panel, *arguments: Any) -> Decision:
    rule = dataclasses.replace(self.rule, agree=self.rule.agree - 1)
    return _decide(dataclasses.replace(self, rule=rule), *arguments)


def _wrong_ones_are_paid(self: Court, number: int) -> list[Opinion]:
    return list(self.panel(number).opinions)


def _money_comes_from_nowhere(self: Book, postings: Any) -> None:
    _post(self, postings)
    for one in postings:
        self.moved[one.target] += 1


def _leases_without_a_token(self: Leasing, *arguments: Any, **others: Any) -> Any:
    return dataclasses.replace(_new_lease(self, *arguments, **others), token="")


_post, _new_lease = Book._post, Leasing.new_lease
_decide = Panel.decide
_settle, _pay, _open, _add = lifecycle.settle, Book.pay, Money.open, Money.add
MUTANTS: dict[str, tuple[Any, str, Callable[..., Any]]] = {
    "late reports are accepted": (lifecycle, "settle", _late_reports_count),
    "repeated reports are accepted": (lifecycle, "settle", _repetitions_count),
    "slices of expired leases stay out": (lifecycle, "expire", _expired_slices_are_forgotten),
    "leases never expire": (leases, "overdue", _nothing_expires),
    "slices that came back are never given out": (slices, "take_ready", _ready_slices_are_overlooked),
    "anybody may report under any lease": (LeaseBook, "check", _whoever_reports),
    "wages are paid twice": (Book, "pay", _payments_repeat),
    "wages are paid in half": (Book, "pay", _payments_are_short),
    "a released hold keeps its money": (Book, "release", _release_keeps_money),
    "a hold covers half of the job": (Money, "open", _holds_too_little),
    "money is added to a hold that is not there": (Money, "add", _adds_nothing),
    "more is leased than the hold covers": (escrow, "may_lease", _everything_may_be_leased),
    "what accepted slices cost is lent out again": (escrow, "may_lease", _accepted_slices_cost_nothing),
    "less is added to a hold than the job is told": (Money, "add", _adds_less_than_it_says),
    "one worker fewer must agree": (Panel, "decide", _one_fewer_agrees),
    "who is shown wrong is paid": (Court, "to_pay", _wrong_ones_are_paid),
    "money comes from nowhere": (Book, "_post", _money_comes_from_nowhere),
    "leases have no token": (Leasing, "new_lease", _leases_without_a_token),
    "balances go below zero": (Book, "_check_balance", _balances_are_not_checked),
}


@pytest.fixture(params=MUTANTS, ids=lambda name: name.replace(" ", "-"))
def mutant(request: pytest.FixtureRequest) -> Iterator[str]:
    target, name, wrong = MUTANTS[request.param]
    with mock.patch.object(target, name, wrong):
        yield request.param


def test_a_broken_rule_is_found(mutant: str) -> None:
    for seed in dict.fromkeys([*TELLING, *range(FOUND_WITHIN)]):
        if simulate(plan_of(seed, LIMITS)).violation is not None:
            return
    pytest.fail(f"{FOUND_WITHIN} seeds did not find that {mutant}")


def test_a_broken_rule_is_told_with_the_command_that_shows_it_again(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with mock.patch.object(lifecycle, "settle", _repetitions_count):
        assert main(["--seeds", str(FOUND_WITHIN), "--slices", "49"]) == 1
    text = capsys.readouterr().out
    assert "broken rule" in text or "failed" in text
    assert "again: python -m tests.simulation --seed " in text
    assert "--slices 49" in text


def test_the_page_says_where_each_rule_is_checked() -> None:
    text = rules.PAGE.read_text()
    assert rules.rewritten(text) == text, "run python -m tests.simulation.rules"
