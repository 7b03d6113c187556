"""How many transfers the Bank settles in a second, beside pgbench's own tpcb-like transactions on the same PostgreSQL.

The server waits for the disk at every commit, as one that holds money does. Both sides have as many connections, and take
turns in rounds; ratios are medians over the rounds. A tpcb-like transaction changes three balances and writes one row of
history. Ours changes two balances, writes a posting with its place in the chain of hashes, and has the database check
that all accounts sum to zero. `alone`: each transfer in a transaction of its own, as many at once as there are
connections. `shared`: what the teller does with many clients, 64 in each process here: transfers that arrive together
share a transaction. `wages`: what is settled when results come in, a hundred payments out of a job's hold.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import re
import sys
import time
from collections.abc import Sequence
from typing import Any

from benchmarks import common
from orchestrator.bank import Bank, Payment
from orchestrator.bank.amounts import UNITS
from orchestrator.bank.ledger import Wanted
from orchestrator.bank.transfers import Transfers
from orchestrator.database import Database, Transaction, retried
from tests.postgres import PostgresServer, binaries

CONNECTIONS = (1, 8)
SCALE = 10
ACCOUNTS = 2_000
BATCH = 100
CLIENTS = 64
KINDS = ("alone", "shared", "wages")
GOAL = 1.0


def account(number: int) -> str:
    return f"0x{number:040d}"


async def prepare(url: str) -> None:
    database = await Database.open(url)
    bank = Bank()
    for first in range(0, ACCOUNTS, 200):
        async with database.transaction() as tx:
            for number in range(first, first + 200):
                await bank.issue(tx, issue_id=str(number), account=account(number), amount=1_000_000 * UNITS)
    await database.close()


async def load(url: str, kind: str, connections: int, seconds: float, number: int) -> dict[str, Any]:
    """One process that settles as fast as it can; how many transfers, and the CPU seconds that it took."""
    database, bank, settled = await Database.open(url, migrate=False), Bank(), 0
    seed = f"{os.getpid()}-{time.time_ns()}-{number}"
    until = 0.0

    async def nothing(_tx: Transaction, _accounts: Sequence[str]) -> None:
        """No account gets a first credit here."""

    together = Transfers(bank, database, nothing)

    async def shared(name: str) -> None:
        nonlocal settled
        choose, count = random.Random(name), 0
        while time.perf_counter() < until:
            count += 1
            source, target = (account(one) for one in choose.sample(range(ACCOUNTS), 2))
            await together.move(Wanted(f"{name}-{count}", source, target, count))
            settled += 1

    async def alone(name: str) -> None:
        nonlocal settled
        choose, count = random.Random(name), 0
        while time.perf_counter() < until:
            count += 1
            source, target = (account(one) for one in choose.sample(range(ACCOUNTS), 2))

            async def once(count: int = count, source: str = source, target: str = target) -> None:
                async with database.transaction() as tx:
                    await bank.transfer(tx, transfer_id=f"{name}-{count}", source=source, target=target, amount=count)

            await retried(once)
            settled += 1

    async def wages(name: str) -> None:
        nonlocal settled
        choose, count = random.Random(name), 0
        async with database.transaction() as tx:
            await bank.hold(tx, hold_id=name, account=account(choose.randrange(ACCOUNTS)), amount=100_000 * UNITS)
        while time.perf_counter() < until:
            count += 1
            workers = [account(one) for one in choose.sample(range(ACCOUNTS), 4)]
            payments = [Payment(f"{count}-{one}", workers[one % 4], 1 + one) for one in range(BATCH)]

            async def once(payments: list[Payment] = payments) -> None:
                async with database.transaction() as tx:
                    await bank.pay(tx, hold_id=name, payments=payments)

            await retried(once)
            settled += BATCH

    work = {"alone": alone, "shared": shared, "wages": wages}[kind]
    workers = CLIENTS if kind == "shared" else connections
    async with database.snapshot():
        pass  # connected before the clock starts
    until = time.perf_counter() + seconds
    began, cpu = time.perf_counter(), time.process_time()
    async with asyncio.TaskGroup() as group:
        for one in range(workers):
            group.create_task(work(f"{seed}-{one}"))
    return {"settled": settled, "seconds": time.perf_counter() - began, "cpu": time.process_time() - cpu}


async def ours(url: str, kind: str, connections: int, seconds: float) -> dict[str, float]:
    """As many processes as cores, the connections shared among them."""
    processes = min(common.CORES, connections)
    shares = [connections // processes + (one < connections % processes) for one in range(processes)]

    async def one(number: int, share: int) -> dict[str, Any]:
        given = json.dumps([url, kind, share, seconds, number])
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "benchmarks.bank", "load", given, stdout=asyncio.subprocess.PIPE
        )
        said, _ = await process.communicate()
        if process.returncode:
            raise SystemExit(f"a process that settles ended with {process.returncode}")
        answer: dict[str, Any] = json.loads(said)
        return answer

    told = await asyncio.gather(*(one(number, share) for number, share in enumerate(shares)))
    settled = sum(answer["settled"] for answer in told)
    return {
        "per_s": sum(answer["settled"] / answer["seconds"] for answer in told),
        "cpu_ms": sum(answer["cpu"] for answer in told) / max(settled, 1) * 1000,
    }


async def pgbench(server: PostgresServer, *arguments: str) -> str:
    process = await asyncio.create_subprocess_exec(
        str(binaries() / "pgbench"), "-h", str(server.folder), "-p", str(server.port), "-U", "dcp", *arguments, "tpcb",
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    out, errors = await process.communicate()
    if process.returncode:
        raise SystemExit(errors.decode())
    return out.decode()


async def theirs(server: PostgresServer, connections: int, seconds: float) -> float:
    threads = str(min(connections, common.CORES))
    said = await pgbench(server, "-n", "-c", str(connections), "-j", threads, "-T", str(max(round(seconds), 1)))
    found = re.search(r"tps = ([0-9.]+)", said)
    assert found, said
    return float(found[1])


async def measure(quick: bool) -> dict[str, Any]:
    rounds, seconds = (2, 2.0) if quick else (5, 6.0)
    figures: dict[str, Any] = {}
    with PostgresServer(durable=True) as server:
        url = await asyncio.to_thread(server.create)
        server.execute("postgres", "CREATE DATABASE tpcb")
        await pgbench(server, "-i", "-q", "-s", str(SCALE))
        await prepare(url)
        for connections in CONNECTIONS:
            samples: dict[str, list[float]] = {name: [] for name in ("pgbench", *KINDS)}
            cpu: dict[str, list[float]] = {name: [] for name in KINDS}
            for _ in range(rounds):
                samples["pgbench"].append(await theirs(server, connections, seconds))
                for kind in KINDS:
                    told = await ours(url, kind, connections, seconds)
                    samples[kind].append(told["per_s"])
                    cpu[kind].append(told["cpu_ms"])
            figures[str(connections)] = {
                "pgbench_per_s": common.median(samples["pgbench"]),
                **{f"{kind}_per_s": common.median(samples[kind]) for kind in cpu},
                **{f"{kind}_cpu_ms": common.median(cpu[kind]) for kind in cpu},
                **{
                    f"{kind}_ratio": common.median(
                        [mine / theirs for mine, theirs in zip(samples[kind], samples["pgbench"], strict=True)]
                    )
                    for kind in cpu
                },
            }
        database = await Database.open(url)
        try:
            began = time.perf_counter()
            async with database.snapshot() as tx:
                audit = await Bank().audit(tx)
            took = time.perf_counter() - began
        finally:
            await database.close()
        if audit.problems:
            raise SystemExit(f"the audit finds: {audit.problems[0]}")
        figures["audit"] = {"postings": audit.postings, "per_s": audit.postings / took, "lanes": len(audit.lanes)}
    return figures


def main() -> None:
    if sys.argv[1:2] == ["load"]:
        print(json.dumps(asyncio.run(load(*json.loads(sys.argv[2])))))
        return
    options = common.parse_options(__doc__)
    machine = common.machine()
    figures = asyncio.run(measure(options.quick))
    goals, lines = [], []
    for connections in CONNECTIONS:
        one = figures[str(connections)]
        shown = ", ".join(
            f"{kind} {one[f'{kind}_per_s']:,.0f}/s ({one[f'{kind}_cpu_ms']:.3f} ms of our CPU each)" for kind in KINDS
        )
        lines.append(f"{connections} connections: pgbench tpcb-like {one['pgbench_per_s']:,.0f}/s; {shown}")
        goals += [
            common.Goal(
                f"{kind} to tpcb-like, {connections} connections",
                one[f"{kind}_ratio"],
                GOAL if kind != "alone" else None,
            )
            for kind in KINDS
        ]
    audit = figures["audit"]
    lines.append(
        f"audit: {audit['postings']:,} postings in {audit['lanes']} lanes, {audit['per_s']:,.0f}/s, nothing wrong"
    )
    common.report(options.output, {"machine": machine, **figures}, goals, lines)


if __name__ == "__main__":
    main()
