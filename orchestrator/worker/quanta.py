"""Pure: what one job's slices cost here, as moving averages, and what follows for queues and reports.

The averages are plain means at first and exponential later (weight 1/n, never below a floor), so that the slow first
slice of a sandbox (cold code) is soon outweighed.
"""

from __future__ import annotations

import dataclasses
import math

_FLOOR = 0.1
_SHORTEST_S = 1e-5
_LEAST_DENSITY = 0.05


@dataclasses.dataclass(slots=True)
class Quanta:
    """Local averages of a job. Times are seconds; `hint_s` is the Scheduler's figure, used until we have our own."""

    hint_s: float | None = None
    count: int = 0
    wall_s: float = 0.0
    cpu_s: float = 0.0
    variance: float = 0.0  # of the wall time, seconds squared
    queued_s: float | None = 0.0  # of the wall time, ready to run and without a core; None when nobody can tell

    def add(self, wall_s: float, cpu_s: float, queued_share: float | None = None) -> None:
        self.count += 1
        weight = max(1.0 / self.count, _FLOOR)
        step = max(wall_s, 0.0) - self.wall_s
        self.wall_s += weight * step
        self.variance = (1.0 - weight) * (self.variance + weight * step * step)
        self.cpu_s += weight * (max(cpu_s, 0.0) - self.cpu_s)
        if queued_share is None:
            self.queued_s = None
        elif self.queued_s is not None:
            self.queued_s += weight * (queued_share * max(wall_s, 0.0) - self.queued_s)

    def slice_s(self) -> float | None:
        """Expected wall time of the next slice; None while nobody has measured one."""
        if self.count:
            return max(self.wall_s, _SHORTEST_S)
        return None if self.hint_s is None else max(self.hint_s, _SHORTEST_S)

    def deviation_s(self) -> float:
        """By how much slices differ in wall time, one standard deviation; 0 while too few are measured."""
        return math.sqrt(self.variance)

    def density(self, crowding: float | None) -> float:
        """Which part of a core the job keeps busy while a slice runs, 0.05 to 1; 1 while it is not known.

        Waiting for a core is not waiting for the network, and would call for still more sandboxes. Where the kernel
        told how long slices stood in a run queue, that time does not count; else `crowding` does: how many tasks want a
        core, per core. Only our own measurement counts, since a job could understate its density to get more of our
        sandboxes than others.
        """
        if not self.count:
            return 1.0
        if self.queued_s is not None:
            density = self.cpu_s / max(self.wall_s - self.queued_s, self.cpu_s, _SHORTEST_S)
        elif crowding is not None:
            density = self.cpu_s / max(self.wall_s, _SHORTEST_S) * crowding
        else:
            return 1.0
        return min(max(density, _LEAST_DENSITY), 1.0)

    def depth(self, queue_s: float, most: int) -> int:
        """How many slices a sandbox may hold at once, so that about `queue_s` of work lies ready in it.

        A slice longer than that runs alone: what a sandbox holds cannot be given to another one. Only our own
        measurement counts, since a wrong hint from outside could pile long slices up.
        """
        if not self.count:
            return 1
        return max(1, min(most, 1 + math.floor(queue_s / max(self.wall_s, _SHORTEST_S))))
