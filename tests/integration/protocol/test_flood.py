"""A short flood against a real Scheduler process. The long one is `python -m benchmarks.flood`."""

from __future__ import annotations

import pathlib

from tests.flood import siege

MEMORY_MIB = 400


async def test_a_flood_leaves_the_honest_served_and_memory_bounded(tmp_path: pathlib.Path) -> None:
    # Nobody honest connects so often; that is noticed however little of the machine is left for the Scheduler.
    few = ["--address-connects-per-s", "20", "--address-offences-per-s", "0.25"]
    force = siege.Force(seconds=6, connections=200, messages_per_s=20_000, talkers=21)
    report = await siege.flood(tmp_path, force, calm_s=0.5, settings=few)
    told = report.to_json()
    print(told)
    for name in ("own address", "attackers' address", "newcomer"):
        assert report.honest[name].errors == [], told
        assert len(report.honest[name].flood_ms) >= 3, told
    assert report.memory_most - report.memory_before < MEMORY_MIB << 20, told
    assert report.offered_per_s > report.metrics["messages"] / report.seconds > 0, told
    assert report.metrics["connections_refused banned"] > 0, told
    assert "address 127.0.0.2 is banned for 60 s" in report.log
    # Before the ban each who kept to the form was told what was wrong.
    assert {"ENOSYS", "EPERM", "EEXPIRED", "ETIMETRAVEL", "EDUP"} <= report.talkers["said"].keys(), told
    assert "Traceback" not in report.log, report.log[-3000:]
