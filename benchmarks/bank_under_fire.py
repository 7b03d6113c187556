"""The bank test for as long as you like: clients move money while Schedulers and PostgreSQL are killed and connections
are cut; then the books must say what the clients were told. Exit status 1 when they do not."""

from __future__ import annotations

import argparse
import asyncio
import json
import pathlib
import tempfile
import time

from tests import bank_fire
from tests.postgres import PostgresServer


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--schedulers", type=int, default=2)
    parser.add_argument("--clients", type=int, default=4, help="client processes, of five accounts each")
    parser.add_argument("--seed", type=int, default=None, help="of when what is broken; the time, if not given")
    parser.add_argument("--output", choices=["text", "json"], default="text")
    options = parser.parse_args()
    seed = options.seed if options.seed is not None else int(time.time())
    with tempfile.TemporaryDirectory() as folder, PostgresServer(durable=True) as postgres:
        url = postgres.create()
        fire, problems = asyncio.run(
            bank_fire.run(
                postgres, url, pathlib.Path(folder), seconds=options.minutes * 60, schedulers=options.schedulers,
                clients=options.clients, accounts_each=5, crashes=True, seed=seed,
            )
        )  # fmt: skip
    if options.output == "json":
        counts = {word: len(lines) for word, lines in fire.said.items()}
        print(
            json.dumps(
                {"seed": seed, "said": counts, "kills": fire.kills, "crashes": fire.crashes, "problems": problems}
            )
        )
    else:
        print(f"seed {seed}; {fire}")
        for problem in problems:
            print(f"PROBLEM: {problem}")
        print(
            f"{len(problems)} problems"
            if problems
            else "every acknowledged transfer is there, none twice, nothing is lost"
        )
    if problems:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
