"""One of the processes of a flood: `python -m tests.flood ROLE URL …`."""

from __future__ import annotations

import argparse
import asyncio

from tests.flood import honest, talkers


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("role", choices=["resident", "newcomer", "talk"])
    parser.add_argument("url")
    parser.add_argument("--address", default=talkers.ATTACKER)
    parser.add_argument("--connections", type=int, default=1)
    options = parser.parse_args()
    if options.role == "talk":
        asyncio.run(talkers.talk(options.url, options.connections))
        return
    honest.come_from(options.address)
    asyncio.run((honest.resident if options.role == "resident" else honest.newcomer)(options.url))


if __name__ == "__main__":
    main()
