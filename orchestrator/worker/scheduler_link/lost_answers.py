"""Pure: requests for work whose answers will never be read, and how long the Scheduler is told of them.

A session that is lost takes the answers under way with it, and they may have brought slices. Every request has a name;
the names of those without an answer go with the requests that follow, and the Scheduler gives what it leased in them
to others at once. A Scheduler that knows no such names passes over them.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterable
from typing import Final

MOST: Final = 100
"""names that are told at once; the leases of older ones end by themselves"""
AGAIN_S: Final = 60.0
"""A lost request may still be on its way, or wait for work: it is told of for so long, however often."""


@dataclasses.dataclass(slots=True)
class _Lost:
    since: float
    told: bool = False


class LostAnswers:
    """`prefix` makes the names of this process different from those of others."""

    def __init__(self, prefix: str) -> None:
        self._prefix = prefix
        self._numbers = itertools.count(1)
        self._lost: dict[str, _Lost] = {}

    def name(self) -> str:
        """For the next request."""
        return f"{self._prefix}-{next(self._numbers)}"

    def lost(self, name: str, now: float) -> None:
        """That request has ended without an answer that could be used."""
        self._lost[name] = _Lost(now)
        while len(self._lost) > MOST:
            del self._lost[next(iter(self._lost))]

    def to_tell(self, now: float) -> tuple[str, ...]:
        """The names for a request that is made now, oldest first."""
        for name in [name for name, one in self._lost.items() if one.told and now - one.since >= AGAIN_S]:
            del self._lost[name]
        return tuple(self._lost)

    def told(self, names: Iterable[str]) -> None:
        """A request that named them was answered."""
        for name in names:
            if name in self._lost:
                self._lost[name].told = True

    @property
    def untold(self) -> bool:
        """Whether there are some that the Scheduler has not heard of yet."""
        return not all(one.told for one in self._lost.values())
