"""Pure: when a sandbox has served long enough and is replaced after the slice that it runs.

A sandbox that is used for very long is a place where things pile up: memory that its job leaks, and whatever else. The
memory rule looks at the lowest of the last few peaks: garbage that the engine has not collected yet shows in one slice
and is gone in the next, a leak stays.
"""

from __future__ import annotations

import collections
import dataclasses

_PEAKS = 8


@dataclasses.dataclass(frozen=True, slots=True)
class Limits:
    """`growth_bytes` counts from the peak of the first slice. It is not looked at before `growth_from_s`, since a new

    sandbox costs a fifth of a core-second: a job whose memory goes up and down would do nothing but change sandboxes.
    """

    slices: int = 100_000
    age_s: float = 12 * 3600.0
    growth_bytes: int = 256 << 20
    growth_from_s: float = 5.0


class Wear:
    """What one sandbox has gone through since its job was assigned."""

    __slots__ = ("_first_peak", "_peaks", "slices")

    def __init__(self) -> None:
        self.slices = 0
        self._first_peak: int | None = None
        self._peaks: collections.deque[int] = collections.deque(maxlen=_PEAKS)

    def ran(self, peak_bytes: int) -> None:
        """A slice has ended; `peak_bytes` was its highest use of memory."""
        self.slices += 1
        if self._first_peak is None:
            self._first_peak = peak_bytes
        self._peaks.append(peak_bytes)

    def growth(self) -> int:
        """Bytes that all of the last few slices had in use beyond the first one."""
        if self._first_peak is None or len(self._peaks) < _PEAKS:
            return 0
        return min(self._peaks) - self._first_peak


def limit_reached(limits: Limits, wear: Wear, age_s: float) -> str | None:
    """Which limit is reached: "slices", "age" or "memory growth"; None when it may go on."""
    if wear.slices >= limits.slices:
        return "slices"
    if age_s >= limits.age_s:
        return "age"
    if age_s >= limits.growth_from_s and wear.growth() > limits.growth_bytes:
        return "memory growth"
    return None
