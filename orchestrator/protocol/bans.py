"""Who is banned, until when and why: addresses and identities. Without I/O or clock."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

from orchestrator import telemetry

__all__ = ["Ban", "Bans", "kind_of"]

MOST = 50_000

Kind = Literal["address", "identity"]


@dataclass(frozen=True, slots=True)
class Ban:
    """Times are those of the server's monotonic clock, in seconds."""

    subject: str
    """an address as `place_of` writes it, or an identity's checksummed address"""
    until: float
    reason: str


class Bans:
    """`begin` bans and is to be told to others (`take_begun`); `learn` takes what others have told."""

    def __init__(self) -> None:
        self._bans: dict[str, Ban] = {}
        self._begun: dict[str, Ban] = {}
        self.total = 0
        """how many have begun here"""
        self.on_begin: Callable[[], object] = lambda: None

    def __len__(self) -> int:
        return len(self._bans)

    def __iter__(self) -> Iterator[Ban]:
        return iter(self._bans.values())

    def begin(self, ban: Ban) -> None:
        self.learn(ban)
        self._begun[ban.subject] = ban
        if len(self._begun) > MOST:
            del self._begun[next(iter(self._begun))]
        self.total += 1
        telemetry.bans_made.add(1, {"of": kind_of(ban.subject)})
        self.on_begin()

    def learn(self, ban: Ban) -> None:
        self._bans.pop(ban.subject, None)
        if len(self._bans) >= MOST:
            # The one longest known: whoever has many addresses pushes out their own.
            del self._bans[next(iter(self._bans))]
        self._bans[ban.subject] = ban

    def lift(self, subject: str) -> bool:
        """Whether it was banned."""
        self._begun.pop(subject, None)
        return self._bans.pop(subject, None) is not None

    def find(self, subject: str, now: float) -> Ban | None:
        ban = self._bans.get(subject)
        if ban is None or now < ban.until:
            return ban
        del self._bans[subject]
        return None

    def take_begun(self) -> list[Ban]:
        """Those that have begun here since this was asked last."""
        begun, self._begun = self._begun, {}
        return list(begun.values())

    def sweep(self, now: float) -> None:
        for subject in [ban.subject for ban in self._bans.values() if now >= ban.until]:
            del self._bans[subject]

    def count(self) -> Mapping[Kind, int]:
        return Counter(kind_of(subject) for subject in self._bans)

    def validate(self) -> None:
        """Check all invariants; raise `AssertionError`."""
        assert len(self._bans) <= MOST
        assert len(self._begun) <= MOST
        assert all(subject == ban.subject for subject, ban in self._bans.items())


def kind_of(subject: str) -> Kind:
    return "identity" if subject.startswith("0x") else "address"
