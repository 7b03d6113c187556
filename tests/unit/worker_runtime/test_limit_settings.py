"""Every limit of a sandbox can be set, and nothing that is set is forgotten on the way to the sandbox."""

from __future__ import annotations

import dataclasses

from orchestrator.settings import WorkerSettings, settings_from
from orchestrator.worker import limit_settings
from orchestrator.worker.limits import MIB, OutputLimits, SandboxLimits, StartLimits


def test_defaults_are_those_of_the_limits_themselves() -> None:
    settings = settings_from(WorkerSettings, {})
    assert limit_settings.kernel_limits(settings) == SandboxLimits()
    sandbox = limit_settings.sandbox_settings(settings)
    assert (sandbox.output, sandbox.start) == (OutputLimits(), StartLimits())


def test_each_setting_arrives() -> None:
    kernel = {"memory_mib": 100, "swap_mib": 7, "cpus": 0.5, "pids": 20, "open_files": 64}
    made = limit_settings.kernel_limits(settings_from(WorkerSettings, kernel))
    assert made == SandboxLimits(100 * MIB, 7 * MIB, 0.5, 20, 64)
    output = {
        "output_line_bytes": 2 * MIB, "output_slice_bytes": 3 * MIB, "output_total_bytes": 4 * MIB,
        "stderr_bytes": 2048, "output_lines_per_s": 5.0, "output_lines_burst": 11.0, "log_bytes_per_s": 6.0,
        "log_bytes_burst": 1.5 * MIB, "start_timeout_s": 8.0, "assign_timeout_s": 9.0,
    }  # fmt: skip
    sandbox = limit_settings.sandbox_settings(settings_from(WorkerSettings, output))
    found = {*dataclasses.astuple(sandbox.output), *dataclasses.astuple(sandbox.start)}
    assert set(output.values()) <= found
