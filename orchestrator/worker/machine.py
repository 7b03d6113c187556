"""What this machine says of its memory and of the crowd at its cores. Reads /proc; None where there is none."""

from __future__ import annotations

import asyncio
import contextlib
import os
import pathlib
import re
from collections.abc import Callable

from orchestrator.worker.load_control import CpuTimes, Reading
from orchestrator.worker.pool_sizing import Memory

_PROC = pathlib.Path("/proc")
_SAMPLES_PER_S = 10
_ASK_AGAIN_S = 1.0


def parse_meminfo(text: str) -> Memory | None:
    """From the text of /proc/meminfo."""
    sizes: dict[str, int] = {}
    for line in text.splitlines():
        name, _, rest = line.partition(":")
        number = rest.split()[:1]
        if number and number[0].isdigit():
            sizes[name] = int(number[0]) * 1024
    if "MemTotal" not in sizes:
        return None
    return Memory(sizes["MemTotal"], sizes.get("MemAvailable", sizes["MemTotal"]))


def parse_runnable(text: str) -> int | None:
    """How many tasks run or wait for a core, from the text of /proc/stat. The one that reads it is among them."""
    for line in text.splitlines():
        name, _, number = line.partition(" ")
        if name == "procs_running" and number.strip().isdigit():
            return int(number)
    return None


def parse_cpu(text: str, ticks_per_s: int) -> tuple[float, float] | None:
    """(all, busy) core-seconds since the machine started, from the text of /proc/stat.

    What the hypervisor gave to other machines counts as idle: pausing would not bring it back.
    """
    words = text.partition("\n")[0].split()
    if len(words) < 5 or words[0] != "cpu" or not all(word.isdigit() for word in words[1:]):
        return None
    ticks = [int(word) for word in words[1:9]]  # after these come guests, which are users, too
    stolen = ticks[7] if len(ticks) > 7 else 0
    idle = sum(ticks[3:5]) + stolen
    return sum(ticks) / ticks_per_s, (sum(ticks) - idle) / ticks_per_s


def parse_pressure(text: str) -> float | None:
    """% of the last 10 s in which something waited, from the text of /proc/pressure/memory."""
    match = re.search(r"^some avg10=([0-9]+\.?[0-9]*)", text, re.MULTILINE)
    return None if match is None else float(match[1])


def load(own_cpu_s: float, proc: pathlib.Path = _PROC) -> Reading:
    """A look at how busy the machine is. `own_cpu_s` is what we have used of it so far."""
    cpu = pressure = None
    with contextlib.suppress(OSError):
        cpu = parse_cpu((proc / "stat").read_text(), os.sysconf("SC_CLK_TCK"))
    with contextlib.suppress(OSError):  # EOPNOTSUPP where the kernel was told not to count
        pressure = parse_pressure((proc / "pressure/memory").read_text())
    left = memory(proc)
    return Reading(
        cpu=None if cpu is None else CpuTimes(*cpu, own_cpu_s),
        available_bytes=None if left is None else left.available,
        pressure=pressure,
    )


def memory(proc: pathlib.Path = _PROC) -> Memory | None:
    try:
        return parse_meminfo((proc / "meminfo").read_text())
    except OSError:
        return None


def crowding(proc: pathlib.Path = _PROC) -> float | None:
    """Tasks that want a core, per core, at this moment; at least 1. We who ask are not counted."""
    try:
        runnable = parse_runnable((proc / "stat").read_text())
    except OSError:
        return None
    return None if runnable is None else max((runnable - 1) / (os.cpu_count() or 1), 1.0)


class Crowd:
    """The mean crowding between two questions: one look would say little, since runnable tasks come and go in ms."""

    def __init__(self, wanted: Callable[[], bool] = lambda: True, look: Callable[[], float | None] = crowding) -> None:
        self._wanted = wanted
        self._look = look
        self._sum = 0.0
        self._count = 0

    async def watch(self) -> None:
        """Look ten times a second while it is wanted, until cancelled or there is nothing to be seen.

        A look takes some 0.3 ms of processor time with all that comes with it: /proc/stat counts every interrupt.
        """
        while True:
            if not self._wanted():
                await asyncio.sleep(_ASK_AGAIN_S)
            elif self.sample():
                await asyncio.sleep(1 / _SAMPLES_PER_S)
            else:
                return

    def sample(self) -> bool:
        found = self._look()
        if found is not None:
            self._sum += found
            self._count += 1
        return found is not None

    def take(self) -> float | None:
        """The mean since the last time; None when there were too few looks to tell."""
        if self._count < _SAMPLES_PER_S // 2:
            return None
        mean = self._sum / self._count
        self._sum, self._count = 0.0, 0
        return mean
