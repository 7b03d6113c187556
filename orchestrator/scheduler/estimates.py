"""Pure: what a job's slices cost, from those that were measured.

Early on the plain mean, later an exponential moving average, so that a job whose slices grow is noticed and one odd
slice is not.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable
from typing import Any

ALPHA = 1 / 16
"""weight of one slice in the moving average once that many were measured"""

MIN_WALL_MS = 0.05
"""no slice is taken to be shorter than this; keeps divisions sane when a worker reports zero"""


@dataclasses.dataclass(frozen=True, slots=True)
class Measured:
    """One slice, as its worker reported it. Milliseconds and bytes."""

    cpu_ms: float
    wall_ms: float
    gpu_ms: float
    in_bytes: float
    out_bytes: float


@dataclasses.dataclass(frozen=True, slots=True)
class Estimate:
    """Averages per slice of one job. All zero before anything was measured."""

    measured: int = 0
    cpu_ms: float = 0.0
    wall_ms: float = 0.0
    gpu_ms: float = 0.0
    in_bytes: float = 0.0
    out_bytes: float = 0.0

    def fold(self, slices: Iterable[Measured]) -> Estimate:
        count = self.measured
        values = [self.cpu_ms, self.wall_ms, self.gpu_ms, self.in_bytes, self.out_bytes]
        for piece in slices:
            count += 1
            weight = max(ALPHA, 1 / count)
            new = (piece.cpu_ms, piece.wall_ms, piece.gpu_ms, piece.in_bytes, piece.out_bytes)
            values = [old + weight * (value - old) for old, value in zip(values, new, strict=True)]
        return Estimate(count, *values)

    @property
    def density(self) -> float:
        return min(1.0, self.cpu_ms / self.wall_ms) if self.wall_ms > 0 else 1.0


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
