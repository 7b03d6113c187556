"""Pure: the worker's settings as the limits that sandboxes are held to; see `published` for times."""

from __future__ import annotations

import math
import os

from orchestrator.settings import WorkerSettings
from orchestrator.worker import published
from orchestrator.worker.limits import MIB, OutputLimits, SandboxLimits
from orchestrator.worker.sandbox import SandboxSettings


def cores_offered(settings: WorkerSettings, machine_cores: int | None = None) -> float:
    """Cores that sandboxes may take together. Never more than the machine has, unless sandboxes were asked for."""
    most = machine_cores or os.cpu_count() or 1
    if settings.sandboxes is not None and settings.cores is None:
        most = max(most, settings.sandboxes)
    return min(settings.cores or most, most) * settings.utilization


def places(settings: WorkerSettings, machine_cores: int | None = None) -> int:
    """How many sandboxes may be at work at once, as far as cores go: each gets its part of those that are offered."""
    return settings.sandboxes or max(1, math.ceil(cores_offered(settings, machine_cores) - 1e-9))


def kernel_limits(settings: WorkerSettings) -> SandboxLimits:
    """Raises `InvalidInput`."""
    return SandboxLimits(
        memory_bytes=settings.memory_mib * MIB,
        swap_bytes=settings.swap_mib * MIB,
        cpus=min(settings.cpus, cores_offered(settings) / places(settings)),
        pids=settings.pids,
        open_files=settings.open_files,
    )


def sandbox_settings(settings: WorkerSettings) -> SandboxSettings:
    """What one sandbox may write, and how long its start may take as far as no Scheduler was asked."""
    output = OutputLimits(
        line_bytes=settings.output_line_bytes,
        slice_bytes=settings.output_slice_bytes,
        total_bytes=settings.output_total_bytes,
        stderr_bytes=settings.stderr_bytes,
        lines_per_s=settings.output_lines_per_s,
        lines_burst=settings.output_lines_burst,
        message_bytes_per_s=settings.log_bytes_per_s,
        message_bytes_burst=settings.log_bytes_burst,
    )
    return SandboxSettings(output=output, start=published.rules(settings, {}).start)
