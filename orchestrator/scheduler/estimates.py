"""Pure: what a job's slices cost, from those that were measured, and how fast a worker is.

Early on the plain mean and variance, later exponential moving ones, so that a job whose slices grow is noticed and
one odd slice is not.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping
from typing import Any

ALPHA = 1 / 16
"""weight of one slice in the moving average once that many were measured"""

MIN_WALL_MS = 0.05
"""no slice is taken to be shorter than this; keeps divisions sane when a worker reports zero"""


@dataclasses.dataclass(slots=True)  # not frozen: freezing costs four times as much, and there is one for every result
class Measured:
    """One slice, as its worker reported it. Milliseconds and bytes."""

    cpu_ms: float
    wall_ms: float
    gpu_ms: float
    in_bytes: float
    out_bytes: float


LEAST_DENSITY = 1 / 8
"""a slice counts as at least this part of a core while it runs, whatever it says of its CPU time"""


@dataclasses.dataclass(frozen=True, slots=True)
class Estimate:
    """Averages per slice of one job and their variances (squares of ms and bytes). All zero before anything was
    measured."""

    measured: int = 0
    cpu_ms: float = 0.0
    wall_ms: float = 0.0
    gpu_ms: float = 0.0
    in_bytes: float = 0.0
    out_bytes: float = 0.0
    cpu_var: float = 0.0
    wall_var: float = 0.0
    gpu_var: float = 0.0
    in_var: float = 0.0
    out_var: float = 0.0

    def fold(self, slices: Iterable[Measured]) -> Estimate:
        count = self.measured
        means = [self.cpu_ms, self.wall_ms, self.gpu_ms, self.in_bytes, self.out_bytes]
        variances = [self.cpu_var, self.wall_var, self.gpu_var, self.in_var, self.out_var]
        for piece in slices:
            count += 1
            weight = max(ALPHA, 1 / count)
            keep = 1 - weight
            for i, value in enumerate((piece.cpu_ms, piece.wall_ms, piece.gpu_ms, piece.in_bytes, piece.out_bytes)):
                step = value - means[i]
                if step or variances[i]:
                    means[i] += weight * step
                    variances[i] = keep * (variances[i] + weight * step * step)
        return Estimate(count, *means, *variances)

    @property
    def density(self) -> float:
        return min(1.0, self.cpu_ms / self.wall_ms) if self.wall_ms > 0 else 1.0

    @property
    def wall_s(self) -> float | None:
        """How long a slice runs; None before anything was measured."""
        return self.wall_ms / 1000 if self.measured else None

    @property
    def work_s(self) -> float | None:
        """Core-seconds that a slice keeps from others; None before anything was measured.

        While a slice waits for the network a worker runs another one beside it, so that CPU time counts, not the
        time on the clock.
        """
        return max(self.cpu_ms, self.wall_ms * LEAST_DENSITY) / 1000 if self.measured else None

    def longest_s(self, sigmas: float) -> float | None:
        """A slice that runs longer than this is unusual; None before anything was measured."""
        return (self.wall_ms + sigmas * math.sqrt(self.wall_var)) / 1000 if self.measured else None


def read_metrics(metrics: Any) -> Measured:
    """The `metrics` of a `result` message: {CPUTime, GPUTime ms, CPUDensity, GPUDensity, InDataSize, OutDataSize B}.

    Wall time is not reported by official workers; it is CPUTime / CPUDensity. Anything that is not a finite number
    counts as 0: metrics never make a result fail.
    """
    fields = metrics if isinstance(metrics, dict) else {}
    cpu, density = _number(fields.get("CPUTime")), _number(fields.get("CPUDensity"))
    wall = _number(fields.get("WallTime")) or (cpu / density if density > 0 else cpu)
    return Measured(
        cpu_ms=cpu,
        wall_ms=max(MIN_WALL_MS, wall),
        gpu_ms=_number(fields.get("GPUTime")),
        in_bytes=_number(fields.get("InDataSize")),
        out_bytes=_number(fields.get("OutDataSize")),
    )


def _number(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value) or value < 0:
        return 0.0
    return min(float(value), 1e15)


GRANTED_S = 3600.0
"""what a slice may seem to have run beyond the time since it was leased: clocks are set"""
MOST_CORES = 64
"""that a slice may have used at once"""


def is_believable(measured: Measured, since_s: float) -> bool:
    """Whether a slice that was leased so long ago can have taken this. A lie would be in everybody's estimate, and make
    leases of the job last for ever."""
    return max(measured.wall_ms, measured.cpu_ms / MOST_CORES) <= (max(since_s, 0.0) + GRANTED_S) * 1000


SLOWEST, FASTEST = 1 / 8, 8.0
_COMPARED = 8


@dataclasses.dataclass(frozen=True, slots=True)
class Speed:
    """How a worker compares with the average one, from the `jobQuanta` that it tells with each request."""

    local_ms: Mapping[str, float] = dataclasses.field(default_factory=dict)
    """CPU time of a slice there, by job id"""
    told: float = 1.0
    """its own time over everybody's, as it sees that"""

    def ratio(self, known: Mapping[str, Estimate]) -> float:
        """Its time for a slice over everybody's: 2 is half as fast. Jobs that both sides measured decide; without
        one, what the worker says."""
        logs = []
        for job, local in self.local_ms.items():
            estimate = known.get(job)
            if estimate is not None and estimate.measured and estimate.cpu_ms > 0 and local > 0:
                logs.append(math.log(min(max(local / estimate.cpu_ms, SLOWEST), FASTEST)))
                if len(logs) == _COMPARED:
                    break
        return math.exp(sum(logs) / len(logs)) if logs else self.told

    def slice_ratio(self, job_id: str, estimate: Estimate, otherwise: float) -> float:
        """The same for slices of one job; `otherwise` when the worker has not measured it."""
        local = self.local_ms.get(job_id, 0.0)
        if local <= 0 or not estimate.measured or estimate.cpu_ms <= 0:
            return otherwise
        return min(max(local / estimate.cpu_ms, SLOWEST), FASTEST)


_MOST_QUANTA = 200
_UNKNOWN_SPEED = Speed()


def read_quanta(quanta: Any) -> Speed:
    """The `jobQuanta` of a request: {CPU: {jobId: ms, "0": ratio}, GPU: …}. What makes no sense is left out."""
    cpu = quanta.get("CPU") if isinstance(quanta, Mapping) else None
    if not isinstance(cpu, Mapping):
        return _UNKNOWN_SPEED
    told = _number(cpu.get("0")) or 1.0
    local = {
        job: ms
        for job, value in list(cpu.items())[:_MOST_QUANTA]
        if isinstance(job, str) and job != "0" and (ms := _number(value)) > 0
    }
    return Speed(local, min(max(told, SLOWEST), FASTEST))
