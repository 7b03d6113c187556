"""What one network address, and one identity, may ask of a server: token buckets and counts, without I/O or clock.

Who sends faster than allowed is read more slowly: nothing of an honest peer is lost, and TCP keeps what it has yet to
say on its own machine. Requests beyond their rate are answered with an error, new connections beyond theirs refused.
Who sends again and again what no honest peer sends is banned for a while: its address opens no new connections, and
those without a session are closed. Sessions that live go on, because an address may be that of many. An identity that
has signed such things loses its sessions and opens no new ones.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from orchestrator import telemetry
from orchestrator.errors import OrchestratorError
from orchestrator.protocol.bans import Ban, Bans, kind_of
from orchestrator.protocol.holdings import Holdings

__all__ = ["NOTHING", "Arrived", "Banned", "Bucket", "Guard", "GuardLimits", "Spent", "Standing", "TooMany"]

_MOST_BUCKETS = 50_000
_LONGEST_PAUSE = 10.0
_NOTICED = 0.02
_CONNECT, _MESSAGE, _OFFENCE = range(3)
"""places of the fields of `Arrived`"""


class TooMany(OrchestratorError):
    """A limit per address or identity is reached; later it may work."""

    code = "EBUSY"
    retryable = True

    def __init__(self, message: str, why: str = "limit") -> None:
        """`why` is a word of a few: metrics count by it."""
        super().__init__(message)
        self.why = why


class Banned(TooMany):
    """The address has sent too much that no honest peer sends."""


@dataclass(frozen=True)
class GuardLimits:
    """Rates are per second; a burst is what may come at once after a quiet time. Sizes in characters."""

    address_connections: int = 5_000
    address_half_open: int = 1_000
    address_connects: float = 500
    address_connects_burst: float = 5_000
    address_messages: float = 20_000
    address_messages_burst: float = 100_000
    identity_sessions: int = 2_000
    identity_messages: float = 5_000
    identity_messages_burst: float = 20_000
    identity_requests: float = 20_000
    identity_requests_burst: float = 100_000
    identity_characters: float = 256 * 1024 * 1024
    identity_characters_burst: float = 1024 * 1024 * 1024
    # Offences: malformed or forged messages, connections beyond the rate. Beyond these the address is banned.
    address_offences: float = 5
    address_offences_burst: float = 200
    ban_s: float = 60
    # What an identity has signed in an established session in breach of the protocol. Beyond these it is banned.
    identity_offences: float = 1
    identity_offences_burst: float = 40
    identity_ban_s: float = 600
    # Characters held for peers: unfinished messages, requests without answer, answers that are not taken yet.
    identity_held: int = 512 * 1024 * 1024
    address_held: int = 1024 * 1024 * 1024
    all_held: int = 2 * 1024 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Spent:
    """What an identity used at one server."""

    messages: int
    requests: int
    characters: int

    def plus(self, more: Spent) -> Spent:
        return Spent(self.messages + more.messages, self.requests + more.requests, self.characters + more.characters)


@dataclass(frozen=True, slots=True)
class Arrived:
    """What came from an address at one server."""

    connects: int = 0
    messages: int = 0
    offences: int = 0


@dataclass(frozen=True, slots=True)
class Standing:
    """What an address has at servers now."""

    connections: int = 0
    half_open: int = 0
    held: int = 0


NOTHING = Standing()


class Bucket:
    """Fills with `rate` tokens per second up to `burst`. It may go into debt, which takes time to pay off."""

    __slots__ = ("_at", "_level", "burst", "rate")

    def __init__(self, rate: float, burst: float, now: float) -> None:
        self.rate = rate
        self.burst = burst
        self._level = burst
        self._at = now

    def _fill(self, now: float) -> None:
        # A clock that was set back gives nothing and takes nothing.
        self._level = min(self.burst, self._level + max(0.0, now - self._at) * self.rate)
        self._at = now

    def spend(self, amount: float, now: float) -> float:
        """Take tokens that were used already; seconds until the debt is paid, 0 when there is none."""
        self._fill(now)
        self._level -= amount
        return max(0.0, -self._level / self.rate)

    def take(self, amount: float, now: float) -> bool:
        """Take tokens if there are so many. More than a burst can be taken when the bucket is full: it goes into
        debt, or it could never be taken."""
        self._fill(now)
        if self._level < min(amount, self.burst):
            return False
        self._level -= amount
        return True

    def is_full(self, now: float) -> bool:
        """Whether it can be forgotten: a new one would be the same."""
        self._fill(now)
        return self._level >= self.burst

    def validate(self) -> None:
        assert self._level <= self.burst


class Guard:
    """Buckets by address and by identity, the connections of each address, what is held for it, and who is banned."""

    def __init__(self, limits: GuardLimits, now: float) -> None:
        self.limits = limits
        self._connects: dict[str, Bucket] = {}
        self._messages: dict[str, Bucket] = {}
        self._characters: dict[str, Bucket] = {}
        self._requests: dict[str, Bucket] = {}
        self._offences: dict[str, Bucket] = {}
        self._breaches: dict[str, Bucket] = {}
        """offences of identities: apart, so that whoever invents identities makes no address forgotten"""
        self._open: Counter[str] = Counter()
        self._half_open: Counter[str] = Counter()
        self._established: Counter[str] = Counter()
        self._now = now
        self.holdings = Holdings(limits)
        self.bans = Bans()
        self.refused = 0
        self.paused = 0
        self.is_shared = False
        """other servers are told what identities use here: see `take_spent`"""
        self._spent: dict[str, Spent] = {}
        self._arrived: dict[str, list[int]] = {}
        self.elsewhere: Callable[[str], Standing] = lambda _place: NOTHING
        """what an address has at other servers"""
        self.holdings.held_elsewhere = lambda place: self.elsewhere(place).held

    def connections(self, place: str) -> int:
        """At all servers."""
        return self._open.get(place, 0) + self.elsewhere(place).connections

    def standing(self) -> dict[str, Standing]:
        """What addresses have here, of those that have a noticeable part of what they may."""
        limits = self.limits
        least = [
            max(2, round(_NOTICED * most))
            for most in (limits.address_connections, limits.address_half_open, limits.address_held)
        ]
        found = {}
        for place in self._open.keys() | self._half_open.keys() | self.holdings.places:
            one = Standing(self._open.get(place, 0), self._half_open.get(place, 0), self.holdings.of(place))
            if any(has >= some for has, some in zip((one.connections, one.half_open, one.held), least, strict=True)):
                found[place] = one
        return found

    def has_session(self, place: str) -> bool:
        return place in self._established

    def admit(self, place: str, now: float) -> None:
        """A new connection of an address. Raises `TooMany`; those that come too fast (`why` is "rate") are offences."""
        limits = self.limits
        self.check_ban(place, now)
        problem, why = None, ""
        if self.connections(place) >= limits.address_connections:
            problem = f"address {place} has {limits.address_connections} connections, as many as one may have"
            why = "connections"
        else:
            bucket = self._bucket(self._connects, place, limits.address_connects, limits.address_connects_burst, now)
            if not bucket.take(1, now):
                problem, why = f"address {place} connects more than {limits.address_connects:g} times a second", "rate"
            elif self.is_shared:
                self._note_arrival(place, _CONNECT)
        if problem is not None:
            self.refused += 1
            raise TooMany(f"{problem}; wait, then connect again", why)

    def check_sockets(self, place: str) -> None:
        """May one more socket of an address open a session? Raises `TooMany`.

        A connection that polls may have many: they count as if each was a connection.
        """
        half_open = self._half_open.get(place, 0) + self.elsewhere(place).half_open
        if half_open + self._established.get(place, 0) >= self.limits.address_connections:
            self.refused += 1
            raise TooMany(
                f"address {place} has {self.limits.address_connections} connections, as many as one may have; wait, "
                "then connect again",
                "connections",
            )
        if half_open >= self.limits.address_half_open:
            self.refused += 1
            raise TooMany(
                f"{half_open} connections of address {place} have not opened a session yet; wait, then connect again",
                "half_open",
            )

    def check_ban(self, subject: str, now: float) -> None:
        """Of an address or an identity. Raises `Banned`."""
        ban = self.bans.find(subject, now)
        if ban is None:
            return
        self.refused += 1
        left = max(1, round(ban.until - now))
        what = "new sessions are" if kind_of(subject) == "identity" else "new connections are"
        raise Banned(f"{kind_of(subject)} {subject} is banned ({ban.reason}); {what} refused for {left} s", "banned")

    def offend(self, subject: str, what: str, now: float) -> bool:
        """An address has sent, or an identity provably signed, what no honest peer does. Whether it is banned now, and
        was not before."""
        limits, kind = self.limits, kind_of(subject)
        telemetry.offences.add(1, {"of": kind})
        if kind == "identity":
            buckets, ban_s = self._breaches, limits.identity_ban_s
            rate, burst = limits.identity_offences, limits.identity_offences_burst
        else:
            buckets, ban_s = self._offences, limits.ban_s
            rate, burst = limits.address_offences, limits.address_offences_burst
        if ban_s <= 0 or self.bans.find(subject, now) is not None:
            return False
        if self.is_shared and kind == "address":
            self._note_arrival(subject, _OFFENCE)
        if self._bucket(buckets, subject, rate, burst, now).take(1, now):
            return False
        self.bans.begin(Ban(subject, now + ban_s, f"too many offences, the last: {what}"))
        return True

    def lift(self, subject: str) -> bool:
        """End a ban, and forget the offences that led to it. Whether there was one."""
        self._offences.pop(subject, None)
        self._breaches.pop(subject, None)
        return self.bans.lift(subject)

    def opened(self, place: str) -> None:
        """A connection."""
        self._open[place] += 1

    def gone(self, place: str) -> None:
        _less(self._open, place)

    def socket_opened(self, place: str) -> None:
        """A socket that has no session yet."""
        self._half_open[place] += 1

    def socket_established(self, place: str) -> None:
        _less(self._half_open, place)
        self._established[place] += 1

    def socket_gone(self, place: str, *, is_established: bool) -> None:
        _less(self._established if is_established else self._half_open, place)

    def received(self, place: str, identity: str | None, characters: int, now: float) -> float:
        """A packet came; seconds for which no more should be read from this connection."""
        limits = self.limits
        rate, burst = limits.address_messages, limits.address_messages_burst
        pause = self._bucket(self._messages, place, rate, burst, now).spend(1, now)
        if self.is_shared:
            self._note_arrival(place, _MESSAGE)
        # Before there is an identity the address answers for what it sends.
        who = identity or place
        rate, burst = limits.identity_characters, limits.identity_characters_burst
        pause = max(pause, self._bucket(self._characters, who, rate, burst, now).spend(characters, now))
        if identity is not None:
            rate, burst = limits.identity_messages, limits.identity_messages_burst
            pause = max(pause, self._bucket(self._messages, identity, rate, burst, now).spend(1, now))
            if self.is_shared:
                self._note(identity, Spent(1, 0, characters))
        if pause > 0:
            self.paused += 1
        return min(pause, _LONGEST_PAUSE)

    def requested(self, identity: str, count: int, now: float) -> None:
        """Requests of an identity came. Raises `TooMany`: they must be answered with it."""
        rate, burst = self.limits.identity_requests, self.limits.identity_requests_burst
        if not self._bucket(self._requests, identity, rate, burst, now).take(count, now):
            self.refused += count
            raise TooMany(
                f"{identity} sends more than {rate:g} requests a second; send them again, more slowly", "rate"
            )
        if self.is_shared:
            self._note(identity, Spent(0, count, 0))

    def _note(self, identity: str, spent: Spent) -> None:
        before = self._spent.get(identity)
        if before is None and len(self._spent) >= _MOST_BUCKETS:
            return
        self._spent[identity] = spent if before is None else before.plus(spent)

    def _note_arrival(self, place: str, what: int) -> None:
        """One more of its kind."""
        counts = self._arrived.get(place)
        if counts is None:
            if len(self._arrived) >= _MOST_BUCKETS:
                return
            counts = self._arrived[place] = [0, 0, 0]
        counts[what] += 1

    def take_arrived(self) -> dict[str, Arrived]:
        """What came from addresses since this was asked last: a noticeable part only of what may come in a second."""
        limits = self.limits
        arrived, self._arrived = {place: Arrived(*counts) for place, counts in self._arrived.items()}, {}
        return {
            place: one
            for place, one in arrived.items()
            if one.connects >= _NOTICED * limits.address_connects
            or one.messages >= _NOTICED * limits.address_messages
            or one.offences >= _NOTICED * limits.address_offences
        }

    def charge_address(self, place: str, arrived: Arrived, now: float) -> None:
        """That came from an address at another server, which counts here, too."""
        limits = self.limits
        for buckets, amount, rate, burst in (
            (self._connects, arrived.connects, limits.address_connects, limits.address_connects_burst),
            (self._messages, arrived.messages, limits.address_messages, limits.address_messages_burst),
            (self._offences, arrived.offences, limits.address_offences, limits.address_offences_burst),
        ):
            if amount:
                self._bucket(buckets, place, rate, burst, now).spend(amount, now)

    def take_spent(self) -> dict[str, Spent]:
        """What identities used since this was asked last: those only that used a noticeable part of what they may in a
        second."""
        limits = self.limits
        spent, self._spent = self._spent, {}
        return {
            identity: one
            for identity, one in spent.items()
            if one.messages >= _NOTICED * limits.identity_messages
            or one.requests >= _NOTICED * limits.identity_requests
            or one.characters >= _NOTICED * limits.identity_characters
        }

    def charge(self, identity: str, spent: Spent, now: float) -> None:
        """An identity has used that at another server, which counts here, too."""
        limits = self.limits
        rate, burst = limits.identity_messages, limits.identity_messages_burst
        self._bucket(self._messages, identity, rate, burst, now).spend(spent.messages, now)
        rate, burst = limits.identity_requests, limits.identity_requests_burst
        self._bucket(self._requests, identity, rate, burst, now).spend(spent.requests, now)
        rate, burst = limits.identity_characters, limits.identity_characters_burst
        self._bucket(self._characters, identity, rate, burst, now).spend(spent.characters, now)

    def sweep(self, now: float) -> None:
        """Forget who has been quiet."""
        for buckets in self._all():
            for name in [name for name, bucket in buckets.items() if bucket.is_full(now)]:
                del buckets[name]
        self.bans.sweep(now)

    def _bucket(self, buckets: dict[str, Bucket], name: str, rate: float, burst: float, now: float) -> Bucket:
        bucket = buckets.get(name)
        if bucket is None:
            if len(buckets) >= _MOST_BUCKETS:
                # The one longest known: whoever invents identities pushes out their own.
                del buckets[next(iter(buckets))]
            bucket = buckets[name] = Bucket(rate, burst, now)
        return bucket

    def _all(self) -> Iterator[dict[str, Bucket]]:
        yield from (
            self._connects, self._messages, self._characters, self._requests, self._offences, self._breaches,
        )  # fmt: skip

    def validate(self) -> None:
        """Check all invariants; raise `AssertionError`."""
        for counts in (self._open, self._half_open, self._established):
            assert all(count > 0 for count in counts.values())
        self.bans.validate()
        self.holdings.validate()
        for buckets in self._all():
            assert len(buckets) <= _MOST_BUCKETS
            for bucket in buckets.values():
                bucket.validate()


def _less(counts: Counter[str], name: str) -> None:
    counts[name] -= 1
    if counts[name] <= 0:
        del counts[name]
