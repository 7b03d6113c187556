"""Pure: when slices that are out are late, and which of them another worker takes up beside the first.

The end of a job must not wait for one slow worker. A lease says by when its slices should be done, from what the
job's slices cost everybody. Once that is past, a worker that finds nothing else to do may have them a second time; the
first result counts (see `lifecycle.lease_beside`).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from typing import Protocol, TypeVar

from orchestrator.scheduler.estimates import Estimate

SIGMAS = 2.0
"""how far from the mean a slice may be and still be ordinary, in standard deviations"""
LOOK_AGAIN_S = 1.0
"""longest time without a look at a job of which nothing is known to become late"""
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


Slices = TypeVar("Slices", bound=Out)


@dataclasses.dataclass(frozen=True, slots=True)
class Restart:
    """When this process began to listen, and how long workers may take to come back then."""

    at: float
    patience_s: float

    def due_at(self, one: Out) -> float:
        return max(one.due_at, self.at + self.patience_s) if one.opened_at < self.at else one.due_at


def split(out: Iterable[Slices], worker: str, now: float, restart: Restart) -> tuple[list[Slices], float]:
    """Those that are late and with another worker, and when it is worth looking again if there are none."""
    late = []
    look_at = now + LOOK_AGAIN_S
    for one in out:
        if one.worker == worker:
            continue
        due_at = restart.due_at(one)
        if due_at <= now:
            late.append(one)
        else:
            look_at = max(min(look_at, due_at), now + SOONEST_S)
    return late, look_at


class Watchman:
    """Remembers when each job's late slices are worth another look, so that idle workers do not ask in vain."""

    MOST = 10_000

    def __init__(self) -> None:
        self._quiet: dict[int, float] = {}

    def is_quiet(self, job: int, now: float) -> bool:
        return self._quiet.get(job, 0.0) > now

    def look_again(self, job: int, at: float) -> None:
        if len(self._quiet) >= self.MOST:
            self._quiet.clear()
        self._quiet[job] = at

    def next_look(self, jobs: Iterable[int]) -> float:
        """When the first of these jobs is worth a look; infinite without any."""
        return min((self._quiet.get(job, 0.0) for job in jobs), default=float("inf"))
