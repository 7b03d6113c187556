"""Pure: hours in which the machine belongs to its owner, as `mon-fri 08:00-18:00` or `22:00-06:00`, in a time zone.

The clock on the wall decides: on the day of a change to or from summer time, hours that the clock skips are skipped,
and hours that it shows twice are quiet twice. A window that crosses midnight belongs to the day on which it begins.
"""

from __future__ import annotations

import dataclasses
import datetime
import re
from collections.abc import Iterable, Sequence
from typing import Final

from orchestrator.errors import InvalidInput

DAYS: Final = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
_DAY_MINUTES: Final = 24 * 60
_AHEAD: Final = datetime.timedelta(days=9)
_QUARTER: Final = datetime.timedelta(minutes=15)
_TIMES: Final = re.compile(r"([0-9]{1,2}):([0-9]{2})-([0-9]{1,2}):([0-9]{2})")


@dataclasses.dataclass(frozen=True, slots=True)
class Window:
    """Minutes since midnight, from `begin` until before `end`; `end` is beyond 24 h when it crosses midnight."""

    text: str
    days: frozenset[int]  # 0 is Monday
    begin: int
    end: int

    def holds(self, weekday: int, minute: int) -> bool:
        if weekday in self.days and self.begin <= minute < self.end:
            return True
        return (weekday - 1) % 7 in self.days and minute < self.end - _DAY_MINUTES


def parse(entries: Iterable[str]) -> tuple[Window, ...]:
    """Raises `InvalidInput` naming the entry, what is wrong with it, and how it should look."""
    return tuple(_window(entry) for entry in entries)


def _window(entry: str) -> Window:
    words = entry.lower().split()
    if not 1 <= len(words) <= 2:
        raise _wrong(entry, "it has more than days and hours" if words else "it is empty")
    times = _TIMES.fullmatch(words[-1])
    if times is None:
        raise _wrong(entry, f"{words[-1]!r} is not a span of hours")
    begin, end = _minute(entry, times[1], times[2]), _minute(entry, times[3], times[4])
    if begin == _DAY_MINUTES:
        raise _wrong(entry, "no day begins at 24:00")
    if begin == end:
        raise _wrong(entry, "it ends when it begins; a whole day is 00:00-24:00")
    days = _days(entry, words[0]) if len(words) == 2 else frozenset(range(7))
    return Window(entry, days, begin, end if end > begin else end + _DAY_MINUTES)


def _minute(entry: str, hour: str, minute: str) -> int:
    at = int(hour) * 60 + int(minute)
    if int(minute) > 59 or at > _DAY_MINUTES:
        raise _wrong(entry, f"there is no {hour}:{minute}")
    return at


def _days(entry: str, text: str) -> frozenset[int]:
    found: set[int] = set()
    for part in text.split(","):
        first, dash, last = part.partition("-")
        for name in (first, last) if dash else (first,):
            if name not in DAYS:
                raise _wrong(entry, f"{name!r} is not one of {', '.join(DAYS)}")
        begin = DAYS.index(first)
        length = (DAYS.index(last) - begin) % 7 if dash else 0  # sat-mon goes over the end of the week
        found.update((begin + step) % 7 for step in range(length + 1))
    return frozenset(found)


def _wrong(entry: str, why: str) -> InvalidInput:
    return InvalidInput(f'quiet_hours: {entry[:60]!r}: {why}; write "mon-fri 08:00-18:00" or "22:00-06:00"')


def window_at(windows: Sequence[Window], moment: datetime.datetime, zone: datetime.tzinfo) -> Window | None:
    """The window in which the moment (with a zone of its own) lies."""
    local = moment.astimezone(zone)
    minute = local.hour * 60 + local.minute
    return next((window for window in windows if window.holds(local.weekday(), minute)), None)


def next_change(
    windows: Sequence[Window], moment: datetime.datetime, zone: datetime.tzinfo
) -> datetime.datetime | None:
    """When quiet hours begin, or end, next; in UTC. None when they never do (no windows, or all of the week)."""
    moment = moment.astimezone(datetime.UTC)
    now = window_at(windows, moment, zone) is not None
    if not windows:
        return None
    for at in sorted(_candidates(windows, moment, zone)):
        if at > moment and (window_at(windows, at, zone) is not None) is not now:
            return at
    return None


def _candidates(windows: Sequence[Window], moment: datetime.datetime, zone: datetime.tzinfo) -> set[datetime.datetime]:
    """Every moment at which something may change: the ends of windows, and the quarters of hours, since zones change
    their clocks at such. An end that the clock shows twice stands for two moments."""
    start = moment.replace(minute=moment.minute - moment.minute % 15, second=0, microsecond=0)
    found = {start + step * _QUARTER for step in range(1, _AHEAD // _QUARTER)}
    first = moment.astimezone(zone).date() - datetime.timedelta(days=1)
    for day in range(_AHEAD.days + 2):
        midnight = datetime.datetime.combine(first + datetime.timedelta(days=day), datetime.time())
        for window in windows:
            for minute in (window.begin, window.end):
                local = midnight + datetime.timedelta(minutes=minute)  # on the wall, hence without a zone
                for fold in (0, 1):
                    found.add(local.replace(tzinfo=zone, fold=fold).astimezone(datetime.UTC))
    return found
