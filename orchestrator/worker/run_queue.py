"""How long a sandbox's program was ready to run and had no core, by the kernel's own count.

A slice that waits for a core looks, by its CPU time, like one that waits for the network. The kernel tells them apart:
the second figure of /proc/<pid>/task/<tid>/schedstat is the time a thread stood in a run queue, in ns (kernel
documentation, sched-stats). Only the thread that works counts: the helpers of a runtime may wait all at once.
"""

from __future__ import annotations

import contextlib
import os
import pathlib
from collections.abc import Callable, Collection

_PROC = pathlib.Path("/proc")
_GONE = (FileNotFoundError, ProcessLookupError, PermissionError)


class RunQueue:
    """The wait of the thread that had used most CPU time when it was first asked for. Closed with its sandbox."""

    def __init__(self, processes: Callable[[], Collection[int]], proc: pathlib.Path = _PROC) -> None:
        """`processes` gives the sandbox's process ids as seen from here; 0 stands for one that cannot be seen."""
        self._processes = processes
        self._proc = proc
        self._file: int | None = None
        self._looked = False

    def waited_ns(self) -> int | None:
        """Since the thread began. None where it cannot be seen: no such process here, or the kernel does not count.

        None, too, while no file can be opened: it is looked for again then.
        """
        if not self._looked:
            try:
                self._file = self._open()
            except OSError:  # out of descriptors
                return None
            self._looked = True
        if self._file is None:
            return None
        try:
            return int(os.pread(self._file, 96, 0).split()[1])
        except (OSError, ValueError, IndexError):  # ESRCH: the thread has ended
            self.close()
            return None

    def close(self) -> None:
        """Nothing is told any more. Idempotent."""
        self._looked = True
        if self._file is not None:
            os.close(self._file)
            self._file = None

    def _open(self) -> int | None:
        """Raises OSError."""
        files = [
            file for process in self._processes() for file in self._proc.glob(f"{process}/task/*/schedstat") if process
        ]
        used = {}
        for file in files:
            with contextlib.suppress(*_GONE, ValueError, IndexError):
                used[file] = int(file.read_bytes().split()[0])
        if used:
            with contextlib.suppress(*_GONE):
                return os.open(max(used, key=lambda file: used[file]), os.O_RDONLY | os.O_CLOEXEC)
        return None
