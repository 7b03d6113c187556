"""Pure: who keeps the worker paused, since when and why. It works again when the last of them lets go."""

from __future__ import annotations

import dataclasses
import enum
from typing import Final

MOST_SOURCES: Final = 32
_LONGEST_REASON: Final = 200


class GiveBack(enum.StrEnum):
    """What goes back to the Scheduler when a pause begins. What stays is finished and submitted."""

    NOTHING = "nothing"
    UNSTARTED = "unstarted"  # all but what lies in sandboxes
    EVERYTHING = "everything"  # what runs, too: its work is lost

    @property
    def rank(self) -> int:
        return _RANKS[self]


_RANKS: Final = {GiveBack.NOTHING: 0, GiveBack.UNSTARTED: 1, GiveBack.EVERYTHING: 2}


@dataclasses.dataclass(frozen=True, slots=True)
class Pause:
    """One hold on the worker. `source` is command, schedule, load…; `since` is on the supervisor's clock."""

    source: str
    reason: str
    give_back: GiveBack
    since: float


class Pauses:
    """The holds of this moment, by source: each source has one, and a second word from it replaces its reason."""

    def __init__(self) -> None:
        self._by_source: dict[str, Pause] = {}

    def __bool__(self) -> bool:
        return bool(self._by_source)

    def hold(self, source: str, reason: str, give_back: GiveBack, now: float) -> bool:
        """False when that changes nothing."""
        old = self._by_source.get(source)
        if old is None and len(self._by_source) >= MOST_SOURCES:
            return False
        pause = Pause(source, reason[:_LONGEST_REASON], give_back, now if old is None else old.since)
        self._by_source[source] = pause
        return pause != old

    def release(self, source: str) -> bool:
        """False when that source did not hold the worker."""
        return self._by_source.pop(source, None) is not None

    @property
    def give_back(self) -> GiveBack:
        """The most that any of them wants back."""
        return max(
            (one.give_back for one in self._by_source.values()), key=_RANKS.__getitem__, default=GiveBack.NOTHING
        )

    def all(self) -> tuple[Pause, ...]:
        """The oldest first."""
        return tuple(sorted(self._by_source.values(), key=lambda one: one.since))
