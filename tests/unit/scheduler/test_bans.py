"""Who is kept from a job."""

from __future__ import annotations

from orchestrator.scheduler.bans import BanRules, Bans, Pair, judged

PAIR: Pair = (1, "w")
RULES = BanRules(failures=3, lasts_s=600)


def _judge(bans: Bans, outcomes: str, now: float) -> None:
    """F: a slice failed, S: one succeeded."""
    for one in outcomes:
        known = {} if (record := bans.record(PAIR)) is None else {PAIR: record}
        bans.change(judged(known, [PAIR] * (one == "F"), [PAIR] * (one == "S"), now, RULES))


def test_a_worker_that_fails_again_and_again_is_kept_from_the_job_for_a_while() -> None:
    bans = Bans(RULES)
    _judge(bans, "FF", 1.0)
    assert bans.of(1, 3.0) == frozenset()
    _judge(bans, "F", 3.0)
    assert bans.of(1, 4.0) == {"w"}
    assert bans.of(2, 4.0) == frozenset()
    assert bans.of(1, 604.0) == frozenset()


def test_what_is_long_ago_counts_no_more() -> None:
    bans = Bans(RULES)
    _judge(bans, "FF", 1.0)
    _judge(bans, "F", 700.0)
    assert bans.of(1, 701.0) == frozenset()


def test_whoever_computes_as_much_as_it_fails_is_not_banned() -> None:
    bans = Bans(RULES)
    _judge(bans, "FF", 0.0)
    assert bans.watches(1)
    _judge(bans, "SS", 1.0)
    assert not bans.watches(1)
    _judge(bans, "FFSF", 2.0)
    assert bans.of(1, 2.0) == {"w"}
    bans.forget(1)
    assert not bans.watches(1)


def test_all_of_one_batch_counts() -> None:
    changed = judged({}, [PAIR] * 4, [PAIR] * 3, 1.0, RULES)
    assert (record := changed[PAIR]) is not None
    assert (record.failures, record.successes, record.until) == (4, 3, 601.0)


def test_what_is_read_takes_the_place_of_what_was_known() -> None:
    bans = Bans(RULES)
    _judge(bans, "FFF", 1.0)
    bans.load([1], {})
    assert bans.of(1, 2.0) == frozenset()
