"""What is held for a job, what becomes of it when it runs low, and that nobody is paid twice."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import sqlalchemy as sa

from orchestrator.bank import Bank
from orchestrator.errors import OrchestratorError
from orchestrator.jobs.words import join_hash_hash
from orchestrator.protocol.client import DcpClient
from orchestrator.protocol.errors import RemoteError
from orchestrator.scheduler.app import SchedulerApp
from orchestrator.scheduler.store import jobs
from orchestrator.scheduler.store.jobs import JobState
from orchestrator.settings import SchedulerSettings
from orchestrator.wallet.keys import PrivateKey
from tests.integration.scheduler.actors import Deployer, authorization_of, deployer, fake_worker, serving

DCC = 10**18
COSTLY: dict[str, Any] = {"mvMultSlicePayment": 0, "absoluteSlicePayment": 300}
"""An account starts with 1000 DCC: enough for three such slices."""


async def balance(app: SchedulerApp, account: str) -> float:
    async with app.core.database.snapshot() as tx:
        return await Bank().balance(tx, account) / DCC


async def state_of(app: SchedulerApp, job: str) -> tuple[JobState, float]:
    """The job, and what is in its hold."""
    async with app.core.database.snapshot() as tx:
        known = await app.core.catalog.get(tx, job)
        held = (await app.core.money.held(tx, [known]))[known.key]
        return (await jobs.states(tx, [known.key]))[known.key], held / DCC


async def check_books(app: SchedulerApp) -> None:
    async with app.core.database.snapshot() as tx:
        assert (await Bank().audit(tx)).problems == ()


async def transfer(app: SchedulerApp, client: Deployer, amount: str) -> PrivateKey:
    """Somebody else pays into the account of the job's owner."""
    giver = PrivateKey.generate()
    async with DcpClient(PrivateKey.generate()) as own:
        teller = own.connect(f"{app.url}bankTeller/")
        data = {"fromAccount": giver.address, "toAccount": client.account.address, "amount": amount}
        await teller.request("transfer@1", data, authorize=[giver])
    return giver


async def hungry(client: Deployer, values: Sequence[Any] = (1, 2, 3, 4, 5)) -> str:
    """A job that has funds for three of its slices."""
    job = await client.deploy("status", "nofunds", "result", **COSTLY)
    await client.add(job, list(values))
    await client.results.request("closeJob", {"job": job})
    return job


async def test_a_job_whose_hold_is_used_up_is_paused_and_goes_on_when_money_comes(app: SchedulerApp) -> None:
    async with deployer(app.url) as client, fake_worker(app.url, load=8) as worker:
        job = await hungry(client)
        assert (await state_of(app, job))[1] == 900
        while (await state_of(app, job))[0].counts.leased + len(worker.answers) < 3:
            answer = await worker.take()
            if len(worker.taken) < 3:
                await worker.compute(answer)
        told = (await client.wait_for("nofunds"))[0]
        assert (told["fundsRequired"], told["slices"], told["slicePrice"]) == ("600", 2, "300")
        assert told["paymentAccount"] == client.account.address
        paused, held = await state_of(app, job)
        assert (paused.status, paused.counts.leased) == ("paused", 3 - len(worker.answers))
        assert held == 300 * paused.counts.leased
        # What is out is paid, and nothing more goes out.
        await worker.compute(answer)
        assert [one["slicePaymentAmount"] for one in worker.answers] == ["300"] * 3
        assert not (await worker.take())["body"].get("task")
        report = (await client.pheme.request("listJobs", {"job": job}))[0]
        assert {name: report[name] for name in ("status", "escrow", "spent", "cost", "fundsRequired")} == {
            "status": "paused", "escrow": "0", "spent": "900", "cost": "1500", "fundsRequired": "600",
        }  # fmt: skip
        # Enough for one slice: it is computed, and what is lacking is told anew.
        await transfer(app, client, "250")
        await worker.compute(await worker.take())
        assert (await client.wait_for("nofunds", 2))[1]["fundsRequired"] == "300"
        await transfer(app, client, "250")
        await worker.compute(await worker.take())
        assert (await client.wait_for("stop"))[0]["runStatus"] == "finished"
        assert (await balance(app, worker.payment.address), await balance(app, client.account.address)) == (1500, 0)
        assert len(client.of("nofunds")) == 2
    await check_books(app)


