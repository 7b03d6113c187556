"""Who has how much, seen through the bank teller: while the official client runs jobs, and when one runs out of funds."""

from __future__ import annotations

import asyncio
import dataclasses
import pathlib
from collections.abc import AsyncIterator

import pytest

from orchestrator.bank import Bank
from orchestrator.compute.job import Job, JobEvent
from orchestrator.database import Database
from orchestrator.protocol.client import DcpClient
from orchestrator.protocol.config import fetch_config
from orchestrator.wallet import files
from orchestrator.wallet.keys import PrivateKey
from tests.e2e import harness
from tests.parts import databases

pytestmark = [pytest.mark.docker, pytest.mark.npm]

SPENDING = """
    const work = (x) => { progress(); const end = Date.now() + 400; while (Date.now() < end); if (x > 3) throw new Error('no'); return x; };
    const job = compute.for(1, 4, work);
    job.on('result', (event) => say('result', event.sliceNumber));
    say('results', Array.from(await job.exec(2.5)).length);
    const second = compute.for(1, 100, (x) => { progress(); const end = Date.now() + 150; while (Date.now() < end); return x; });
    const ended = second.exec(2).catch((error) => say('cancelled', error.code));
    await new Promise((resolve) => second.on('result', resolve));
    say('cancel', await second.cancel('enough'));
    await ended;
    const third = compute.for(1, 100, (x) => x);
    await third.exec(100).catch((error) => say('refused', [error.code, error.message]));
"""

# `resume` of this client looks for a connection that nobody makes: with one, it does what it says.
WAITING = """
    const { Connection } = require('dcp/protocol');
    const job = compute.for(['a', 'b', 'c', 'd', 'e'], (x) => { progress(); return x + x; });
    watch(job);
    job.on('nofunds', async () => {
      job.schedulerConnection = job.schedulerConnection ?? new Connection(dcpConfig.scheduler.services.jobSubmit);
      const answer = await job.resume();
      say('resumed', [answer.code ?? null, answer.message ?? null]);
    });
    say('results', Array.from(await job.exec(300)));
    const status = (await compute.status(job.id))[0] ?? (await compute.status(job.id));
    say('report', [status.status, status.cost, status.spent, status.escrow]);
"""


@dataclasses.dataclass(frozen=True)
class Bench:
    """A Scheduler, a Worker that earns for `payee`, and who pays it."""

    url: str
    payer: PrivateKey
    payee: PrivateKey
    own: DcpClient

    async def account(self, key: PrivateKey) -> tuple[float, float]:
        """Balance and what is held of the account, DCC."""
        teller = self.own.connect(f"{self.url}bankTeller/")
        answer = await teller.request("viewAccount", {"address": key.address}, authorize=[key])
        return float(answer["balance"]), float(answer["escrow"]["total"])


@pytest.fixture
async def bench(wallet: harness.Wallet, tmp_path: pathlib.Path) -> AsyncIterator[Bench]:
    """At the end its books are checked from scratch."""
    payer = await files.load(wallet.folder / "default.keystore").unlock("")
    payee = PrivateKey.generate()
    async with (
        harness.couple(tmp_path, "--payment-address", payee.address) as couple,
        DcpClient(PrivateKey.generate()) as own,
    ):
        yield Bench(couple.url, payer, payee, own)
    database = await Database.open(databases.url_of(tmp_path / "scheduler"))
    try:
        async with database.snapshot() as tx:
            audit = await Bank().audit(tx)
        assert audit.problems == ()
    finally:
        await database.close()


async def test_slices_are_paid_out_of_a_hold_and_the_rest_comes_back(
    bench: Bench, wallet: harness.Wallet, node: pathlib.Path, npm_modules: pathlib.Path
) -> None:
    async with harness.client(
        SPENDING, scheduler=bench.url, wallet=wallet, node=node, npm_modules=npm_modules
    ) as client:
        assert await bench.account(bench.payer) == (1000, 0)
        await client.wait_for("result")
        balance, held = await bench.account(bench.payer)
        earned = (await bench.account(bench.payee))[0] - 1000
        assert balance == 990
        assert held in (7.5, 5, 2.5)
        # Asked later, so more may have been earned by then.
        assert earned >= 10 - held
        outcome = (await client.finish()).ok()
    assert outcome.one("cancelled") == "ECANCELLED"
    spent = 2 * outcome.one("cancel")["computed"]
    assert 0 < spent < 200
    # Of the first job, the slice that threw is not paid for.
    assert await bench.account(bench.payer) == (992.5 - spent, 0)
    assert await bench.account(bench.payee) == (1007.5 + spent, 0)
    code, message = outcome.one("refused")
    assert code == "ENOFUNDS"
    assert "100 slices cost 10000 DCC" in message


@pytest.mark.usefixtures("on_postgres")
async def test_a_job_waits_for_funds_and_goes_on(
    bench: Bench, wallet: harness.Wallet, node: pathlib.Path, npm_modules: pathlib.Path
) -> None:
    """With the official client, and with ours."""
    payer, giver = bench.payer, PrivateKey.generate()
    teller = bench.own.connect(f"{bench.url}bankTeller/")
    async with harness.client(
        WAITING, scheduler=bench.url, wallet=wallet, node=node, npm_modules=npm_modules
    ) as client:
        lacking = await client.wait_for("nofunds")
        assert (lacking["fundsRequired"], lacking["slices"]) == ("600", 2)
        code, message = await client.wait_for("resumed")
        assert code == "ENOFUNDS" and "2 slices cost 600 DCC" in message
        paid = {"fromAccount": giver.address, "toAccount": payer.address, "amount": "700"}
        await teller.request("transfer@1", paid, authorize=[giver])
        outcome = (await client.finish()).ok()
    assert outcome.one("results") == ["aa", "bb", "cc", "dd", "ee"]
    assert outcome.one("report") == ["finished", "1500", "1500", "0"]
    assert [await bench.account(key) for key in (payer, giver)] == [(200, 0), (300, 0)]

    config = await fetch_config(bench.url)
    job = Job("(x) => { progress(); return -x; }", [1, 2, 3], slice_payment=100)
    heard = asyncio.Event()

    def on_event(event: JobEvent) -> None:
        if event.label == "nofunds":
            assert event.data["fundsRequired"] == "100"
            heard.set()

    async with asyncio.timeout(60), asyncio.TaskGroup() as group:
        running = group.create_task(job.exec(bench.own, config, payer, on_event))
        await heard.wait()
        answer = await job.add_funds(bench.own, config, giver)
        assert (answer["added"], answer["fundsRequired"]) == ("100", "0")
    assert running.result() == [-1, -2, -3]
    assert [await bench.account(key) for key in (payer, giver)] == [(0, 0), (200, 0)]
    assert await bench.account(bench.payee) == (1000 + 1500 + 300, 0)
