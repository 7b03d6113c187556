"""Pure: when slices that are out are late, and which of them another worker takes up beside the first.

The end of a job must not wait for one slow worker. A lease says by when its slices should be done, from what the
job's slices cost everybody. Once that is past, a worker that finds nothing else to do may have them a second time; the
first result counts (see `lifecycle.lease_beside`).
"""

from __future__ import annotations

import dataclasses
import heapq
import math
from collections.abc import Iterable
from typing import Protocol, TypeVar

from orchestrator.scheduler.estimates import Estimate

SIGMAS = 2.0
"""how far from the mean a slice may be and still be ordinary, in standard deviations"""
LOOK_AGAIN_S = 1.0
"""time between two looks at a job of which not all is known that may become late"""
SOONEST_S = 0.05
COME_BACK_S = 45.0
"""how long workers may take to come back after the Scheduler itself was away; clients try every 30 s at the latest"""


@dataclasses.dataclass(frozen=True, slots=True)
class LateRules:
    factor: float = 1.5
    bias_s: float = 5.0
    unknown_s: float = 60.0
    """taken for a slice of a job that is not measured yet"""

    def due_in(self, portions: Iterable[tuple[int, Estimate]], load: float) -> float:
        """Seconds after which (slices, cost) given to a worker with `load` cores should all be done."""
        longest = total = 0.0
        for count, estimate in portions:
            if not estimate.measured:
                longest = max(longest, self.unknown_s)
                continue
            total += count * (estimate.work_s or 0.0)
            longest = max(longest, estimate.longest_s(SIGMAS) or 0.0)
        return self.bias_s + self.factor * (total / max(load, 1.0) + longest)


class Out(Protocol):
    """A slice with a worker."""

    @property
    def worker(self) -> str: ...

    @property
    def due_at(self) -> float: ...

    @property
    def opened_at(self) -> float: ...

    @property
    def failed_here(self) -> bool:
        """The asking worker has failed it before."""
        ...


Slices = TypeVar("Slices", bound=Out)


@dataclasses.dataclass(frozen=True, slots=True)
class Restart:
    """When this process began to listen, and how long workers may take to come back then."""

    at: float
    patience_s: float

    def due_at(self, one: Out) -> float:
        return max(one.due_at, self.at + self.patience_s) if one.opened_at < self.at else one.due_at


def split(out: Iterable[Slices], worker: str, now: float, restart: Restart) -> tuple[list[Slices], bool, float]:
    """Those that are late and that this worker may have; whether none is late for anybody; and when the next one will
    be."""
    late = []
    nothing_late = True
    next_at = math.inf
    for one in out:
        due_at = restart.due_at(one)
        if due_at > now:
            next_at = min(next_at, due_at)
            continue
        nothing_late = False
        if one.worker != worker and not one.failed_here:
            late.append(one)
    return late, nothing_late, next_at


@dataclasses.dataclass(slots=True)
class _Watched:
    quiet_until: float = 0.0
    """nothing of the job is late before"""
    looked_at: float = -math.inf
    look_at: float = math.inf


class Watchman:
    """Knows when each job's late slices are worth a look, so that nobody looks in vain."""

    MOST = 10_000

    def __init__(self) -> None:
        self._jobs: dict[int, _Watched] = {}
        self._heap: list[tuple[float, int]] = []

    def is_quiet(self, job: int, now: float) -> bool:
        """No slice of it is late for sure."""
        watched = self._jobs.get(job)
        return watched is not None and watched.quiet_until > now

    def looked(self, job: int, now: float, *, nothing_late: bool, next_at: float) -> None:
        """All of a job that is out was looked at; see `split`."""
        watched = self._watched(job)
        watched.quiet_until = next_at if nothing_late else 0.0
        watched.looked_at = now
        watched.look_at = math.inf
        self._plan(job, watched, next_at)

    def leased(self, job: int, due_at: float) -> None:
        """Slices of it went out, or those that are out are due earlier than was thought."""
        watched = self._watched(job)
        watched.quiet_until = min(watched.quiet_until, due_at)
        self._plan(job, watched, due_at)

    def changed(self, job: int, now: float) -> None:
        """Its last slices are out, and something became of one of them: a second lease may have ended without a
        result."""
        watched = self._watched(job)
        watched.quiet_until = 0.0
        self._plan(job, watched, max(now, watched.looked_at + LOOK_AGAIN_S))

    def forget(self, job: int) -> None:
        """It has ended."""
        self._jobs.pop(job, None)

    def _watched(self, job: int) -> _Watched:
        watched = self._jobs.get(job)
        if watched is None:
            while len(self._jobs) >= self.MOST:
                del self._jobs[next(iter(self._jobs))]
            watched = self._jobs[job] = _Watched()
        return watched

    def _plan(self, job: int, watched: _Watched, at: float) -> None:
        if at < watched.look_at:
            watched.look_at = at
            heapq.heappush(self._heap, (at, job))
            if len(self._heap) > 2 * len(self._jobs) + 16:
                self._heap = [(one.look_at, key) for key, one in self._jobs.items() if one.look_at < math.inf]
                heapq.heapify(self._heap)

    def next_look(self) -> float:
        """When the first job is worth a look; infinite without any."""
        while self._heap:
            at, job = self._heap[0]
            watched = self._jobs.get(job)
            if watched is not None and watched.look_at == at:
                return at
            heapq.heappop(self._heap)
        return math.inf

    def due(self, now: float) -> list[int]:
        """The jobs to look at; each is told once."""
        found = []
        while self.next_look() <= now:
            _, job = heapq.heappop(self._heap)
            self._jobs[job].look_at = math.inf
            found.append(job)
        return found

    def validate(self) -> None:
        """Raise `AssertionError` unless every planned look is in the heap."""
        assert {(one.look_at, job) for job, one in self._jobs.items() if one.look_at < math.inf} <= set(self._heap)