async def test_funds_are_added_once_and_out_of_any_account_that_signs(app: SchedulerApp) -> None:
    async with deployer(app.url) as client, serving(app.url) as worker:
        job = await hungry(client)
        await client.wait_for("nofunds")
        giver = PrivateKey.generate()
        wish = {"job": job, "amount": 700, "account": giver.address, "transferId": "gift"}

        async def add(*keys: PrivateKey, **fields: Any) -> Any:
            return await client.submit_service.request("addFunds", {**wish, **fields}, authorize=list(keys))

        for code, keys, fields in (
            ("EPERM", (), {}),
            ("EPERM", (client.account,), {}),
            ("EINVAL", (giver,), {"amount": "299.9"}),
            ("EINVAL", (giver,), {"amount": -1}),
            ("EINVAL", (giver,), {"transferId": ""}),
            ("EINVAL", (giver,), {"transferId": None}),
            ("ENOFUNDS", (giver,), {"amount": "3000"}),
            ("ENOENT", (giver,), {"job": "x" * 22}),
        ):
            with pytest.raises(RemoteError) as caught:
                await add(*keys, **fields)
            assert caught.value.code == code, fields
        answer = await add(giver)
        assert (answer["added"], answer["fundsRequired"]) == ("600", "0")
        assert (await add(giver))["added"] == "0" or (await state_of(app, job))[0].ended_at is not None
        await client.wait_for("stop")
        assert (await balance(app, giver.address), await balance(app, client.account.address)) == (400, 100)
        assert await balance(app, worker.payment.address) == 1500
        with pytest.raises(RemoteError) as caught:
            await add(giver, transferId="late")
        assert caught.value.code == "ECLOSED"
    await check_books(app)


async def test_what_a_job_lacks_is_added_when_no_amount_is_named(app: SchedulerApp) -> None:
    async with deployer(app.url) as client:
        job = await hungry(client)
        giver = PrivateKey.generate()
        wish = {"job": job, "account": giver.address}
        answer = await client.submit_service.request("addFunds", wish, authorize=[giver])
        assert (answer["added"], answer["escrow"], answer["cost"]) == ("600", "1500", "1500")
        assert answer["transferId"]
        answer = await client.submit_service.request("addFunds", wish, authorize=[giver])
        assert answer["added"] == "0"


async def test_resume_says_what_is_lacking_until_there_is_enough(app: SchedulerApp) -> None:
    async with deployer(app.url) as client, fake_worker(app.url, load=8) as worker:
        job = await hungry(client)
        while len(worker.taken) < 3:
            answer = await worker.take()
            await worker.compute(answer)
        await client.wait_for("nofunds")
        resume = {"job": job, "owner": client.account.address}
        with pytest.raises(RemoteError, match="has 100 DCC; 2 slices cost 600 DCC") as caught:
            await client.submit_service.request("resumeJob", resume)
        assert caught.value.code == "ENOFUNDS"
        async with deployer(app.url) as stranger:
            with pytest.raises(RemoteError) as caught:
                await stranger.submit_service.request("resumeJob", resume)
            assert caught.value.code == "EPERM"
        # Money that came in past this process's teller.
        async with app.core.database.transaction() as tx:
            source = PrivateKey.generate().address
            await Bank().open_account_with_credit(tx, source, 500 * DCC)
            to = client.account.address
            await Bank().transfer(tx, transfer_id="t", source=source, target=to, amount=500 * DCC)
        assert (await client.submit_service.request("resumeJob", resume))["status"] in ("running", "estimation")
        # The same submit again does as well, and harms nothing.
        _, answer = await client.submit(job=job, **COSTLY)
        assert answer["status"] in ("running", "estimation")


