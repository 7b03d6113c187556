"""What one network address, and one identity, may ask of a server: token buckets and counts, without I/O or clock.

Who sends faster than allowed is read more slowly: nothing of an honest peer is lost, and TCP keeps what it has yet to
say on its own machine. Requests beyond their rate are answered with an error, new connections beyond theirs refused.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator
from dataclasses import dataclass

from orchestrator.errors import OrchestratorError

__all__ = ["Bucket", "Guard", "GuardLimits", "TooMany", "TrustedProxies", "place_of"]

_MOST_BUCKETS = 50_000
_LONGEST_PAUSE = 10.0


class TooMany(OrchestratorError):
    """A limit per address or identity is reached; later it may work."""

    code = "EBUSY"
    retryable = True


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
    """Buckets by address and by identity, and the connections of each address."""

    def __init__(self, limits: GuardLimits, now: float) -> None:
        self.limits = limits
        self._connects: dict[str, Bucket] = {}
        self._messages: dict[str, Bucket] = {}
        self._characters: dict[str, Bucket] = {}
        self._requests: dict[str, Bucket] = {}
        self._open: dict[str, int] = {}
        self._now = now
        self.refused = 0
        self.paused = 0

    def connections(self, place: str) -> int:
        return self._open.get(place, 0)

    def admit(self, place: str, half_open: int, now: float) -> None:
        """A new connection of an address. Raises `TooMany`. `half_open`: those of its connections that have no session
        yet."""
        limits = self.limits
        problem = None
        if self.connections(place) >= limits.address_connections:
            problem = f"address {place} has {limits.address_connections} connections, as many as one may have"
        elif half_open >= limits.address_half_open:
            problem = f"{half_open} connections of address {place} have not opened a session yet"
        else:
            bucket = self._bucket(self._connects, place, limits.address_connects, limits.address_connects_burst, now)
            if not bucket.take(1, now):
                problem = f"address {place} connects more than {limits.address_connects:g} times a second"
        if problem is not None:
            self.refused += 1
            raise TooMany(f"{problem}; wait, then connect again")

    def opened(self, place: str) -> None:
        self._open[place] = self.connections(place) + 1

    def gone(self, place: str) -> None:
        left = self.connections(place) - 1
        if left > 0:
            self._open[place] = left
        else:
            self._open.pop(place, None)

    def received(self, place: str, identity: str | None, characters: int, now: float) -> float:
        """A packet came; seconds for which no more should be read from this connection."""
        limits = self.limits
        rate, burst = limits.address_messages, limits.address_messages_burst
        pause = self._bucket(self._messages, place, rate, burst, now).spend(1, now)
        # Before there is an identity the address answers for what it sends.
        who = identity or place
        rate, burst = limits.identity_characters, limits.identity_characters_burst
        pause = max(pause, self._bucket(self._characters, who, rate, burst, now).spend(characters, now))
        if identity is not None:
            rate, burst = limits.identity_messages, limits.identity_messages_burst
            pause = max(pause, self._bucket(self._messages, identity, rate, burst, now).spend(1, now))
        if pause > 0:
            self.paused += 1
        return min(pause, _LONGEST_PAUSE)

    def requested(self, identity: str, count: int, now: float) -> None:
        """Requests of an identity came. Raises `TooMany`: they must be answered with it."""
        rate, burst = self.limits.identity_requests, self.limits.identity_requests_burst
        if not self._bucket(self._requests, identity, rate, burst, now).take(count, now):
            self.refused += count
            raise TooMany(f"{identity} sends more than {rate:g} requests a second; send them again, more slowly")

    def sweep(self, now: float) -> None:
        """Forget who has been quiet."""
        for buckets in self._all():
            for name in [name for name, bucket in buckets.items() if bucket.is_full(now)]:
                del buckets[name]

    def _bucket(self, buckets: dict[str, Bucket], name: str, rate: float, burst: float, now: float) -> Bucket:
        bucket = buckets.get(name)
        if bucket is None:
            if len(buckets) >= _MOST_BUCKETS:
                # The one longest known: whoever invents identities pushes out their own.
                del buckets[next(iter(buckets))]
            bucket = buckets[name] = Bucket(rate, burst, now)
        return bucket

    def _all(self) -> Iterator[dict[str, Bucket]]:
        yield from (self._connects, self._messages, self._characters, self._requests)

    def validate(self) -> None:
        """Check all invariants; raise `AssertionError`."""
        assert all(count > 0 for count in self._open.values())
        for buckets in self._all():
            assert len(buckets) <= _MOST_BUCKETS
            for bucket in buckets.values():
                bucket.validate()


def place_of(address: str | None) -> str:
    """What counts as one place: an IPv4 address, or the /64 that a machine with IPv6 has for itself."""
    try:
        parsed = ipaddress.ip_address((address or "").partition("%")[0])
    except ValueError:
        return "unknown"
    if isinstance(parsed, ipaddress.IPv6Address):
        if parsed.ipv4_mapped is not None:
            return str(parsed.ipv4_mapped)
        return str(ipaddress.ip_network((parsed, 64), strict=False))
    return str(parsed)


class TrustedProxies:
    """Which addresses are believed about whom they speak for."""

    def __init__(self, networks: tuple[str, ...] = ()) -> None:
        """Raises ValueError for what is no address or network."""
        self._networks = tuple(ipaddress.ip_network(one, strict=False) for one in networks)

    def trusts(self, address: str | None) -> bool:
        try:
            parsed = ipaddress.ip_address((address or "").partition("%")[0])
        except ValueError:
            return False
        if isinstance(parsed, ipaddress.IPv6Address) and parsed.ipv4_mapped is not None:
            parsed = parsed.ipv4_mapped
        return any(parsed in network for network in self._networks)

    def client(self, remote: str | None, forwarded_for: str) -> str | None:
        """The address of the client. `forwarded_for` (X-Forwarded-For) grows at its end: what the last trusted proxy
        has written there is true, and what stands before it anybody may have written."""
        address = remote
        for hop in reversed(forwarded_for.split(",")):
            if not self.trusts(address) or not hop.strip():
                break
            address = hop.strip()
        return address
