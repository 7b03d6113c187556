"""Servers that fail are left alone; what was fetched is kept for a while. All with a made-up clock."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.worker.fetching.backoff import FIRST_S, MOST_S, WISH_MOST_S, Backoff, retry_after
from orchestrator.worker.fetching.cache import Cache, age_s

AT = "https://a.example/x"


def test_the_pause_doubles_up_to_three_minutes():
    backoff, now, pauses = Backoff(), 100.0, []
    for _ in range(10):
        pauses.append(backoff.failed(AT, now, now))
        assert backoff.left(AT, now) == pauses[-1]
        assert backoff.left("https://b.example/x", now) == 0
        now += pauses[-1]
        assert backoff.left(AT, now) == 0
    assert pauses == [2, 4, 8, 16, 32, 64, 128, 180, 180, 180]


def test_requests_that_fail_together_count_once():
    backoff = Backoff()
    assert backoff.failed(AT, 10.0, 11.0) == 2
    assert backoff.failed(AT, 10.5, 12.0) == 1  # it was under way when the first one failed
    assert backoff.failed(AT, 13.0, 13.5) == 4


def test_success_ends_it_and_so_does_a_long_time():
    backoff = Backoff()
    backoff.failed(AT, 0.0, 0.0)
    backoff.succeeded(AT)
    assert backoff.left(AT, 0.0) == 0
    assert backoff.failed(AT, 1.0, 1.0) == 2
    assert backoff.failed(AT, 3.0, 3.0) == 4
    assert backoff.failed(AT, 1000.0, 1000.0) == 2


def test_a_servers_wish_is_granted_within_reason():
    backoff = Backoff()
    assert backoff.failed(AT, 0.0, 0.0, wish=30.0) == 30
    assert backoff.failed(AT, 40.0, 40.0, wish=1.0) == 4, "it may not shorten the pause"
    assert backoff.failed(AT, 50.0, 50.0, wish=1e9) == WISH_MOST_S


def test_what_is_remembered_is_bounded():
    backoff = Backoff()
    for number in range(1500):
        backoff.failed(f"https://{number}.example/", 0.0, 0.0)
    assert len(backoff.waiting(1.0)) == 1000


@given(st.lists(st.tuples(st.integers(0, 300), st.integers(0, 100), st.integers(0, 10**6)), max_size=40))
def test_no_pause_is_ever_longer_than_the_bound(steps):
    backoff, now = Backoff(), 0.0
    for wait, took, wish in steps:
        now += wait
        pause = backoff.failed(AT, now - took, now, wish)
        assert 0 <= pause <= max(MOST_S, WISH_MOST_S)
        assert backoff.left(AT, now) == pause
    assert backoff.left(AT, now + max(MOST_S, WISH_MOST_S)) == 0
    assert FIRST_S == 2.0


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        (None, None),
        ("120", 120.0),
        (" 7 ", 7.0),
        ("Wed, 21 Oct 2015 07:28:30 GMT", 30.0),
        ("Wed, 21 Oct 2015 07:27:00 GMT", 0.0),
        ("-5", None),
        ("soon", None),
        ("1e9", None),
        ("²", None),
        ("Wed, 99 Oct 2015 07:28:30 GMT", None),
    ],
)
def test_retry_after(header, seconds):
    assert retry_after(header, 1445412480.0) == seconds


# -- the cache


def test_what_was_fetched_is_kept_while_it_is_fresh():
    cache = Cache(1000)
    cache.put(("a",), "data:,1", until=10.0)
    assert cache.get(("a",), 9.0) == "data:,1"
    assert cache.get(("a",), 10.0) is None
    assert cache.statistics() == {"cached": 0, "cached_size": 0}


@given(st.lists(st.tuples(st.sampled_from("abcdefgh"), st.integers(0, 60), st.booleans()), max_size=60))
def test_the_cache_never_holds_more_than_it_may(steps):
    cache, known = Cache(100), {}
    for key, size, reads in steps:
        if reads:
            found = cache.get((key,), 0.0)
            assert found is None or found == known[key]
        else:
            known[key] = key * size
            cache.put((key,), known[key], until=1.0)
            assert (cache.get((key,), 0.0) is not None) == (size * 4 <= 100)
        assert 0 <= cache.statistics()["cached_size"] <= 100


def test_the_least_recently_used_goes_first():
    cache = Cache(100)
    for key in "abcd":
        cache.put((key,), key * 25, until=1.0)
    cache.get(("a",), 0.0)
    cache.put(("e",), "e" * 25, until=1.0)
    assert [key for key in "abcde" if cache.get((key,), 0.0)] == ["a", "c", "d", "e"]


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        ("", 600),
        ("public", 600),
        ("max-age=5", 5),
        ("private, MAX-AGE=99999999", 3600),
        ("no-store", 0),
        ("max-age=60, no-cache", 0),
        ("max-age=0", 0),
        ("max-age=x", 600),
    ],
)
def test_what_servers_say_about_keeping(header, seconds):
    assert age_s(header) == seconds
