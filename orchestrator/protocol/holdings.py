"""Characters that are held for peers: for an identity, for an address, and for all of them. Without I/O or clock."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Protocol

__all__ = ["Hold", "HoldingLimits", "Holdings"]


class HoldingLimits(Protocol):
    @property
    def identity_held(self) -> int: ...

    @property
    def address_held(self) -> int: ...

    @property
    def all_held(self) -> int: ...


class Holdings:
    """Characters that are held for identities, addresses and all peers together."""

    def __init__(self, limits: HoldingLimits) -> None:
        self._limits = limits
        self._of: Counter[str] = Counter()
        self.places: set[str] = set()
        """addresses that something is held for"""
        self.total = 0
        self.held_elsewhere: Callable[[str], int] = lambda _place: 0
        """characters that other servers hold for an address"""

    def of(self, name: str) -> int:
        return self._of.get(name, 0)

    def add(self, place: str | None, identity: str | None, characters: int) -> None:
        """Also less than nothing: what is not held any more."""
        self.total += characters
        for name in (place, identity):
            if name is not None:
                held = self._of[name] + characters
                if held:
                    self._of[name] = held
                else:
                    del self._of[name]
        if place is not None:
            (self.places.add if place in self._of else self.places.discard)(place)

    def excess(self, place: str | None, identity: str | None) -> str | None:
        """Which limit is exceeded, in words; None when none is."""
        limits = self._limits
        if identity is not None and self.of(identity) > limits.identity_held:
            return f"more than {limits.identity_held} characters are held for {identity}"
        if place is not None and self.of(place) + self.held_elsewhere(place) > limits.address_held:
            return f"more than {limits.address_held} characters are held for address {place}"
        if self.total > limits.all_held:
            return f"more than {limits.all_held} characters are held for all peers"
        return None

    def validate(self) -> None:
        assert all(self._of.values())
        assert all(self.of(place) for place in self.places)
        assert self.total >= 0


class Hold:
    """One thing that is held for a peer: it grows and shrinks, and may turn out to be somebody else's."""

    __slots__ = ("_holdings", "_place", "identity", "size")

    def __init__(self, holdings: Holdings, place: str | None = None) -> None:
        self._holdings = holdings
        self._place = place
        self.identity: str | None = None
        self.size = 0

    def set(self, size: int, identity: str | None) -> None:
        if identity != self.identity:
            self._holdings.add(self._place, self.identity, -self.size)
            self.identity, self.size = identity, 0
        if size != self.size:
            self._holdings.add(self._place, identity, size - self.size)
            self.size = size

    def excess(self) -> str | None:
        """See `Holdings.excess`."""
        return self._holdings.excess(self._place, self.identity)
