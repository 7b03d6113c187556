"""What a slice cost: CPU, wall time, bytes and peak memory, from samples taken outside of the sandbox.

Pure arithmetic. The kernel's counters say what the whole container used; a slice is charged what they grew by between
the moment it began (it was submitted to an idle sandbox, or the slice before it was answered) and its answer. Answers
that arrive together share one difference, in the proportions that the sandbox itself reports: a forger can move time
between slices of the one job it belongs to, and nothing else.

Conservation: differences are integers of one running counter and each is handed out once, so the sum over slices never
exceeds what the kernel charged to the container. The rest (start, assignment, idle time, a slice that never answered)
is overhead. When a sandbox has ended, `reconcile` compares what was handed out with the kernel's last word.
"""

from __future__ import annotations

import collections
import enum
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from orchestrator.jobs.words import SliceMetrics
from orchestrator.worker.evaluator_messages import Measurement

_NS = 1_000_000_000
#: What the kernel may book after a process has ended (its own work of ending it), before a difference is an error.
_LATE_NS: Final = 100_000_000


class Phase(enum.StrEnum):
    """What a sandbox was at when it used CPU time that no slice is charged for."""

    START = "start"
    """The container's start and the evaluator's own."""
    ASSIGN = "assign"
    """The work function and its arguments are read and compiled."""
    IDLE = "idle"
    """Between slices, and at the end."""
    UNANSWERED = "unanswered"
    """A slice during which the sandbox ended: nobody is paid for it."""


@dataclass(frozen=True, slots=True)
class Usage:
    """One reading of the container's counters. `peak_bytes` is the highest memory since the reading before.

    `queued_ns` is how long its program was ready and had no core; None where nobody can tell.
    """

    cpu_ns: int
    peak_bytes: int
    queued_ns: int | None = None


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
    overhead_by_phase: Mapping[Phase, int]
    peak_bytes: int
    slices: int


class SliceMeter:
    """Charges the growth of a container's counters to its slices, one after the other."""

    def __init__(self) -> None:
        self._cpu_ns = 0  # the counter's last value; it starts at zero with the container
        self._wall_ns = 0
        self._queued_ns: int | None = None
        self._slices_cpu_ns = 0
        self._overhead: collections.Counter[Phase] = collections.Counter()
        self._peak_bytes = 0
        self._slices = 0

    def mark(self, usage: Usage, now: float, phase: Phase = Phase.IDLE) -> None:
        """What was used up to here belongs to no slice; the next one begins now."""
        self._overhead[phase] += self._grow(usage)
        self._wall_ns = max(self._wall_ns, int(now * _NS))
        self._queued_ns = usage.queued_ns

    def begin(self, now: float) -> None:
        """The next slice begins now; what was used since the last reading counts for it."""
        self._wall_ns = max(self._wall_ns, int(now * _NS))

    def answered(self, answers: Sequence[Answer], usage: Usage, now: float) -> list[SliceMetrics]:
        """The metrics of slices whose answers arrived together, in their order. `answers` must not be empty."""
        cpu = self._grow(usage)
        wall_now = max(self._wall_ns, int(now * _NS))
        wall = wall_now - self._wall_ns
        self._wall_ns = wall_now
        queued = self._queued(usage, wall)
        self._slices_cpu_ns += cpu
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
                queued_share=queued,
            )
            for answer, cpu_ns, wall_ns in zip(answers, cpus, walls, strict=True)
        ]

    def unanswered(self, bytes_in: int, bytes_out: int, usage: Usage, now: float) -> SliceMetrics:
        """What the slice that was running when its sandbox ended had used. It is told, and charged to nobody."""
        wall_ns = max(int(now * _NS) - self._wall_ns, 0)
        cpu_ns = self._grow(usage)
        self._overhead[Phase.UNANSWERED] += cpu_ns
        self._wall_ns += wall_ns
        return SliceMetrics(cpu_ns / _NS, wall_ns / _NS, bytes_in, bytes_out, usage.peak_bytes)

    def totals(self) -> MeterTotals:
        return MeterTotals(
            cpu_ns=self._cpu_ns,
            slices_cpu_ns=self._slices_cpu_ns,
            overhead_cpu_ns=sum(self._overhead.values()),
            overhead_by_phase={phase: self._overhead[phase] for phase in Phase},
            peak_bytes=self._peak_bytes,
            slices=self._slices,
        )

    def _queued(self, usage: Usage, wall_ns: int) -> float | None:
        """Which part of the time since the last reading the program stood in a run queue."""
        before, self._queued_ns = self._queued_ns, usage.queued_ns
        if before is None or usage.queued_ns is None:
            return None
        return min(max(usage.queued_ns - before, 0) / wall_ns, 1.0) if wall_ns else 0.0

    def _grow(self, usage: Usage) -> int:
        # A counter that seems to run backwards (another source took over) charges nothing until it has caught up.
        grown = max(usage.cpu_ns - self._cpu_ns, 0)
        self._cpu_ns += grown
        self._peak_bytes = max(self._peak_bytes, usage.peak_bytes)
        return grown


