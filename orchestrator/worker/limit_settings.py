"""Pure: the worker's settings, and what the Scheduler publishes, as the limits that sandboxes are held to."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from typing import Any, Final

from orchestrator.settings import WorkerSettings
from orchestrator.worker.limits import MIB, OutputLimits, SandboxLimits, SliceLimits, StartLimits
from orchestrator.worker.sandbox import SandboxSettings

_SLICE_TIMEOUT_S: Final = 24 * 3600.0
_PROGRESS_TIMEOUT_S: Final = 300.0


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
    """What one sandbox may write, and how long its start may take."""
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
    return SandboxSettings(
        output=output, start=StartLimits(describe_s=settings.start_timeout_s, assign_s=settings.assign_timeout_s)
    )


def published_for_sandboxes(config: Mapping[str, Any]) -> dict[str, Any]:
    """The Scheduler's settings for sandboxes (`supervisor.sandbox` of its configuration), as a sandbox gets them."""
    supervisor = config.get("supervisor")
    sandbox = supervisor.get("sandbox") if isinstance(supervisor, Mapping) else None
    return dict(sandbox) if isinstance(sandbox, Mapping) else {}


def slice_limits(settings: WorkerSettings, config: Mapping[str, Any]) -> SliceLimits:
    """Our own time limits, else the Scheduler's, else those of the official worker.

    These two are all that the protocol says of limits; a job's own description carries none.
    """
    published = published_for_sandboxes(config)

    def limit(own: float | None, name: str, usual: float) -> float:
        milliseconds = published.get(name)
        if own is not None:
            return own
        if isinstance(milliseconds, int | float) and milliseconds > 0:
            return milliseconds / 1000
        return usual

    return SliceLimits(
        slice_timeout_s=limit(settings.slice_timeout_s, "sliceTimeoutMs", _SLICE_TIMEOUT_S),
        progress_timeout_s=limit(settings.progress_timeout_s, "progressTimeoutMs", _PROGRESS_TIMEOUT_S),
    )
