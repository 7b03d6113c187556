"""What a slice cost: CPU, wall time, bytes and peak memory, from samples taken outside of the sandbox.

Pure arithmetic. The kernel's counters say what the whole container used; a slice is charged what they grew by between
the moment it began (it was submitted to an idle sandbox, or the slice before it was answered) and its answer. Answers
that arrive together share one difference, in the proportions that the sandbox itself reports: a forger can move time
between slices of the one job it belongs to, and nothing else.

Conservation: differences are integers of one running counter and each is handed out once, so the sum over slices never
exceeds what the kernel charged to the container. The rest (start, assignment, idle time, a slice that never answered)
is overhead.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from orchestrator.jobs.words import SliceMetrics
from orchestrator.worker.evaluator_messages import Measurement

_NS = 1_000_000_000


@dataclass(frozen=True, slots=True)
class Usage:
    """One reading of the container's counters. `peak_bytes` is the highest memory since the reading before."""

    cpu_ns: int
    peak_bytes: int


@dataclass(frozen=True, slots=True)
class Answer:
    """What the pipe counters and the sandbox say about one answered slice."""

    bytes_in: int
    bytes_out: int
    measurement: Measurement


@dataclass(frozen=True, slots=True)
class MeterTotals:
    """All of a sandbox's life so far; `overhead_cpu_ns` is what no slice was charged for."""

    cpu_ns: int
    slices_cpu_ns: int
    overhead_cpu_ns: int
    slices_wall_ns: int
    peak_bytes: int
    slices: int


class SliceMeter:
    """Charges the growth of a container's counters to its slices, one after the other."""

    def __init__(self) -> None:
        self._cpu_ns = 0  # the counter's last value; it starts at zero with the container
        self._wall_ns = 0
        self._slices_cpu_ns = 0
        self._slices_wall_ns = 0
        self._peak_bytes = 0
        self._slices = 0

    def mark(self, usage: Usage, now: float) -> None:
        """What was used up to here belongs to no slice; the next one begins now."""
        self._grow(usage)
        self._wall_ns = max(self._wall_ns, int(now * _NS))

    def answered(self, answers: Sequence[Answer], usage: Usage, now: float) -> list[SliceMetrics]:
        """The metrics of slices whose answers arrived together, in their order. `answers` must not be empty."""
        cpu = self._grow(usage)
        wall_now = max(self._wall_ns, int(now * _NS))
        wall = wall_now - self._wall_ns
        self._wall_ns = wall_now
        self._slices_cpu_ns += cpu
        self._slices_wall_ns += wall
        self._slices += len(answers)
        if len(answers) == 1:
            cpus, walls = [cpu], [wall]
        else:
            cpus = share(cpu, [answer.measurement.cpu for answer in answers])
            walls = share(wall, [answer.measurement.total for answer in answers])
        return [
            SliceMetrics(
                cpu_time_s=cpu_ns / _NS,
                wall_time_s=wall_ns / _NS,
                bytes_in=answer.bytes_in,
                bytes_out=answer.bytes_out,
                peak_memory_bytes=usage.peak_bytes,
            )
            for answer, cpu_ns, wall_ns in zip(answers, cpus, walls, strict=True)
        ]

    def totals(self) -> MeterTotals:
        return MeterTotals(
            cpu_ns=self._cpu_ns,
            slices_cpu_ns=self._slices_cpu_ns,
            overhead_cpu_ns=self._cpu_ns - self._slices_cpu_ns,
            slices_wall_ns=self._slices_wall_ns,
            peak_bytes=self._peak_bytes,
            slices=self._slices,
        )

    def _grow(self, usage: Usage) -> int:
        # A counter that seems to run backwards (another source took over) charges nothing until it has caught up.
        grown = max(usage.cpu_ns - self._cpu_ns, 0)
        self._cpu_ns += grown
        self._peak_bytes = max(self._peak_bytes, usage.peak_bytes)
        return grown


def share(amount: int, weights: Sequence[float]) -> list[int]:
    """Parts of `amount` in proportion to `weights`, summing to exactly `amount`; equal parts when all weights are 0.

    Weights are finite and not negative. Rounding errors fall to the later parts, never to the sum.
    """
    scaled = [int(weight * 1000) for weight in weights]  # ms to µs: integers keep the sum exact
    total = sum(scaled)
    if total == 0:
        scaled = [1] * len(weights)
        total = len(weights)
    parts, seen, given = [], 0, 0
    for weight in scaled:
        seen += weight
        upto = amount * seen // total
        parts.append(upto - given)
        given = upto
    return parts
