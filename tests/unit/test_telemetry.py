"""Totals that a command reads back are those that the parts recorded."""

from __future__ import annotations

import subprocess
import sys

PROGRAM = """
from orchestrator import telemetry
telemetry.slices_ended.add(5, {"outcome": "completed"})   # before anybody listens: not counted
readings = telemetry.collect_in_memory("test")
assert readings.total("dcp.worker.slices") in (0, 5)
before = readings.total("dcp.worker.slices")
telemetry.slices_ended.add(2, {"outcome": "completed"})
telemetry.slices_ended.add(1, {"outcome": "threw"})
telemetry.slice_cpu_time.add(0.25)
telemetry.slice_wall_time.record(1.0)
assert readings.total("dcp.worker.slices") - before == 3
assert readings.total("dcp.worker.slice.cpu_time") == 0.25
assert readings.total("no.such.metric") == 0
"""


def test_totals_over_all_attributes() -> None:
    # A provider is installed once per process, so the test has one of its own.
    subprocess.run([sys.executable, "-W", "error", "-c", PROGRAM], check=True, timeout=60)
