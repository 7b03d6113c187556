"""A sandbox's counters, read where it must be known what was used by whom."""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Sequence
from typing import Final

from orchestrator import telemetry
from orchestrator.jobs.words import SliceMetrics
from orchestrator.worker.docker_runtime import Container
from orchestrator.worker.metering import (
    Accounts,
    Answer,
    MeterTotals,
    Phase,
    Reconciliation,
    SliceMeter,
    Usage,
    reconcile,
)

log = logging.getLogger(__name__)

_MOMENT_S: Final = 0.0005


class SandboxMeter:
    """Nothing is charged before `attach`."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._meter = SliceMeter()
        self._container: Container | None = None
        self._phase = Phase.START
        self._paid_ns = 0
        self._answered_at = -math.inf

    def attach(self, container: Container) -> None:
        self._container = container

    def enter(self, phase: Phase) -> None:
        """What was used until now belongs to the phase before, and to no slice."""
        self.mark()
        self._phase = phase

    def mark(self) -> None:
        """What was used until now belongs to no slice."""
        if self._container is not None:
            now = self._loop.time()
            self._meter.mark(self._container.usage.read(now), now, self._phase)

    def begin(self) -> None:
        """A slice begins in an idle sandbox. What was used since an answer of this very moment is what that slice left
        behind; it counts for the next one, as it does where slices are queued, and no reading is spent on it."""
        now = self._loop.time()
        if now - self._answered_at < _MOMENT_S:
            self._meter.begin(now)
        else:
            self.mark()

    def answered(self, answers: Sequence[Answer], now: float) -> list[SliceMetrics]:
        """What slices cost whose answers arrived together, by one reading."""
        assert self._container is not None
        metered = self._meter.answered(answers, self._container.usage.read(now), now)
        self._answered_at = now
        for metrics in metered:
            self._paid_ns += round(metrics.cpu_time_s * 1e9)
        return metered

    def unanswered(self, bytes_in: int, bytes_out: int) -> SliceMetrics | None:
        """What the slice had used that was running at the end; None without a container."""
        if self._container is None:
            return None
        now = self._loop.time()
        return self._meter.unanswered(bytes_in, bytes_out, self._container.usage.read(now), now)

    def close(self, sandbox_id: str, accounts: Accounts, *, exited: bool) -> Reconciliation | None:
        """The last thing done with its figures: what was told of them against the kernel's own. `exited`: those are
        final."""
        if self._container is None:
            return None
        usage = self._container.usage
        kernel_ns = usage.read(self._loop.time()).cpu_ns
        books = reconcile(self._meter.totals(), self._paid_ns, kernel_ns, checked=exited and usage.exact)
        for phase, used_ns in books.overhead.items():
            telemetry.sandbox_overhead.add(used_ns / 1e9, {"phase": str(phase)})
        if not accounts.close(books):
            telemetry.metering_errors.add(1)
            log.error(
                "metering_mismatch",
                extra={
                    "sandbox": sandbox_id,
                    "kernel_ns": books.kernel_ns,
                    "slices_ns": books.paid_ns,
                    "overhead_ns": books.overhead_ns,
                },
            )
        return books

    def totals(self) -> MeterTotals:
        """What the kernel charged to its container so far, and how much of it to slices."""
        return self._meter.totals()

    def glance(self) -> Usage:
        """CPU time so far and memory in use now, for a watcher; zeros before it has a container."""
        return self._container.usage.glance(self._loop.time()) if self._container is not None else Usage(0, 0)
