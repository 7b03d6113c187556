"""PostgreSQL is restarted and crashes while a job of the official client runs through our Scheduler and Worker: every
result comes once, and is paid once."""

from __future__ import annotations

import asyncio
import pathlib
from collections.abc import Iterator

import pytest

from orchestrator.bank import Bank
from orchestrator.bank.amounts import UNITS
from orchestrator.database import Database
from orchestrator.settings import SchedulerSettings
from orchestrator.wallet import files
from orchestrator.wallet.keys import PrivateKey
from tests.e2e import harness
from tests.postgres import PostgresServer

pytestmark = [pytest.mark.docker, pytest.mark.npm, pytest.mark.timeout(120)]

SLICES = 40
PROGRAM = f"""
    const job = compute.for(1, {SLICES}, (i) => {{
      progress();
      const end = Date.now() + 60;
      while (Date.now() < end);
      return i * 2;
    }});
    watch(job);
    say('results', Array.from(await job.exec()));
"""


@pytest.fixture
def own_server() -> Iterator[PostgresServer]:
    with PostgresServer() as server:
        yield server


async def test_a_job_of_the_official_client_outlives_its_database(
    tmp_path: pathlib.Path, own_server: PostgresServer, wallet: harness.Wallet, node: pathlib.Path,
    npm_modules: pathlib.Path,
) -> None:  # fmt: skip
    url = await asyncio.to_thread(own_server.create)
    scheduler = await harness.Command.start(
        "scheduler", "run", "--port", "0", "--state", str(tmp_path / "scheduler"), "--initial-credit", "1000",
        log=tmp_path / "scheduler.log", env={"DCP_ORCHESTRATOR_SCHEDULER_DATABASE_URL": url},
    )  # fmt: skip
    worker: harness.Command | None = None
    try:
        there = await harness.url_of(scheduler)
        worker = await harness.Command.start(
            "worker", "run", "--scheduler", there, "--state", str(tmp_path / "worker"), "--sandboxes", "2",
            log=tmp_path / "worker.log",
        )  # fmt: skip
        async with harness.client(
            PROGRAM, scheduler=there, wallet=wallet, node=node, npm_modules=npm_modules
        ) as client:
            for share, end in enumerate((own_server.stop, own_server.kill), 1):
                await client.wait_for("result", count=share * SLICES // 4)
                await asyncio.to_thread(end)
                await asyncio.to_thread(own_server.start)
            outcome = (await client.finish(within=60)).ok()
        assert scheduler.process.returncode is None, "it was never started again"
        assert await worker.stop() == 0
    finally:
        for command in (worker, scheduler):
            if command is not None:
                await command.kill()
    assert outcome.one("results") == [2 * i for i in range(1, SLICES + 1)]
    assert sorted(event["sliceNumber"] for event in outcome.all("result")) == list(range(1, SLICES + 1))
    # What was sent, and could not be noted as heard, is sent again; the client tells it from a result.
    assert not any(event["changed"] for event in outcome.all("duplicate-result"))
    assert len(outcome.all("stop")) == len(outcome.all("complete")) == 1
    assert outcome.all("error") == outcome.all("nofunds") == outcome.all("cancel") == []
    await _assert_paid_once(url, tmp_path / "worker", await files.load(wallet.folder / "default.keystore").unlock(""))


async def _assert_paid_once(url: str, worker_state: pathlib.Path, client: PrivateKey) -> None:
    payee = files.load_or_create(worker_state / "worker.keystore", "worker").address
    bank, price = Bank(), SLICES * SchedulerSettings().market_slice_value
    database = await Database.open(url)
    async with database.snapshot() as tx:
        audit = await bank.audit(tx)
        left = await bank.balances(tx, [payee, client.address])
    await database.close()
    assert (audit.problems, audit.open_holds) == ((), 0), "the sum of all accounts is one of the audit's questions"
    assert left == {payee: price, client.address: 1000 * UNITS - price}
