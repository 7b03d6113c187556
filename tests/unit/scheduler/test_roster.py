"""Who is there, as several processes see it, and who is waited for."""

from __future__ import annotations

import dataclasses

import pytest

from orchestrator.scheduler.matching import JobProfile, WorkerProfile
from orchestrator.scheduler.roster import Roster, Seen

JOB = JobProfile("job", 64, frozenset({"public"}), False, ("map-basic", "^1.0.0"))
STAYS = WorkerProfile("stays", 80, frozenset({"public"}), frozenset(), ())
LEAVES = dataclasses.replace(STAYS, worker="leaves")


@pytest.fixture
def roster() -> Roster:
    roster = Roster(alive_s=90)
    roster.saw(STAYS, 2.0, now=0.0)
    return roster


def waits(roster: Roster, now: float = 1.0) -> bool:
    return roster.others_could(JOB, "stays", now)


def test_nobody_waits_for_a_worker_that_cannot_be_reached(roster: Roster) -> None:
    roster.saw(LEAVES, 1.0, now=0.0)
    assert waits(roster)
    roster.absent = {"leaves"}
    assert not waits(roster)


def test_a_worker_that_another_process_has_heard_is_waited_for_until_it_has_left_there(roster: Roster) -> None:
    roster.saw_elsewhere(Seen(LEAVES, 1.0, 0.5), now=1.0)
    assert waits(roster)
    assert not roster.asks_here("leaves")
    roster.gone_elsewhere("leaves")
    assert not waits(roster)


def test_what_was_heard_long_ago_elsewhere_makes_nobody_present(roster: Roster) -> None:
    roster.saw_elsewhere(Seen(LEAVES, 1.0, 0.0), now=100.0)
    assert "leaves" not in roster.entries()


def test_a_worker_that_asks_here_has_not_left_by_leaving_another_process(roster: Roster) -> None:
    roster.saw_elsewhere(Seen(LEAVES, 1.0, 0.5), now=1.0)
    roster.saw(LEAVES, 1.0, now=2.0)
    roster.gone_elsewhere("leaves")
    assert waits(roster, 3.0)


def test_a_worker_that_asks_another_process_has_not_left_with_its_session_here(roster: Roster) -> None:
    gone: list[str] = []
    roster.on_gone = gone.append
    roster.saw(LEAVES, 1.0, now=0.0)
    roster.saw_elsewhere(Seen(LEAVES, 1.0, 2.0), now=2.0)
    roster.hung_up("leaves")
    assert waits(roster, 3.0)
    roster.saw(LEAVES, 1.0, now=4.0)
    roster.hung_up("leaves")
    assert not waits(roster, 5.0)
    assert gone == ["leaves"]


def test_results_make_no_worker_this_process_s_own(roster: Roster) -> None:
    """They come to whichever process; the worker asks another one, and leaves there."""
    roster.saw_elsewhere(Seen(LEAVES, 1.0, 0.5), now=1.0)
    roster.heard("leaves", 50.0)
    assert waits(roster, 100.0)
    assert not roster.asks_here("leaves")


def test_a_farewell_that_comes_to_another_process_is_passed_on(roster: Roster) -> None:
    gone: list[str] = []
    roster.on_gone = gone.append
    roster.saw_elsewhere(Seen(LEAVES, 1.0, 0.5), now=1.0)
    roster.gone("leaves")
    assert gone == ["leaves"]
    assert not waits(roster)


def test_a_worker_that_says_the_same_to_another_process_asks_here_no_more(roster: Roster) -> None:
    assert roster.asks_here("stays")
    roster.saw_elsewhere(Seen(STAYS, 2.0, 0.5), now=1.0)
    assert not roster.asks_here("stays")


def test_cores_and_kinds_are_those_of_the_workers_however_they_come_and_change(roster: Roster) -> None:
    roster.saw(STAYS, 3.0, now=1.0)
    roster.saw(LEAVES, 1.0, now=1.0)
    roster.saw(STAYS, 1.0, now=2.0)  # what it asked for lately counts
    assert roster.load(2.0) == 4.0
    roster.saw(dataclasses.replace(LEAVES, capabilities=0), 1.0, now=3.0)
    assert not waits(roster)
    roster.saw(LEAVES, 1.0, now=4.0)
    assert waits(roster)
    assert roster.load(200.0) == 0.0
