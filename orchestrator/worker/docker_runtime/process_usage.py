"""What one process used: for an Engine that may not use cgroups, as a rootless one on cgroup v1.

A sandbox is one process, since the seccomp profile denies it children. The kernel keeps a clock of its CPU time,
threads that have ended included, that any process may read.
"""

from __future__ import annotations

import os
import pathlib
import select
import time

from orchestrator.worker.cgroups import CgroupFailure
from orchestrator.worker.metering import Usage


class ProcessUsage:
    """Readings of a process that we can see; after its end the last one again. Raises CgroupFailure when it is gone."""

    def __init__(self, pid: int) -> None:
        # Named by clock_getcpuclockid(3): the process of that number, all its threads, scheduler time.
        self._clock = (~pid << 3) | 2
        self._status = pathlib.Path(f"/proc/{pid}/status")
        self._last = Usage(0, 0)
        try:
            self._handle = os.pidfd_open(pid)  # a number may be given away again, a handle not
        except OSError as exc:
            raise CgroupFailure(f"process {pid}: {exc.strerror}") from exc
        self._ended = select.poll()
        self._ended.register(self._handle, select.POLLIN)

    @property
    def exact(self) -> bool:
        return True

    def read(self, now: float) -> Usage:
        """Peak memory is the life's, without what is mapped from files."""
        if self._handle < 0:
            return self._last
        try:
            usage = Usage(time.clock_gettime_ns(self._clock), parse_peak(self._status.read_text()))
        except OSError:
            return self._last
        if not self._ended.poll(0):
            self._last = usage
        return self._last

    def glance(self, now: float) -> Usage:
        """CPU time, and the memory of this moment in the place of the peak."""
        usage = self.read(now)
        if self._handle < 0:
            return Usage(usage.cpu_ns, 0)
        try:
            sizes = parse_sizes(self._status.read_text())
        except OSError:
            return Usage(usage.cpu_ns, 0)
        return Usage(usage.cpu_ns, max(sizes.get("VmRSS", 0) - sizes.get("RssFile", 0), 0))

    def close(self) -> None:
        if self._handle >= 0:
            self._ended.unregister(self._handle)
            os.close(self._handle)
            self._handle = -1


def parse_sizes(status: str) -> dict[str, int]:
    """Bytes by name, from the text of /proc/<pid>/status."""
    sizes = {}
    for line in status.splitlines():
        name, _, rest = line.partition(":")
        if name in ("VmHWM", "VmRSS", "RssFile"):
            sizes[name] = int(rest.split()[0]) * 1024
    return sizes


def parse_peak(status: str) -> int:
    """The high-water mark, without what is mapped from files."""
    sizes = parse_sizes(status)
    return max(sizes.get("VmHWM", 0) - sizes.get("RssFile", 0), 0)
