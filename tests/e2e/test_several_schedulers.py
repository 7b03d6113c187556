"""Three Scheduler processes on one PostgreSQL behind a TCP balancer, killed at random under the official client and our
Worker: every result arrives once, and the money is right."""

from __future__ import annotations

import asyncio
import contextlib
import pathlib
import random
import shutil

import pytest

from orchestrator.bank import Bank
from orchestrator.database import Database
from orchestrator.settings import SchedulerSettings
from orchestrator.wallet import files
from tests.e2e import harness
from tests.faults.parts import free_port
from tests.parts.relays import Balancer

pytestmark = [pytest.mark.docker, pytest.mark.npm, pytest.mark.timeout(150)]

SLICES = 100
KILLS = 4
PROGRAM = f"""
    const job = compute.for(1, {SLICES}, (i) => {{ progress(); const end = Date.now() + 60; while (Date.now() < end); return i * 2; }});
    job.on('result', (event) => say('result', event.sliceNumber));
    job.on('duplicate-result', (event) => say('duplicate', event));
    say('results', Array.from(await job.exec()));
"""


class Fleet:
    """Scheduler processes, each with a folder of its own, the same key and the same database."""

    def __init__(self, folder: pathlib.Path, url: str, size: int) -> None:
        self.folder = folder
        self.url = url
        self.ports = [free_port() for _ in range(size)]
        self.running: dict[int, harness.Command] = {}

    def _state(self, port: int) -> pathlib.Path:
        state = self.folder / f"scheduler-{port}"
        state.mkdir(exist_ok=True)
        return state

    def share_a_key(self) -> None:
        first = self._state(self.ports[0])
        files.load_or_create(first / "scheduler.keystore", "scheduler")
        for port in self.ports[1:]:
            shutil.copy(first / "scheduler.keystore", self._state(port))

    async def start(self, port: int) -> None:
        self.running[port] = await harness.Command.start(
            "scheduler", "run", "--port", str(port), "--state", str(self._state(port)), "--initial-credit", "1000",
            log=self.folder / f"scheduler-{port}.log", env={"DCP_ORCHESTRATOR_SCHEDULER_DATABASE_URL": self.url},
        )  # fmt: skip
        await self.running[port].wait_for_line("ready ")

    async def kill(self, port: int) -> None:
        await self.running.pop(port).kill()

    async def stop(self) -> None:
        for command in self.running.values():
            with contextlib.suppress(TimeoutError):
                await command.stop()
            await command.kill()

    def logs(self) -> str:
        return "\n----\n".join(path.read_text()[-3000:] for path in sorted(self.folder.glob("*.log")))


async def test_any_process_may_be_killed_at_any_time(
    tmp_path: pathlib.Path, postgres_url: str, node: pathlib.Path, npm_modules: pathlib.Path
) -> None:
    draw = random.Random(4)
    fleet = Fleet(tmp_path, postgres_url, 3)
    fleet.share_a_key()
    folder = tmp_path / "dcp"
    folder.mkdir()
    wallet = await harness.Wallet.create(folder)
    balancer = Balancer(fleet.ports)
    worker: harness.Command | None = None
    try:
        async with asyncio.TaskGroup() as group:
            for port in fleet.ports:
                group.create_task(fleet.start(port))
        async with balancer.serve():
            worker = await harness.Command.start(
                "worker", "run", "--scheduler", balancer.url, "--state", str(tmp_path / "worker"), "--sandboxes", "2",
                log=tmp_path / "worker.log",
            )  # fmt: skip
            await worker.wait_for_line("ready ")
            async with harness.client(
                PROGRAM, scheduler=balancer.url, wallet=wallet, node=node, npm_modules=npm_modules
            ) as client:
                for kill in range(KILLS):
                    await client.wait_for("result", count=1 + kill * SLICES // (KILLS + 2), within=90)
                    port = draw.choice(sorted(fleet.running))
                    await fleet.kill(port)
                    if len(fleet.running) == 1:  # for a while two are missing
                        await fleet.start(next(one for one in fleet.ports if one not in fleet.running))
                outcome = (await client.finish(within=100)).ok()
        assert outcome.one("results") == [2 * i for i in range(1, SLICES + 1)]
        assert sorted(outcome.all("result")) == list(range(1, SLICES + 1))
        # What a killed process had sent, and not yet noted as heard, is sent again; the client tells it from a result.
        assert not any(event["changed"] for event in outcome.all("duplicate"))
        assert all(balancer.carried.values())
        await worker.stop()
    except (AssertionError, TimeoutError) as error:
        raise AssertionError(f"{error}\n{fleet.logs()}") from error
    finally:
        if worker is not None:
            await worker.kill()
        await fleet.stop()
    await _assert_paid(postgres_url, tmp_path / "worker")


async def _assert_paid(url: str, worker_state: pathlib.Path) -> None:
    payee = files.load_or_create(worker_state / "worker.keystore", "worker").address
    database = await Database.open(url)
    async with database.snapshot() as tx:
        bank = Bank()
        audit = await bank.audit(tx)
        assert audit.problems == ()
        assert audit.open_holds == 0
        assert await bank.balance(tx, payee) == SLICES * SchedulerSettings().market_slice_value
    await database.close()
