"""Pure: servers that answer with errors are left alone for a growing while.

A *place* is what is left alone together: an origin and the first segment of the path after a bad status (the official
worker's rule: one broken folder does not stop the others), the whole origin when it could not be reached.
"""

from __future__ import annotations

import collections
import dataclasses
import email.utils
from typing import Final

FIRST_S: Final = 2.0
MOST_S: Final = 180.0
#: A server's own wish (`Retry-After`) is granted up to this.
WISH_MOST_S: Final = 600.0
_PLACES_KEPT: Final = 1000


@dataclasses.dataclass(frozen=True, slots=True)
class _Pause:
    since: float
    until: float
    length: float


class Backoff:
    """Times are seconds of whatever clock the caller uses throughout."""

    def __init__(self) -> None:
        self._pauses: collections.OrderedDict[str, _Pause] = collections.OrderedDict()

    def left(self, place: str, now: float) -> float:
        """How long the place is still left alone; 0 when it may be asked."""
        pause = self._pauses.get(place)
        return 0.0 if pause is None else max(pause.until - now, 0.0)

    def failed(self, place: str, asked_at: float, now: float, wish: float | None = None) -> float:
        """A request that was made at `asked_at` failed. Returns how long the place is left alone from now on.

        Requests that were under way together fail together: they count as one failure.
        """
        pause = self._pauses.get(place)
        if pause is None or now - pause.until > MOST_S:
            length = FIRST_S
        elif asked_at < pause.since:
            length = pause.length
        else:
            length = min(pause.length * 2, MOST_S)
        since = pause.since if pause is not None and asked_at < pause.since else now
        until = max(since + length, now + min(wish or 0.0, WISH_MOST_S))
        if pause is not None:
            until = max(until, pause.until)
        self._pauses[place] = _Pause(since, until, length)
        self._pauses.move_to_end(place)
        while len(self._pauses) > _PLACES_KEPT:
            self._pauses.popitem(last=False)
        return max(until - now, 0.0)

    def succeeded(self, place: str) -> None:
        self._pauses.pop(place, None)

    def waiting(self, now: float) -> dict[str, float]:
        """Places that are left alone now, and for how long."""
        return {place: pause.until - now for place, pause in self._pauses.items() if pause.until > now}


def retry_after(header: str | None, wall_time: float) -> float | None:
    """Seconds that a `Retry-After` header asks for: a number, or an HTTP date seen from `wall_time`; or None."""
    if header is None:
        return None
    text = header.strip()
    if text.isascii() and text.isdigit():
        return float(text[:12])
    try:
        return max(email.utils.parsedate_to_datetime(text).timestamp() - wall_time, 0.0)
    except (ValueError, TypeError, OverflowError):
        return None
