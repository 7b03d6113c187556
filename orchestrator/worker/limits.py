"""The bounds of a sandbox: what the kernel enforces, what its output may amount to, and how long a slice may take.

Pure values. The defaults are those of a computer with no settings; every one of them can be changed per worker.
"""

from __future__ import annotations

from dataclasses import dataclass

from orchestrator import errors

KIB = 1024
MIB = 1024 * KIB
GIB = 1024 * MIB

#: Node starts with 7 threads and fails below 6.
MINIMUM_PIDS = 8
#: Node evaluates in 16 MiB (its binary's pages are page cache that the kernel may drop).
MINIMUM_MEMORY = 16 * MIB


@dataclass(frozen=True, slots=True)
class SandboxLimits:
    """What the kernel holds one container to. Bytes, counts, and cores (1.0 is one core)."""

    memory_bytes: int = 512 * MIB
    swap_bytes: int = 0
    """Beyond its memory. Nothing unless somebody asks for it: a sandbox that swaps slows its neighbours."""
    cpus: float = 1.0
    pids: int = 32
    open_files: int = 256
    file_bytes: int = MIB

    def __post_init__(self) -> None:
        if self.memory_bytes < MINIMUM_MEMORY:
            raise errors.InvalidInput(f"memory_bytes is {self.memory_bytes}: a sandbox needs at least {MINIMUM_MEMORY}")
        if not 0 <= self.swap_bytes <= 1024 * GIB:
            raise errors.InvalidInput(f"swap_bytes is {self.swap_bytes}: give 0 (no swap) to {1024 * GIB}")
        if not 0.01 <= self.cpus <= 4096:
            raise errors.InvalidInput(f"cpus is {self.cpus}: give a number of cores from 0.01 to 4096")
        if not MINIMUM_PIDS <= self.pids <= 4096:
            raise errors.InvalidInput(f"pids is {self.pids}: give {MINIMUM_PIDS} to 4096 (Node itself needs 7 threads)")
        if not 32 <= self.open_files <= 20_000:
            raise errors.InvalidInput(f"open_files is {self.open_files}: give 32 to 20000")
        if not 0 <= self.file_bytes <= GIB:
            raise errors.InvalidInput(f"file_bytes is {self.file_bytes}: give 0 to {GIB}")


@dataclass(frozen=True, slots=True)
class OutputLimits:
    """What may come out of one sandbox before it counts as a flood.

    A line that answers a slice is paid for by the slice, so slices per second are not limited here. Everything else
    (console, events, progress, text that is no message) draws on a bucket of `lines_burst` that fills with
    `lines_per_s`. Docker sends each write of the guest as a frame of its own (up to 11,000 one-byte frames a second
    were seen), so frames have a bucket too; frames that carry 4 KiB or more are free, their bytes are counted.
    """

    line_bytes: int = 32 * MIB
    """Longest line; only a result may be that long."""
    message_bytes: int = MIB
    """Longest line of any other kind, and of the structure around a result."""
    slice_bytes: int = 64 * MIB
    """Bytes between two answers (or without any slice)."""
    total_bytes: int = 16 * GIB
    """Bytes on standard output in the sandbox's life."""
    stderr_bytes: int = 4 * MIB
    """Bytes on standard error in the sandbox's life; the evaluator writes nothing there in normal work."""
    lines_per_s: float = 2_000.0
    lines_burst: float = 20_000.0
    message_bytes_per_s: float = 8.0 * MIB
    """Bytes of lines that are no result: each of them is parsed here, so their cost is ours."""
    message_bytes_burst: float = 32.0 * MIB
    frames_per_s: float = 2_000.0
    frames_burst: float = 10_000.0
    depth: int = 100
    """Deepest nesting of arrays and objects in a message."""


@dataclass(frozen=True, slots=True)
class SliceLimits:
    """How long a slice may take, in seconds, measured outside; None means without end."""

    slice_timeout_s: float | None = 24 * 3600.0
    progress_timeout_s: float | None = 300.0
    """Longest time between two progress reports (or the start and the first)."""


@dataclass(frozen=True, slots=True)
class StartLimits:
    """How long the steps before the first slice may take, in seconds."""

    describe_s: float = 30.0
    assign_s: float = 60.0