async def test_an_open_job_is_held_for_an_estimate_and_the_surplus_goes_back_when_it_is_closed(
    app: SchedulerApp,
) -> None:
    async with deployer(app.url) as client:
        job = await client.deploy(mvMultSlicePayment=0, absoluteSlicePayment=20)
        assert (await state_of(app, job))[1] == 200
        await client.add(job, [1, 2, 3])
        assert (await state_of(app, job))[1] == 200
        await client.add(job, list(range(9)))
        assert (await state_of(app, job))[1] == 240
        second = await client.deploy(mvMultSlicePayment=0, absoluteSlicePayment=20)
        await client.add(second, [1, 2, 3])
        for _ in range(2):
            await client.results.request("closeJob", {"job": second})
        assert (await state_of(app, second))[1] == 60
        assert await balance(app, client.account.address) == 1000 - 240 - 60
        with pytest.raises(RemoteError, match="1 slice costs 701 DCC") as caught:
            await client.submit(mvMultSlicePayment=0, absoluteSlicePayment=701)
        assert caught.value.code == "ENOFUNDS"
    await check_books(app)


async def test_an_open_job_that_outgrows_its_hold_waits_for_funds_and_is_not_closed(app: SchedulerApp) -> None:
    """Inputs are streamed, and nobody knows how many: the hold follows them as far as the account goes."""
    async with deployer(app.url) as client, fake_worker(app.url, load=8) as worker:
        job = await client.deploy("nofunds", **COSTLY)
        assert (await state_of(app, job))[0].funded == 3, "an estimate of ten slices, cut to what the account has"
        for number in range(1, 5):
            await client.add(job, [number])
            if number < 4:
                assert (await state_of(app, job))[0].status != "paused"
                await worker.compute(await worker.take())
        told = (await client.wait_for("nofunds"))[0]
        assert (told["fundsRequired"], told["slices"]) == ("300", 1)
        state, held = await state_of(app, job)
        assert (state.status, state.closed, held) == ("paused", False, 0)
        await transfer(app, client, "200")
        await worker.compute(await worker.take())
        await client.add(job, [5])
        assert (await client.wait_for("nofunds", 2))[1]["fundsRequired"] == "300"
        assert len(worker.answers) == 4
    await check_books(app)


async def test_a_commission_is_paid_to_the_owner_of_the_group(app: SchedulerApp) -> None:
    async with deployer(app.url) as client, deployer(app.url) as owner, fake_worker(app.url) as worker:
        key, secret = "guild", "eh1-" + "1" * 64
        join = {"joinKey": key, "joinHash": secret}
        till = PrivateKey.generate().address
        rules = {"commissionRate": 0.25, "paymentAddress": till}
        made = await owner.groups.request(
            "createGroup", {"joinDescriptor": join, "name": "g", "description": "", "otherProperties": rules}
        )
        assert made["success"], made
        job, _ = await client.submit(dataRange={"start": 1, "end": 2, "step": 1}, **COSTLY)
        await client.subscribe(job)
        await client.groups.request("keepalive", {})
        proof = {"joinKey": key, "joinHashHash": join_hash_hash(client.groups.dcpsid or "", secret)}
        joined = await client.groups.request("addJobToGroups", {"job": job, "cgArray": [proof]})
        assert joined["success"], joined
        for _ in range(2):
            await worker.tasks.request("keepalive", {})
            mine = [{"joinKey": key, "joinHashHash": join_hash_hash(worker.tasks.dcpsid or "", secret)}]
            answer = await worker.take(workerComputeGroups=mine)
            await worker.compute(answer)
            if len(worker.answers) == 2:
                break
        await client.wait_for("stop")
        assert [one["slicePaymentAmount"] for one in worker.answers] == ["225"] * 2
        assert (await balance(app, worker.payment.address), await balance(app, till)) == (450, 150)
        assert await balance(app, client.account.address) == 400
    await check_books(app)


