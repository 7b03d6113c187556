"""A job that runs out of funds and goes on: with the official client, and with ours."""

from __future__ import annotations

import asyncio
import pathlib

import pytest

from orchestrator.compute.job import Job, JobEvent
from orchestrator.protocol.client import DcpClient
from orchestrator.protocol.config import fetch_config
from orchestrator.wallet import files
from orchestrator.wallet.keys import PrivateKey
from tests.e2e import harness

pytestmark = [pytest.mark.docker, pytest.mark.npm]

# `resume` of this client looks for a connection that nobody makes: with one, it does what it says.
PROGRAM = """
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


async def test_a_job_waits_for_funds_and_goes_on(
    wallet: harness.Wallet, node: pathlib.Path, npm_modules: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    payer = await files.load(wallet.folder / "default.keystore").unlock("")
    payee, giver = PrivateKey.generate(), PrivateKey.generate()
    scheduler = await harness.Command.start(
        "scheduler", "run", "--port", "0", "--state", str(tmp_path / "scheduler"), "--initial-credit", "1000",
        log=tmp_path / "scheduler.log",
    )  # fmt: skip
    url = (await scheduler.wait_for_line("ready ")).removeprefix("ready ").strip()
    worker = await harness.Command.start(
        "worker", "run", "--scheduler", url, "--state", str(tmp_path / "worker"), "--sandboxes", "1",
        "--payment-address", payee.address, log=tmp_path / "worker.log",
    )  # fmt: skip
    try:
        async with DcpClient(PrivateKey.generate()) as own:
            teller = own.connect(f"{url}bankTeller/")

            async def balance(key: PrivateKey) -> float:
                answer = await teller.request("viewAccount", {"address": key.address}, authorize=[key])
                assert answer["escrow"]["num"] == 0
                return float(answer["balance"])

            async with harness.client(
                PROGRAM, scheduler=url, wallet=wallet, node=node, npm_modules=npm_modules
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
            assert (await balance(payer), await balance(giver)) == (200, 300)

            config = await fetch_config(url)
            job = Job("(x) => { progress(); return -x; }", [1, 2, 3], slice_payment=100)
            heard = asyncio.Event()

            def on_event(event: JobEvent) -> None:
                if event.label == "nofunds":
                    assert event.data["fundsRequired"] == "100"
                    heard.set()

            async with asyncio.timeout(60), asyncio.TaskGroup() as group:
                running = group.create_task(job.exec(own, config, payer, on_event))
                await heard.wait()
                answer = await job.add_funds(own, config, giver)
                assert (answer["added"], answer["fundsRequired"]) == ("100", "0")
            assert running.result() == [-1, -2, -3]
            assert (await balance(payer), await balance(giver)) == (0, 200)
            assert await balance(payee) == 1000 + 1500 + 300
    finally:
        await worker.stop()
        await scheduler.stop()
