"""Every limit of a sandbox can be set, and nothing that is set is forgotten on the way to the sandbox."""

from __future__ import annotations

import dataclasses

import pytest

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


@pytest.mark.parametrize(
    ("own", "published", "seconds"),
    [
        (5.0, 7000, 5.0),
        (None, 7000, 7.0),
        (None, None, 24 * 3600.0),
        (None, -1, 24 * 3600.0),
        (None, "soon", 24 * 3600.0),
    ],
)
def test_whose_time_limit_counts(own: float | None, published: object, seconds: float) -> None:
    settings = settings_from(WorkerSettings, {} if own is None else {"slice_timeout_s": own})
    config = {"supervisor": {"sandbox": {"sliceTimeoutMs": published, "progressTimeoutMs": 1500}}}
    limits = limit_settings.slice_limits(settings, config)
    assert limits.slice_timeout_s == seconds
    assert limits.progress_timeout_s == 1.5


@pytest.mark.parametrize("config", [{}, {"supervisor": 1}, {"supervisor": {"sandbox": []}}])
def test_a_scheduler_that_publishes_nothing(config: dict[str, object]) -> None:
    assert limit_settings.published_for_sandboxes(config) == {}
    assert limit_settings.slice_limits(settings_from(WorkerSettings, {}), config).progress_timeout_s == 300.0
