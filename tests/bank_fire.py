"""The bank test: many client processes move money at random through several Schedulers on one PostgreSQL, while those
are killed and connections are cut, on both sides of them. Then the books are compared with what the clients were told.
"""

from __future__ import annotations

import asyncio
import collections
import contextlib
import dataclasses
import json
import pathlib
import random
import sys
import time
from collections.abc import Iterable

import psycopg
import sqlalchemy as sa

from orchestrator.bank import Audit, Bank, store
from orchestrator.bank.amounts import UNITS
from orchestrator.database import Database
from orchestrator.wallet import files
from orchestrator.wallet.keys import PrivateKey
from tests.e2e import harness
from tests.parts.relays import CuttableProxy
from tests.postgres import PostgresServer

START = 100
"""DCC that each account has at first"""
FINISH_S = 90.0
START_S = 240.0
"""for a Scheduler to start, whose connections to the database are cut again and again, on a busy machine"""


@dataclasses.dataclass
class Fire:
    """How it was set on fire, and what the clients say."""

    kills: int = 0
    cut_from_clients: int = 0
    cut_from_database: int = 0
    crashes: int = 0
    said: dict[str, list[str]] = dataclasses.field(default_factory=lambda: collections.defaultdict(list))

    @property
    def has_burned(self) -> bool:
        """Each harm was done at least once."""
        return min(self.kills, self.cut_from_clients, self.cut_from_database) > 0

    def __str__(self) -> str:
        said = ", ".join(f"{len(self.said[word])} {word}" for word in ("asked", "posted", "refused"))
        return (
            f"transfers: {said}; Schedulers killed: {self.kills}, PostgreSQL crashed: {self.crashes}, connections cut:"
            f" {self.cut_from_clients} of clients, {self.cut_from_database} to the database"
        )


@dataclasses.dataclass
class Server:
    """A Scheduler that can be killed and started again, behind a relay whose connections can be cut."""

    database: str
    folder: pathlib.Path
    proxy: CuttableProxy
    command: harness.Command | None = None

    async def start(self) -> None:
        """As a service manager does it: one that finds no database ends and is started again."""
        until = time.monotonic() + START_S
        while True:
            self.command = await harness.Command.start(
                "scheduler", "run", "--port", "0", "--state", str(self.folder), "--database", self.database,
                log=self.folder.with_suffix(".log"),
            )  # fmt: skip
            try:
                ready = await self.command.wait_for_line("ready ", within=max(until - time.monotonic(), 1.0))
                break
            except AssertionError:
                if "EDATABASE" not in self.command.log.read_text()[-4000:]:
                    raise
            except TimeoutError as error:
                said = self.command.log.read_text()[-4000:]
                raise AssertionError(f"not ready within {START_S:.0f} s: {said}") from error
        self.proxy.target_port = int(ready.rstrip("/").rpartition(":")[2])

    async def again(self) -> None:
        assert self.command is not None
        await self.command.kill()
        await self.start()


