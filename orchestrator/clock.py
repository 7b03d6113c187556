"""The time of day, without its jumps.

A wall clock is set by hand, by time servers, by the host of a virtual machine. Sessions, leases and requests measure
durations in seconds since 1970, because their partners do; an hour that never passed would end them all. So parts that
talk to others start from the wall clock, go on with the monotonic one, and drift towards the wall clock slowly.
"""

from __future__ import annotations

import time
from collections.abc import Callable

SLEW = 0.05
"""How much faster or slower than real time it may run while it drifts: a jump of an hour is made up in 20 hours."""


class SteadyClock:
    """Call it for the seconds since 1970. Never goes backwards. Not thread-safe: each event loop has its own."""

    def __init__(
        self,
        wall: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._wall = wall
        self._monotonic = monotonic
        self._time = wall()
        self._read_at = monotonic()

    def __call__(self) -> float:
        now = self._monotonic()
        elapsed = now - self._read_at
        self._read_at = now
        steady = self._time + elapsed
        most = elapsed * SLEW
        self._time = steady + min(max(self._wall() - steady, -most), most)
        return self._time

    @property
    def ahead_s(self) -> float:
        """How far it is ahead of the wall clock: other than about zero after a jump."""
        return self() - self._wall()
