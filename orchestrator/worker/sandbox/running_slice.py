"""Pure: a slice in a sandbox, and its time limits."""

from __future__ import annotations

from typing import Final

from orchestrator.worker.limits import SliceLimits
from orchestrator.worker.sandbox_events import DeathCause, DeathKind

#: More than this is never added to a slice's time, whatever the machine does.
_MOST_GRACE_S: Final = 3600.0


class RunningSlice:
    """`line` is the request that runs it; empty once it is written."""

    __slots__ = ("bytes_in", "grace_s", "identifier", "key", "limits", "line", "progress_at", "started_at")

    def __init__(self, identifier: int, key: int, line: bytes, limits: SliceLimits) -> None:
        self.identifier = identifier
        self.key = key
        self.line = line
        self.bytes_in = len(line)
        self.limits = limits
        self.started_at = 0.0
        self.progress_at = 0.0
        self.grace_s = 0.0

    def excuse(self, seconds: float) -> bool:
        """Its clock stood still so long, because nobody could hear it; False when it has been excused for too long."""
        if self.grace_s > _MOST_GRACE_S:
            return False
        self.grace_s += seconds
        self.started_at += seconds
        self.progress_at += seconds
        return True

    def due(self) -> float:
        """When the first of its time limits runs out."""
        limits = self.limits
        due = float("inf")
        if limits.slice_timeout_s is not None:
            due = self.started_at + limits.slice_timeout_s
        if limits.progress_timeout_s is not None:
            due = min(due, self.progress_at + limits.progress_timeout_s)
        return due

    def overdue_s(self, now: float) -> float:
        return max(now - self.due(), 0.0)

    def overdue(self, now: float) -> DeathCause:
        """Which of its time limits has run out."""
        slice_limit, progress_limit = self.limits.slice_timeout_s, self.limits.progress_timeout_s
        if slice_limit is not None and now >= self.started_at + slice_limit:
            return DeathCause(DeathKind.DEADLINE, f"a slice took more than {slice_limit:g} s", code="ESLICETOOSLOW")
        return DeathCause(DeathKind.DEADLINE, f"no progress for {progress_limit:g} s", code="ENOPROGRESS")
