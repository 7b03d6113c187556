"""Flood a Scheduler with bad peers of nineteen kinds while honest clients ask: how long those wait, what the Scheduler's
memory comes to. The Scheduler has one core for itself; attackers and honest clients share another.

The attackers wait for nothing: they write what the kernel takes, and who is cut off connects again at once. What they
offered, what reached the Scheduler's machine, and what the Scheduler read of it are told apart."""

from __future__ import annotations

import argparse
import asyncio
import json
import pathlib
import resource
import tempfile

from tests.flood import siege


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--calm-s", type=float, default=10, help="peace before the flood, to compare with")
    parser.add_argument("--connections", type=int, default=2_000)
    parser.add_argument("--messages-per-s", type=float, default=52_000, help="what the attackers offer")
    parser.add_argument("--volley", type=int, default=50, help="messages in one write, with the handshake before them")
    parser.add_argument("--no-bans", action="store_true", help="never ban an address: only shares and limits help")
    parser.add_argument("--output", choices=["text", "json"], default="text")
    options = parser.parse_args()
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    force = siege.Force(options.seconds, options.connections, options.messages_per_s, options.volley)
    with tempfile.TemporaryDirectory() as folder:
        settings = ["--address-ban", "0"] if options.no_bans else []
        report = asyncio.run(siege.flood(pathlib.Path(folder), force, calm_s=options.calm_s, settings=settings))
    print(json.dumps(report.to_json(), indent=None if options.output == "json" else 2))
    if any(times.errors or not times.flood_ms for times in report.honest.values()):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
