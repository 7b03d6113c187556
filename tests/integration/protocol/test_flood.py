"""A short flood against a real Scheduler process. The long one is `python -m benchmarks.flood`."""

from __future__ import annotations

import pathlib

from tests import flood

MEMORY_MIB = 600


async def test_a_flood_leaves_the_honest_served_and_memory_bounded(tmp_path: pathlib.Path) -> None:
    report = await flood.run(tmp_path, seconds=8, connections=60, packets_per_s=600)
    told = report.to_json()
    print(told)
    assert report.honest_errors == [], told
    assert len(report.honest_ms) >= 5, told
    assert report.memory_most - report.memory_before < MEMORY_MIB << 20, told
    assert report.dropped > 0, told
    assert "ENOSYS" in report.said, told  # what asks for an unknown operation
    log = (tmp_path / "scheduler.log").read_text()
    assert "Traceback" not in log, log[-3000:]
