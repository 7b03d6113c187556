"""The book of who is banned."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from orchestrator.protocol import bans
from orchestrator.protocol.bans import Ban, Bans
from orchestrator.protocol.guard import Guard, GuardLimits

ME = "0x" + "1" * 40


def test_a_ban_ends_by_itself_and_can_be_lifted() -> None:
    book = Bans()
    book.begin(Ban("192.0.2.1", 10.0, "rubbish"))
    book.learn(Ban(ME, 20.0, "by the operator"))
    assert book.count() == {"address": 1, "identity": 1}
    assert book.find("192.0.2.1", 9.9) is not None
    assert book.find("192.0.2.1", 10.0) is None
    assert len(book) == 1
    assert book.lift(ME)
    assert not book.lift(ME)
    book.validate()


def test_what_began_here_is_to_be_told_once() -> None:
    book, rung = Bans(), []
    book.on_begin = lambda: rung.append(1)
    book.begin(Ban("192.0.2.1", 10.0, "rubbish"))
    book.learn(Ban("192.0.2.2", 10.0, "heard of"))
    book.begin(Ban("192.0.2.3", 10.0, "rubbish"))
    book.lift("192.0.2.3")
    assert [ban.subject for ban in book.take_begun()] == ["192.0.2.1"]
    assert book.take_begun() == []
    assert (book.total, len(rung)) == (2, 2)


@given(st.lists(st.tuples(st.sampled_from("abcdefgh"), st.booleans(), st.floats(0, 20)), max_size=60))
def test_it_stays_small(steps: list[tuple[str, bool, float]]) -> None:
    most, bans.MOST = bans.MOST, 4
    try:
        book = Bans()
        for subject, begins, until in steps:
            (book.begin if begins else book.learn)(Ban(subject, until, "x"))
            book.validate()
            assert subject in {ban.subject for ban in book}
        book.sweep(10.0)
        assert all(ban.until > 10 for ban in book)
    finally:
        bans.MOST = most


def test_a_lifted_ban_does_not_come_back_with_the_next_offence() -> None:
    guard = Guard(GuardLimits(address_offences=0.01, address_offences_burst=3, ban_s=60), 0.0)
    while not guard.offend("a", "rubbish", 0.0):
        pass
    assert guard.lift("a")
    assert not guard.offend("a", "rubbish", 1.0)
    guard.admit("a", 1.0)
