"""What the Bank counts, and that a Scheduler shows it."""

import pathlib
from typing import Any

import aiohttp
import pytest
from prometheus_client.parser import text_string_to_metric_families

from orchestrator import telemetry
from orchestrator.bank import Bank, NotPending
from orchestrator.bank.amounts import UNITS
from orchestrator.bank.measuring import Measuring
from orchestrator.bank.sweep import Sweep
from orchestrator.bank.teller import Teller
from orchestrator.database import Database
from orchestrator.errors import NotEnoughFunds
from orchestrator.protocol.client import DcpClient
from orchestrator.scheduler.app import SchedulerApp
from orchestrator.settings import SchedulerSettings
from orchestrator.wallet.keys import PrivateKey
from tests.integration.bank.test_teller import A, Asked, B


def transfers() -> dict[str, float]:
    return {labels["outcome"]: total for labels, total in telemetry.bank_transfers.series()}


def timed() -> int:
    return sum(sum(counts) for _, counts, _ in telemetry.bank_transfer_time.series())


async def test_transfers_are_counted_by_what_became_of_them(database_url: str) -> None:
    database = await Database.open(database_url)
    now = 1000.0
    bank = Bank(clock=lambda: now)
    teller = Teller(bank, database)
    async with database.transaction() as tx:
        await bank.open_account_with_credit(tx, A, 10 * UNITS)
        await bank.hold(tx, hold_id="j", account=A, amount=UNITS)
        await bank.hold(tx, hold_id="k", account=A, amount=UNITS)
        await bank.hold(tx, hold_id="over", account=A, amount=UNITS)
        await bank.release(tx, "over")
    before, times = transfers(), timed()
    data: dict[str, Any] = {"fromAccount": A, "toAccount": B, "amount": "1"}
    await teller.handle(Asked("transfer@1", data))
    with pytest.raises(NotEnoughFunds):
        await teller.handle(Asked("transfer@1", {**data, "amount": "100"}))
    for name in ("gone", "done", "late", "open"):
        await teller.handle(Asked("reserveTransfer", {**data, "transferId": name, "expiresIn": 10}))
    await teller.handle(Asked("postTransfer", {"fromAccount": A, "transferId": "done"}))
    await teller.handle(Asked("voidTransfer", {"fromAccount": A, "transferId": "gone"}))
    with pytest.raises(NotPending):
        await teller.handle(Asked("voidTransfer", {"fromAccount": A, "transferId": "done"}))
    await teller.handle(Asked("viewAccount", {"address": A}))
    measuring = Measuring(bank, database)
    await measuring.once()
    ((_, escrow),), ((_, holds),), ((_, pending),) = (
        list(gauge.series()) for gauge in (telemetry.bank_escrow, telemetry.bank_holds, telemetry.bank_pending)
    )
    assert (escrow, holds, pending) == (2, 2, 2)
    now += 10
    assert await Sweep(bank, database, lambda: now).once() == 2
    grown = {name: total - before.get(name, 0) for name, total in transfers().items()}
    assert {name: more for name, more in grown.items() if more} == {"posted": 2, "pending": 4, "void": 3, "refused": 2}
    assert timed() - times == 9
    await database.close()


async def test_a_scheduler_shows_its_metrics_and_that_it_serves(tmp_path: pathlib.Path) -> None:
    async with SchedulerApp(SchedulerSettings(port=0, state_dir=tmp_path, metrics_listen="127.0.0.1:0")) as app:
        assert app.metrics is not None
        base = f"http://127.0.0.1:{app.metrics.port}"
        async with aiohttp.ClientSession(base) as session:
            for page in ("/healthz", "/readyz"):
                async with session.get(page) as answer:
                    assert answer.status == 200
            async with DcpClient(PrivateKey.generate()) as client:
                await client.connect(f"{app.url}pheme/").request("listJobs", {})
            names: set[str] = set()
            while "dcp_bank_holds" not in names:  # the books are read at once
                async with session.get("/metrics") as answer:
                    names = {family.name for family in text_string_to_metric_families(await answer.text())}
    assert {"dcp_bank_escrow", "dcp_bank_pending", "dcp_bank_chain_withdrawals_in_flight"} <= names
    of_the_process = {"process_memory_bytes", "process_cpu_time_seconds", "lag_seconds", "workers", "requests_waiting"}
    of_its_work = {"request_time_seconds", "transaction_time_seconds"}
    assert {f"dcp_scheduler_{name}" for name in of_the_process | of_its_work} <= names
