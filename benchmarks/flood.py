"""Flood a Scheduler with bad peers of ten kinds while an honest client asks: how long that client waits, what the
Scheduler's memory comes to. The flood shares the machine with the Scheduler."""

from __future__ import annotations

import argparse
import asyncio
import json
import pathlib
import resource
import tempfile

from tests import flood


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--connections", type=int, default=2_000)
    parser.add_argument("--packets-per-s", type=float, default=50_000, help="what is tried; what was sent is told")
    parser.add_argument("--output", choices=["text", "json"], default="text")
    options = parser.parse_args()
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    with tempfile.TemporaryDirectory() as folder:
        report = asyncio.run(
            flood.run(
                pathlib.Path(folder), seconds=options.seconds, connections=options.connections,
                packets_per_s=options.packets_per_s,
            )
        )  # fmt: skip
    if options.output == "json":
        print(json.dumps(report.to_json()))
    else:
        for name, value in report.to_json().items():
            print(f"{name:20} {value}")
    if report.honest_errors or not report.honest_ms:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
