"""Who has how much, seen through the bank teller while the official client runs a job."""

from __future__ import annotations

import pathlib

import pytest

from orchestrator.bank import Bank
from orchestrator.database import Database, sqlite_url
from orchestrator.protocol.client import ClientConnection, DcpClient
from orchestrator.wallet import files
from orchestrator.wallet.keys import PrivateKey
from tests.e2e import harness

pytestmark = [pytest.mark.docker, pytest.mark.npm]

PROGRAM = """
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


async def _account(teller: ClientConnection, key: PrivateKey) -> tuple[float, float]:
    """Balance and what is held of the account, DCC."""
    answer = await teller.request("viewAccount", {"address": key.address}, authorize=[key])
    return float(answer["balance"]), float(answer["escrow"]["total"])


async def test_slices_are_paid_out_of_a_hold_and_the_rest_comes_back(
    wallet: harness.Wallet, node: pathlib.Path, npm_modules: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    payer = await files.load(wallet.folder / "default.keystore").unlock("")
    payee = PrivateKey.generate()
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
        async with (
            DcpClient(PrivateKey.generate()) as own,
            harness.client(PROGRAM, scheduler=url, wallet=wallet, node=node, npm_modules=npm_modules) as client,
        ):
            teller = own.connect(f"{url}bankTeller/")
            assert await _account(teller, payer) == (1000, 0)
            await client.wait_for("result")
            balance, held = await _account(teller, payer)
            earned = (await _account(teller, payee))[0] - 1000
            assert balance == 990
            assert held in (7.5, 5, 2.5)
            # Asked later, so more may have been earned by then.
            assert earned >= 10 - held
            outcome = (await client.finish()).ok()
            assert outcome.one("cancelled") == "ECANCELLED"
            spent = 2 * outcome.one("cancel")["computed"]
            assert 0 < spent < 200
            # Of the first job, the slice that threw is not paid for.
            assert await _account(teller, payer) == (992.5 - spent, 0)
            assert await _account(teller, payee) == (1007.5 + spent, 0)
            code, message = outcome.one("refused")
            assert code == "ENOFUNDS"
            assert "100 slices cost 10000 DCC" in message
    finally:
        await worker.stop()
        await scheduler.stop()
    database = await Database.open(sqlite_url(tmp_path / "scheduler" / "scheduler.sqlite"))
    try:
        async with database.snapshot() as tx:
            audit = await Bank().audit(tx)
        assert audit.problems == ()
    finally:
        await database.close()
