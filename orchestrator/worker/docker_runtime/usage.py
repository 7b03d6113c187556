"""Where a container's counters are read: cgroup files, or the Engine's word."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Protocol

from orchestrator.worker.cgroups import CgroupReader
from orchestrator.worker.metering import Usage
from orchestrator.worker.run_queue import RunQueue


class UsageSource(Protocol):
    """Where a container's counters are read."""

    @property
    def exact(self) -> bool:
        """Whether a reading is the kernel's figure of this moment, rather than one of up to a second ago."""

    def read(self, now: float) -> Usage: ...

    def glance(self, now: float) -> Usage:
        """CPU time and the memory in use, for a watcher: no reading for the books."""
        ...

    def close(self) -> None:
        """Further readings are the last one again."""


@dataclass(slots=True)
class CgroupUsage:
    """Readings from cgroup files, and of the run queue where it can be seen."""

    reader: CgroupReader
    queue: RunQueue | None = None
    exact: bool = True

    def read(self, now: float) -> Usage:
        usage = self.reader.read(now)
        return usage if self.queue is None else Usage(usage.cpu_ns, usage.peak_bytes, self.queue.waited_ns())

    def glance(self, now: float) -> Usage:
        return self.reader.glance(now)

    def close(self) -> None:
        self.reader.close()
        if self.queue is not None:
            self.queue.close()


@dataclass(slots=True)
class StatsUsage:
    """Readings from the Engine's stats stream, for an Engine whose cgroups we cannot see. Up to a second old."""

    latest: Usage = field(default_factory=lambda: Usage(0, 0))
    exact: bool = False

    def read(self, now: float) -> Usage:
        return self.latest

    def glance(self, now: float) -> Usage:
        return self.latest

    def close(self) -> None:
        pass

    def update(self, stats: dict[str, Any]) -> None:
        cpu = (stats.get("cpu_stats") or {}).get("cpu_usage") or {}
        memory = stats.get("memory_stats") or {}
        detail = memory.get("stats") or {}
        cache = detail.get("total_cache", detail.get("file", 0))
        cache = max(int(cache) - int(detail.get("total_shmem", detail.get("shmem", 0))), 0)  # as in `CgroupReader`
        cpu_ns = int(cpu.get("total_usage") or 0)
        if cpu_ns:  # after exit the Engine answers zeros
            self.latest = Usage(cpu_ns, max(int(memory.get("usage") or 0) - cache, 0))
