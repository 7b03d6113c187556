"""Pure: when to ask the Scheduler for work, and for how much.

The rule is to ask *before* cores run dry: what is held is laid out over a short horizon, and as soon as a share of
the cores would find nothing to do within it, that share is asked for. Only an answer without slices makes us wait,
and the wait ends early when a slice has been completed since (new work often follows on results).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable

from orchestrator.worker.holdings import Job

GUESS_S = 1.0
"""Taken for the length of a slice of a job that nobody has measured yet."""


@dataclasses.dataclass(frozen=True, slots=True)
class Patience:
    """Pauses between requests, seconds. `soonest` follows an empty answer when slices were completed since."""

    idle_min_s: float = 0.1
    idle_max_s: float = 1.0
    soonest_s: float = 0.05
    failure_min_s: float = 0.5
    failure_max_s: float = 30.0


def smoothed(before: float | None, reading: float) -> float:
    """A reading a second, of something that jumps."""
    return reading if before is None else before + 0.3 * (reading - before)


def work_within(
    jobs: Iterable[Job], now: float, horizon_s: float, part: Callable[[Job], float] = lambda _: 1.0
) -> float:
    """Core-seconds of held, unfinished work, where no single slice counts for more than the horizon.

    `part` of a core is what a slice of the job keeps from others while it runs.
    """
    total = 0.0
    for job in jobs:
        of_job = 0.0
        expected = job.quanta.slice_s() or GUESS_S
        counted = min(expected, horizon_s)
        of_job += job.unstarted() * counted
        for sandbox in job.sandboxes.values():
            queued = len(sandbox.queue)
            if queued:
                left = max(expected - (now - sandbox.head_since), 0.1 * counted) if sandbox.open else counted
                of_job += min(left, horizon_s) + (queued - 1) * counted
        total += of_job * part(job)
    return total


class Demand:
    """Remembers how the last requests went, and says whether the next one is due."""

    def __init__(self, patience: Patience) -> None:
        self.patience = patience
        self.in_flight = False
        self.ask_at = 0.0
        self.failures = 0
        self._idle_s = 0.0
        self._answered_at = float("-inf")
        self.requests = 0
        self.empty_answers = 0

    def asked(self) -> None:
        self.in_flight = True
        self.requests += 1

    def answered(self, useful: int, now: float, retry_after_s: float | None) -> None:
        """An answer came, with so many slices that we could keep."""
        self.in_flight = False
        self.failures = 0
        self._answered_at = now
        if useful:
            self._idle_s = 0.0
            self.ask_at = now
        else:
            self.empty_answers += 1
            self._idle_s = min(max(self._idle_s * 2, self.patience.idle_min_s), self.patience.idle_max_s)
            self.ask_at = now + self._idle_s
        if retry_after_s is not None:
            self.ask_at = max(self.ask_at, now + retry_after_s)

    def failed(self, now: float, retry_after_s: float | None) -> None:
        self.in_flight = False
        self._answered_at = now
        pause = min(self.patience.failure_min_s * 2.0**self.failures, self.patience.failure_max_s)
        self.failures = min(self.failures + 1, 30)
        self.ask_at = now + max(pause, retry_after_s or 0.0)

    def progressed(self) -> None:
        """A slice was completed: an empty answer from before says little about now."""
        if self._idle_s and not self.failures:
            self._idle_s = 0.0
            self.ask_at = min(self.ask_at, self._answered_at + self.patience.soonest_s)