@dataclasses.dataclass
class Client:
    process: asyncio.subprocess.Process
    fire: Fire

    @classmethod
    async def start(cls, fire: Fire, given: dict[str, object], log: pathlib.Path) -> Client:
        with log.open("ab") as stderr:
            process = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "tests.bank_client",
                stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=stderr,
                cwd=pathlib.Path(__file__).parent.parent,
            )  # fmt: skip
        assert process.stdin is not None
        process.stdin.write(json.dumps(given).encode() + b"\n")
        return cls(process, fire)

    async def listen(self) -> None:
        assert self.process.stdout is not None
        async for line in self.process.stdout:
            word, _, rest = line.decode().strip().partition(" ")
            self.fire.said[word].append(rest)

    def ask_to_stop(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()


async def run(
    postgres: PostgresServer, url: str, folder: pathlib.Path, *,
    seconds: float, schedulers: int = 2, clients: int = 3, accounts_each: int = 4, crashes: bool = False, seed: int = 1,
) -> tuple[Fire, list[str]]:  # fmt: skip
    """Set fire for so long; what happened, and what is wrong afterwards. `crashes`: PostgreSQL itself is killed too."""
    keys = [[PrivateKey.generate() for _ in range(accounts_each)] for _ in range(clients)]
    accounts = [key.address for some in keys for key in some]
    database = await Database.open(url)
    async with database.transaction() as tx:
        for account in accounts:
            await Bank().issue(tx, issue_id=account, account=account, amount=START * UNITS)
    await database.close()
    fire = Fire()
    async with contextlib.AsyncExitStack() as stack:
        servers = await _servers(stack, url, folder, schedulers)
        urls = [f"http://127.0.0.1:{server.proxy.port}/bankTeller/" for server in servers]
        running: list[Client] = []
        for number, some in enumerate(keys):
            given = {
                "urls": urls,
                "keys": [key.to_hex() for key in some],
                "accounts": accounts,
                "seed": str(number),
            }
            client = await Client.start(fire, given, folder / f"client{number}.log")
            stack.callback(_end, client.process)
            running.append(client)
        async with asyncio.TaskGroup() as group:
            listening = [group.create_task(client.listen()) for client in running]
            await _burn(
                fire,
                random.Random(seed),
                servers,
                postgres,
                url,
                seconds=seconds,
                crashes=crashes,
            )
            for client in running:
                client.ask_to_stop()
            async with asyncio.timeout(FINISH_S):
                await asyncio.wait(listening)
        problems = [
            f"client {n} ended with {c.process.returncode}" for n, c in enumerate(running) if await c.process.wait()
        ]
    return fire, problems + await _compare(fire, url, accounts)


async def _servers(stack: contextlib.AsyncExitStack, url: str, folder: pathlib.Path, count: int) -> list[Server]:
    key = folder / "scheduler.keystore"
    files.load_or_create(key, "scheduler")
    servers = []
    for number in range(count):
        state = folder / f"scheduler{number}"
        state.mkdir()
        (state / "scheduler.keystore").write_bytes(key.read_bytes())
        (state / "scheduler.keystore").chmod(0o600)
        proxy = await stack.enter_async_context(CuttableProxy(0).serve())
        servers.append(Server(url, state, proxy))
    await asyncio.gather(*(server.start() for server in servers))
    for server in servers:
        stack.push_async_callback(_stop, server)
    return servers


async def _stop(server: Server) -> None:
    if server.command is not None:
        await server.command.kill()


def _end(process: asyncio.subprocess.Process) -> None:
    if process.returncode is None:
        process.kill()


async def _burn(
    fire: Fire, choose: random.Random, servers: list[Server], postgres: PostgresServer, url: str, *,
    seconds: float, crashes: bool,
) -> None:  # fmt: skip
    until = time.monotonic() + seconds
    longest = until + 4 * seconds  # for a busy machine, where a cut may find nothing to cut for a while
    name = url.partition("@/")[2].partition("?")[0]
    harms = ["client", "client", "database", "database", "kill"] + ["crash"] * crashes
    async with asyncio.TaskGroup() as group:
        starting: dict[int, asyncio.Task[None]] = {}
        while time.monotonic() < (until if fire.has_burned else longest):
            await asyncio.sleep(choose.uniform(0.1, 0.6))
            match choose.choice(harms):
                case "client":
                    fire.cut_from_clients += choose.choice(servers).proxy.cut()
                case "database":
                    fire.cut_from_database += await asyncio.to_thread(_terminate, postgres, name, choose.random())
                case "kill":
                    number = choose.randrange(len(servers))
                    # One is always up, or nobody would be asked anything.
                    if all(task.done() for task in starting.values()):
                        fire.kills += 1
                        starting[number] = group.create_task(servers[number].again())
                case "crash":
                    fire.crashes += 1
                    await asyncio.to_thread(postgres.kill)
                    await asyncio.to_thread(postgres.start)
                    await asyncio.sleep(2)  # or nothing else would ever happen


def _terminate(postgres: PostgresServer, name: str, part: float) -> int:
    """Cut some of the connections to a database, in whatever they are doing."""
    where = {
        "host": str(postgres.folder),
        "port": postgres.port,
        "user": "dcp",
        "dbname": "postgres",
    }
    with psycopg.connect(**where, autocommit=True) as connection:  # type: ignore[arg-type]
        cut = connection.execute(
            "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE datname = %s AND random() < %s",
            (name, part),
        ).fetchone()
    assert cut is not None
    return int(cut[0])


async def _compare(fire: Fire, url: str, accounts: Iterable[str]) -> list[str]:
    """What the books say against what the clients heard."""
    database = await Database.open(url)
    try:
        async with database.snapshot() as tx:
            audit: Audit = await Bank().audit(tx)
            balances = await Bank().balances(tx, list(accounts))
            names = {account.key: account.name async for account in store.all_accounts(tx)}
            rows = (await tx.execute(sa.select(store.postings).where(store.postings.c.kind == "transfer"))).all()
    finally:
        await database.close()
    problems = list(audit.problems)
    if sum(balances.values()) != len(balances) * START * UNITS:
        problems.append(f"there were {len(balances) * START} DCC, now there are {sum(balances.values()) / UNITS}")
    problems += [f"{account} is below zero" for account, balance in balances.items() if balance < 0]
    booked = collections.Counter(
        f"{row.posting_id.rpartition(':')[2]} {names[row.source]} {names[row.target]} {row.high * store.LIMB + row.low}"
        for row in rows
    )
    problems += [f"was acknowledged and is not there: {one}" for one in fire.said["posted"] if booked[one] == 0]
    problems += [f"is there {count} times: {one}" for one, count in booked.items() if count != 1]
    problems += [f"was refused and is there: {one}" for one in fire.said["refused"] if booked[one]]
    asked = set(fire.said["asked"])
    problems += [f"nobody asked for it: {one}" for one in booked if one not in asked]
    problems += [
        f"nobody heard how it ended: {one}" for one in asked.difference(fire.said["posted"], fire.said["refused"])
    ]
    return problems