class Killer:
    """Breaks off the transaction in which results are settled at its n-th statement, as a killed process would."""

    def __init__(self, app: SchedulerApp) -> None:
        self.left = 0
        self.struck = False
        self._task: asyncio.Task[Any] | None = None
        commits = app.results._commits
        apply = commits._apply

        async def watched(items: Any) -> None:
            self._task = asyncio.current_task()
            try:
                await apply(items)
            finally:
                self._task = None

        commits._apply = watched
        sa.event.listen(app.core.database._engine.sync_engine, "before_cursor_execute", self._strike)

    def at(self, statement: int) -> None:
        self.left, self.struck = statement, False

    def _strike(self, *_: Any) -> None:
        if self._task is not None and asyncio.current_task() is self._task and self.left > 0:
            self.left -= 1
            if self.left == 0:
                self.struck = True
                raise RuntimeError("killed")


async def test_a_slice_is_paid_once_wherever_the_settlement_is_broken_off(app: SchedulerApp) -> None:
    async with deployer(app.url) as client, fake_worker(app.url, load=1) as worker:
        job = await client.deploy(dataRange={"start": 1, "end": 60, "step": 1}, discrete=True)
        price = app.settings.market_slice_value
        killer = Killer(app)
        statement = reported = 0
        while statement == 0 or killer.struck:
            statement += 1
            answer = await worker.take()
            number = answer["body"]["task"][job][0]["sliceNumber"]
            killer.at(statement)
            try:
                first = await worker.result(job, number, "x", authorization_of(answer))
                assert first["accepted"] and not killer.struck
            except OrchestratorError:
                assert killer.struck
                assert (await state_of(app, job))[0].counts.accepted == reported
            killer.left = 0
            # The worker has heard nothing, and says it again; and once more, because the answer may be lost, too.
            for _ in range(2):
                await worker.result(job, number, "x", authorization_of(answer))
            reported += 1
            async with app.core.database.snapshot() as tx:
                assert await Bank().balance(tx, worker.payment.address) == reported * price
            state, held = await state_of(app, job)
            assert state.counts.accepted == reported
            assert held == (60 - reported) * price / DCC
        assert statement > 8, "the settlement has more statements than that"
    await check_books(app)


class Later:
    """A clock that can be put forward."""

    def __init__(self, base: Callable[[], float]) -> None:
        self.base = base
        self.ahead = 0.0

    def __call__(self) -> float:
        return self.base() + self.ahead


async def test_jobs_that_nobody_comes_back_for_return_their_hold(settings: SchedulerSettings) -> None:
    clock = Later(time.time)
    async with SchedulerApp(settings, clock=clock) as app:
        async with deployer(app.url) as client, fake_worker(app.url) as worker:
            left = await hungry(client, [1, 2])
            other = await client.deploy("status", dataRange={"start": 1, "end": 3, "step": 1}, discrete=True)
            await worker.compute(await worker.take())
        assert await balance(app, client.account.address) < 1000
        # A client that listens counts, and so does work that goes on.
        clock.ahead = settings.abandoned_job_s - 3600
        async with app.core.database.transaction() as tx:
            await jobs.touch(tx, [(await state_of(app, other))[0].key], clock())
        clock.ahead = settings.abandoned_job_s + 60
        await app.keeper.expire()
        ended, held = await state_of(app, left)
        assert (ended.status, ended.stop_code, held) == ("cancelled", "EABANDONED", 0)
        assert "7 days" in (ended.stop_reason or "")
        assert (await state_of(app, other))[0].ended_at is None
        clock.ahead = 2 * settings.abandoned_job_s
        await app.keeper.expire()
        assert (await state_of(app, other))[1] == 0
        await check_books(app)
