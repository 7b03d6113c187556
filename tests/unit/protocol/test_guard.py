"""Rates and counts per address and identity."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.protocol.guard import NOTHING, Arrived, Banned, Bucket, Guard, GuardLimits, Standing, TooMany
from orchestrator.protocol.holdings import Hold, Holdings
from orchestrator.protocol.places import TrustedProxies, place_of

ME = "0x" + "1" * 40


@given(st.lists(st.tuples(st.floats(0, 5), st.integers(1, 20)), max_size=60))
def test_a_bucket_gives_no_more_than_its_rate_and_burst(steps: list[tuple[float, int]]) -> None:
    bucket = Bucket(rate=10, burst=30, now=0.0)
    now = given_out = 0.0
    for wait, amount in steps:
        now += wait
        if bucket.take(amount, now):
            given_out += amount
        bucket.validate()
        assert given_out <= 30 + 10 * now + 1e-6


@given(st.lists(st.tuples(st.floats(0, 1), st.integers(1, 50)), min_size=1, max_size=60))
def test_who_waits_as_told_stays_within_the_rate(steps: list[tuple[float, int]]) -> None:
    bucket = Bucket(rate=10, burst=30, now=0.0)
    now = spent = 0.0
    for wait, amount in steps:
        now += wait
        now += bucket.spend(amount, now)
        spent += amount
        assert spent <= 30 + 10 * now + 1e-6


def test_a_request_larger_than_the_burst_is_taken_by_a_full_bucket() -> None:
    bucket = Bucket(rate=1, burst=5, now=0.0)
    assert bucket.take(8, 0.0)
    assert not bucket.take(1, 3.5)
    assert bucket.take(1, 4.0)


def test_a_clock_that_was_set_back_gives_nothing() -> None:
    bucket = Bucket(rate=1, burst=5, now=100.0)
    assert bucket.take(5, 100.0)
    assert not bucket.take(1, 50.0)
    assert bucket.take(1, 51.0)


def test_connections_of_an_address() -> None:
    guard = Guard(GuardLimits(address_connections=2), 0.0)
    for _ in range(2):
        guard.admit("a", 0.0)
        guard.opened("a")
    with pytest.raises(TooMany, match="address a has 2 connections"):
        guard.admit("a", 0.0)
    guard.admit("b", 0.0)
    guard.gone("a")
    guard.admit("a", 0.0)
    guard.validate()


def test_sockets_without_a_session() -> None:
    guard = Guard(GuardLimits(address_half_open=2), 0.0)
    for _ in range(2):
        guard.check_sockets("a")
        guard.socket_opened("a")
    with pytest.raises(TooMany, match="2 connections of address a have not opened a session yet"):
        guard.check_sockets("a")
    assert not guard.has_session("a")
    guard.socket_established("a")
    guard.check_sockets("a")
    assert guard.has_session("a")
    guard.socket_gone("a", is_established=True)
    assert not guard.has_session("a")
    guard.socket_gone("a", is_established=False)
    guard.validate()
    assert not guard._half_open


def test_connecting_too_often() -> None:
    guard = Guard(GuardLimits(address_connects=1, address_connects_burst=3), 0.0)
    for _ in range(3):
        guard.admit("a", 0.0)
    with pytest.raises(TooMany, match="more than 1 times a second"):
        guard.admit("a", 0.5)
    guard.admit("a", 1.5)


def test_an_address_that_offends_again_and_again_is_banned_for_a_while() -> None:
    guard = Guard(GuardLimits(address_offences=1, address_offences_burst=3, ban_s=10), 0.0)
    assert [guard.offend("a", "x", 0.0) for _ in range(3)] == [False, False, False]
    guard.admit("a", 0.0)
    assert guard.offend("a", "rubbish", 0.0)
    assert not guard.offend("a", "x", 0.0)  # it is already
    with pytest.raises(
        Banned, match=r"address a is banned \(too many offences, the last: rubbish\); .* refused for 7 s"
    ):
        guard.admit("a", 3.0)
    guard.admit("b", 3.0)
    assert guard.bans.total == 1
    guard.admit("a", 10.0)
    guard.validate()


def test_now_and_then_an_offence_bans_nobody() -> None:
    guard = Guard(GuardLimits(address_offences=1, address_offences_burst=3), 0.0)
    assert not any(guard.offend("a", "x", float(now)) for now in range(1000))
    unbanning = Guard(GuardLimits(ban_s=0, address_offences=1, address_offences_burst=1), 0.0)
    assert not any(unbanning.offend("a", "x", 0.0) for _ in range(1000))


@given(st.lists(st.tuples(st.sampled_from("ab"), st.sampled_from(["x", "y", None]), st.integers(0, 100)), max_size=40))
def test_what_is_held_adds_up(steps: list[tuple[str, str | None, int]]) -> None:
    holdings = Holdings(GuardLimits(identity_held=100, address_held=150, all_held=200))
    holds = {place: Hold(holdings, place) for place in "ab"}
    for place, identity, size in steps:
        holds[place].set(size, identity)
        holdings.validate()
        assert holdings.total == sum(hold.size for hold in holds.values())
        for name in "xy":
            assert holdings.of(name) == sum(hold.size for hold in holds.values() if hold.identity == name)
    for hold in holds.values():
        hold.set(0, None)
    assert holdings.total == 0
    assert not holdings._of


def test_which_limit_is_exceeded_is_said() -> None:
    holdings = Holdings(GuardLimits(identity_held=100, address_held=150, all_held=200))
    holdings.add("a", "x", 101)
    assert holdings.excess("a", "x") == "more than 100 characters are held for x"
    assert holdings.excess("a", None) is None
    holdings.add("a", "y", 50)
    assert holdings.excess("a", "y") == "more than 150 characters are held for address a"
    assert holdings.excess("b", "y") is None
    holdings.add("b", None, 50)
    assert holdings.excess("b", None) == "more than 200 characters are held for all peers"


def test_messages_beyond_the_rate_are_read_later() -> None:
    guard = Guard(GuardLimits(identity_messages=10, identity_messages_burst=2), 0.0)
    assert [guard.received("a", ME, 1, 0.0) for _ in range(3)] == [0.0, 0.0, pytest.approx(0.1)]
    assert guard.received("a", "0x2", 1, 0.0) == 0.0
    assert guard.paused == 1


def test_characters_beyond_the_rate_are_read_later_and_nobody_waits_for_ever() -> None:
    guard = Guard(GuardLimits(identity_characters=100, identity_characters_burst=100), 0.0)
    assert guard.received("a", ME, 150, 0.0) == pytest.approx(0.5)
    assert guard.received("a", None, 1_000_000, 0.0) == 10.0


def test_requests_beyond_the_rate_are_refused_with_the_reason() -> None:
    guard = Guard(GuardLimits(identity_requests=10, identity_requests_burst=20), 0.0)
    guard.requested(ME, 20, 0.0)
    with pytest.raises(TooMany, match=f"{ME} sends more than 10 requests a second") as caught:
        guard.requested(ME, 5, 0.1)
    assert caught.value.code == "EBUSY"
    guard.requested(ME, 5, 0.5)


def test_what_came_elsewhere_counts_here() -> None:
    guard = Guard(GuardLimits(address_connects=1, address_connects_burst=10, address_offences_burst=5), 0.0)
    guard.charge_address("a", Arrived(connects=10, messages=0, offences=5), 0.0)
    with pytest.raises(TooMany, match="connects more than 1 times a second"):
        guard.admit("a", 0.0)
    assert guard.offend("a", "rubbish", 0.0)
    assert guard._messages == {}
    guard.admit("b", 0.0)
    guard.validate()


def test_what_an_address_has_elsewhere_counts_here() -> None:
    limits = GuardLimits(address_connections=10, address_half_open=4, address_held=100)
    guard = Guard(limits, 0.0)
    guard.elsewhere = {"a": Standing(9, 2, 60), "b": NOTHING}.__getitem__
    for place in "ab":
        guard.admit(place, 0.0)
        guard.check_sockets(place)
        for _ in range(2):
            guard.opened(place)
            guard.socket_opened(place)
        guard.holdings.add(place, None, 50)
    with pytest.raises(TooMany, match="address a has 10 connections"):
        guard.admit("a", 0.0)
    with pytest.raises(TooMany, match="4 connections of address a have not opened a session"):
        guard.check_sockets("a")
    assert guard.holdings.excess("a", None) == "more than 100 characters are held for address a"
    guard.admit("b", 0.0)
    guard.check_sockets("b")
    assert guard.holdings.excess("b", None) is None


def test_only_what_is_noticeable_is_told() -> None:
    limits = GuardLimits(address_connections=100, address_half_open=100, address_messages=100, address_held=1000)
    guard = Guard(limits, 0.0)
    guard.is_shared = True
    for place, often in (("a", 1), ("b", 5)):
        for _ in range(often):
            guard.received(place, None, 1, 0.0)
            guard.opened(place)
    guard.holdings.add("c", None, 20)
    assert guard.take_arrived() == {"b": Arrived(0, 5, 0)}
    assert guard.take_arrived() == {}
    assert guard.standing() == {"b": Standing(5, 0, 0), "c": Standing(0, 0, 20)}
    guard.offend("a", "rubbish", 0.0)
    guard.offend(ME, "rubbish", 0.0)
    assert guard.take_arrived() == {"a": Arrived(0, 0, 1)}
    guard.validate()


def test_identities_are_banned_for_what_they_sign_and_addresses_are_not() -> None:
    guard = Guard(GuardLimits(identity_offences=0.1, identity_offences_burst=3, identity_ban_s=60), 0.0)
    assert [guard.offend(ME, "rubbish", 0.0) for _ in range(5)] == [False, False, False, True, False]
    with pytest.raises(Banned, match=r"identity 0x1+ is banned .*; new sessions are refused for 60 s"):
        guard.check_ban(ME, 0.0)
    assert guard.lift(ME)
    assert not guard.offend(ME, "rubbish", 0.0)
    assert guard._offences == {}
    for number in range(60_000):
        guard.offend(f"0x{number}", "rubbish", 0.0)
    guard.offend("a", "rubbish", 0.0)
    guard.validate()


def test_an_honest_worker_never_meets_the_defaults() -> None:
    """5,000 results a second in batches, for a minute, beside as many events from its address."""
    guard = Guard(GuardLimits(), 0.0)
    for tick in range(60 * 100):
        now = tick / 100
        guard.requested(ME, 50, now)
        for _ in range(20):
            assert guard.received("127.0.0.1", ME, 20_000, now) == 0.0


def test_the_quiet_are_forgotten() -> None:
    guard = Guard(GuardLimits(), 0.0)
    guard.received("a", ME, 10, 0.0)
    guard.requested(ME, 1, 0.0)
    assert any(guard._all())
    guard.sweep(60.0)
    assert not any(guard._all())


def test_invented_identities_take_bounded_room() -> None:
    guard = Guard(GuardLimits(), 0.0)
    for number in range(60_000):
        guard.received("a", f"0x{number}", 1, 0.0)
    guard.validate()


@pytest.mark.parametrize(
    ("address", "place"),
    [
        ("10.0.0.1", "10.0.0.1"),
        ("::ffff:10.0.0.1", "10.0.0.1"),
        ("2001:db8:1:2:3::4", "2001:db8:1:2::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("nonsense", "unknown"),
        (None, "unknown"),
    ],
)
def test_places(address: str | None, place: str) -> None:
    assert place_of(address) == place


def test_only_trusted_hops_are_believed() -> None:
    proxies = TrustedProxies(("10.0.0.0/8", "192.168.1.1"))
    assert proxies.client("10.1.1.1", "6.6.6.6, 8.8.8.8") == "8.8.8.8"
    assert proxies.client("10.1.1.1", "8.8.8.8, 192.168.1.1") == "8.8.8.8"
    assert proxies.client("9.9.9.9", "8.8.8.8") == "9.9.9.9"
    assert proxies.client("10.1.1.1", "") == "10.1.1.1"
    assert not TrustedProxies().trusts("127.0.0.1")
    with pytest.raises(ValueError, match="does not appear to be"):
        TrustedProxies(("proxy.example",))
