"""Flood a Scheduler with bad peers of nineteen kinds while honest clients ask: how long those wait, what the Scheduler's
memory comes to. The Scheduler has one core for itself; attackers and honest clients share another."""

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
    parser.add_argument("--calm-s", type=float, default=10, help="peace before the flood, to compare with")
    parser.add_argument("--connections", type=int, default=2_000)
    parser.add_argument("--frames-per-s", type=float, default=50_000, help="what is tried; what was sent is told")
    parser.add_argument("--no-bans", action="store_true", help="never ban an address: only shares and limits help")
    parser.add_argument("--output", choices=["text", "json"], default="text")
    options = parser.parse_args()
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    with tempfile.TemporaryDirectory() as folder:
        report = asyncio.run(
            flood.run(
                pathlib.Path(folder), seconds=options.seconds, calm_s=options.calm_s, connections=options.connections,
                frames_per_s=options.frames_per_s, settings=["--address-ban", "0"] if options.no_bans else [],
            )
        )  # fmt: skip
    print(json.dumps(report.to_json(), indent=None if options.output == "json" else 2))
    if any(times.errors or not times.flood_ms for times in report.honest.values()):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
