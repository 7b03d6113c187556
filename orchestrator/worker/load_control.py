"""Pure: whether the machine is needed by others: readings in, a reason to pause out, with patience both ways.

A reading above a limit for `busy_s` pauses; all readings well below their limits for `calm_s` end it. What our own
sandboxes and the worker itself use is not counted, so that the worker does not pause because of its own work.
"""

from __future__ import annotations

import dataclasses

_WELL_BELOW = 0.75
_WELL_ABOVE = 1.25


@dataclasses.dataclass(frozen=True, slots=True)
class Limits:
    """None is no limit. `cpu` is the share of all cores that others use, 0 to 1; `pressure` the percentage of time in
    which something waits for memory (PSI `some`, 10 s); times are seconds."""

    cpu: float | None = None
    memory_bytes: int | None = None
    pressure: float | None = None
    busy_s: float = 10.0
    calm_s: float = 60.0

    @property
    def any(self) -> bool:
        return self.cpu is not None or self.memory_bytes is not None or self.pressure is not None


@dataclasses.dataclass(frozen=True, slots=True)
class CpuTimes:
    """Totals since some moment, in seconds: of all cores together, of what is not idle, and of us."""

    total_s: float
    busy_s: float
    own_s: float


@dataclasses.dataclass(frozen=True, slots=True)
class Reading:
    """One look at the machine; None is what cannot be known here."""

    cpu: CpuTimes | None = None
    available_bytes: int | None = None
    pressure: float | None = None


def others_share(before: CpuTimes, after: CpuTimes) -> float | None:
    """Which part of all cores others used between two looks; None when no time has passed."""
    total = after.total_s - before.total_s
    if total <= 0:
        return None
    others = (after.busy_s - before.busy_s) - max(after.own_s - before.own_s, 0.0)
    return min(max(others / total, 0.0), 1.0)


class LoadControl:
    """Feed it a reading every second or so."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.reason: str | None = None
        """Why the worker should be paused now; None when it should not."""
        self.cpu: float | None = None
        """Share of the cores that others used lately, smoothed."""
        self._before: CpuTimes | None = None
        self._above_since: float | None = None
        self._below_since: float | None = None

    def look(self, reading: Reading, now: float) -> str | None:
        """The reason to be paused from now on, or None."""
        self._read_cpu(reading)
        above = self._above(reading, 1.0, 1.0)
        if above is not None:
            self._below_since = None
            self._above_since = now if self._above_since is None else self._above_since
            if self.reason is not None or now - self._above_since >= self.limits.busy_s:
                self.reason = above
            return self.reason
        self._above_since = None
        if self.reason is not None:
            if self._above(reading, _WELL_BELOW, _WELL_ABOVE) is not None:
                self._below_since = None
            else:
                self._below_since = now if self._below_since is None else self._below_since
                if now - self._below_since >= self.limits.calm_s:
                    self.reason = self._below_since = None
        return self.reason

    def _read_cpu(self, reading: Reading) -> None:
        if reading.cpu is not None:
            if self._before is not None:
                share = others_share(self._before, reading.cpu)
                if share is not None:
                    self.cpu = share if self.cpu is None else self.cpu + 0.3 * (share - self.cpu)
            self._before = reading.cpu

    def _above(self, reading: Reading, part: float, memory_part: float) -> str | None:
        limits = self.limits
        if limits.cpu is not None and self.cpu is not None and self.cpu > limits.cpu * part:
            return f"others use {self.cpu:.0%} of the processor, the limit is {limits.cpu:.0%}"
        available = reading.available_bytes
        if limits.memory_bytes is not None and available is not None and available < limits.memory_bytes * memory_part:
            return f"{available >> 20} MiB of memory are left, the limit is {limits.memory_bytes >> 20} MiB"
        if limits.pressure is not None and reading.pressure is not None and reading.pressure > limits.pressure * part:
            return f"memory pressure is {reading.pressure:g} %, the limit is {limits.pressure:g} %"
        return None