@dataclass(frozen=True, slots=True)
class Reconciliation:
    """The books of one ended sandbox against the kernel's. Nanoseconds of CPU time."""

    kernel_ns: int
    paid_ns: int
    """The sum over the metrics that were handed out, each counted as it was told."""
    overhead: Mapping[Phase, int]
    slices: int
    checked: bool
    """Whether the kernel's figure is exact and final; else there is nothing to compare with."""

    @property
    def overhead_ns(self) -> int:
        return sum(self.overhead.values())

    @property
    def difference_ns(self) -> int:
        """What the kernel charged beyond slices and overhead; below zero, more was handed out than was used."""
        return self.kernel_ns - self.paid_ns - self.overhead_ns

    @property
    def balanced(self) -> bool:
        # Metrics are told as floats of seconds: each may be off by its rounding, never by more.
        return not self.checked or -self.slices <= self.difference_ns <= _LATE_NS


def reconcile(totals: MeterTotals, paid_ns: int, kernel_ns: int, *, checked: bool) -> Reconciliation:
    """`paid_ns` is counted by whoever passed the metrics on, `kernel_ns` read by itself: neither comes from a meter."""
    return Reconciliation(kernel_ns, paid_ns, totals.overhead_by_phase, totals.slices, checked)


class Accounts:
    """The books of all sandboxes that ended."""

    def __init__(self) -> None:
        self._overhead: collections.Counter[Phase] = collections.Counter()
        self._kernel_ns = 0
        self._paid_ns = 0
        self._slices = 0
        self._sandboxes = 0
        self._unchecked = 0
        self._mismatches = 0
        self._worst_ns = 0

    def close(self, books: Reconciliation) -> bool:
        """Take an ended sandbox in; False when its books do not balance."""
        self._sandboxes += 1
        self._slices += books.slices
        self._kernel_ns += books.kernel_ns
        self._paid_ns += books.paid_ns
        self._overhead.update(books.overhead)
        self._unchecked += not books.checked
        if books.balanced:
            return True
        self._mismatches += 1
        self._worst_ns = max(self._worst_ns, books.difference_ns, -books.difference_ns)
        return False

    def statistics(self) -> dict[str, Any]:
        """CPU times in seconds; `unchecked` sandboxes could not be compared with an exact figure of the kernel's."""
        return {
            "sandboxes": self._sandboxes,
            "slices": self._slices,
            "cpu_s": self._kernel_ns / _NS,
            "slices_cpu_s": self._paid_ns / _NS,
            "overhead_s": {str(phase): self._overhead[phase] / _NS for phase in Phase},
            "unchecked": self._unchecked,
            "mismatches": self._mismatches,
            "largest_mismatch_s": self._worst_ns / _NS,
        }


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
