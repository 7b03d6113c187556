"""Compute groups over the wire: who gets in, which workers get whose jobs, what it costs."""

from __future__ import annotations

import secrets
from typing import Any

import pytest

from orchestrator.bank import Bank
from orchestrator.jobs.words import PUBLIC_GROUP, join_hash, join_hash_hash
from orchestrator.protocol.errors import RemoteError
from orchestrator.scheduler import board
from orchestrator.scheduler.app import SchedulerApp
from orchestrator.scheduler.lease_book import read_claim
from orchestrator.scheduler.store import leases
from orchestrator.settings import SchedulerSettings
from tests.integration.scheduler.actors import Deployer, FakeWorker, authorization_of, deployer, fake_worker

DCC = 10**18
RANGE = {"dataRange": {"start": 1, "end": 20, "step": 1}}
SECRET = join_hash("lab", "tiger")


@pytest.fixture
def settings(settings: SchedulerSettings) -> SchedulerSettings:
    return settings.model_copy(update={"long_poll_s": 0.05})


async def create(client: Deployer, key: str = "lab", **properties: Any) -> Any:
    data = {
        "joinDescriptor": {"joinKey": key, "joinHash": join_hash(key, "tiger")}, "name": key,
        "otherProperties": properties,
    }  # fmt: skip
    return await client.groups.request("createGroup", data)


async def proof(connection: Any, key: str = "lab", secret: str = "tiger") -> dict[str, str]:
    if connection.dcpsid is None:
        await connection.request("keepalive")
    return {"joinKey": key, "joinHashHash": join_hash_hash(connection.dcpsid, join_hash(key, secret))}


async def put(client: Deployer, job: str, *groups: dict[str, Any]) -> Any:
    return await client.groups.request("addJobToGroups", {"job": job, "cgArray": list(groups)})


async def take(worker: FakeWorker, *groups: dict[str, Any], **more: Any) -> dict[str, Any]:
    return await worker.take(workerComputeGroups=list(groups), **more)


async def job_in(client: Deployer, *groups: dict[str, Any], **fields: Any) -> str:
    job, _ = await client.submit(**RANGE, **fields)
    answer = await put(client, job, *groups)
    assert answer["success"], answer
    return str(job)


async def balance(app: SchedulerApp, account: str) -> int:
    async with app.core.database.snapshot() as tx:
        return await Bank().balance(tx, account)


async def test_workers_get_the_jobs_of_their_groups_only(app: SchedulerApp) -> None:
    async with deployer(app.url) as owner, deployer(app.url) as client, fake_worker(app.url) as worker:
        created = await create(owner)
        assert created["success"] and len(created["payload"]) == 22
        private = await job_in(client, await proof(client.groups))
        public = await job_in(client, PUBLIC_GROUP)
        both = await job_in(client, PUBLIC_GROUP, await proof(client.groups))
        mine = await proof(worker.tasks)
        assert set((await take(worker, mine))["body"]["task"]) == {private, both}
        bodies = [await take(worker, mine) for _ in range(1)]
        assert all(public not in one["body"].get("task", {}) for one in bodies)
        wrong = await take(worker, await proof(worker.tasks, secret="lion"))
        assert wrong["body"].get("task") is None
        assert wrong["body"]["noWork"] == {"ECOMPUTEGROUP": 3}
        assert set((await take(worker, PUBLIC_GROUP))["body"]["task"]) <= {public, both}


async def test_a_quote_tells_what_groups_cost_and_who_pays_it(app: SchedulerApp) -> None:
    """Fees are on top; a commission is a part of what workers get. The deploy then moves just that."""
    async with deployer(app.url) as owner, deployer(app.url) as client, fake_worker(app.url) as worker:
        await create(owner, commissionRate="0.1", deployFee="0.25", addJobFee="0.5")
        wish = RANGE | {
            "absoluteSlicePayment": "0.5",
            "mvMultSlicePayment": 0,
            "paymentAccount": client.account.address,
        }

        async def quoted(*groups: dict[str, Any]) -> Any:
            asked = wish | {"cgArray": list(groups)}
            return await client.submit_service.request("quoteJob", asked, authorize=[client.account])

        told = await quoted(PUBLIC_GROUP, await proof(client.submit_service))
        assert (told["total"]["most"], told["fees"], told["available"]) == ("10", "0.75", "1000")
        free = {"fee": "0", "commissionRate": "0", "commission": "0", "workerPay": "0.5"}
        lab = {"fee": "0.75", "commissionRate": "0.1", "commission": "0.05", "workerPay": "0.45"}
        assert told["groups"] == [{"group": "public"} | free, {"group": "lab"} | lab]
        assert await balance(app, client.account.address) == 1000 * DCC, "nothing was paid for asking"
        job = await job_in(client, await proof(client.groups), absoluteSlicePayment="0.5", mvMultSlicePayment=0)
        assert await balance(app, client.account.address) == (1000 - 10) * DCC - 75 * DCC // 100
        task = await take(worker, await proof(worker.tasks))
        await worker.result(job, 1, 1, authorization_of(task))
        assert await balance(app, worker.payment.address) == 45 * DCC // 100
        assert await balance(app, owner.client.identity.address) == 80 * DCC // 100
        assert await balance(app, f"escrow:job:{job}") == 19 * DCC // 2, "the job paid its price, and no more"


async def test_a_quote_refuses_what_a_group_would(app: SchedulerApp) -> None:
    async with deployer(app.url) as owner, deployer(app.url) as client:
        await create(owner, maxTotalPayment="9")
        await create(owner, "dear", addJobFee="11")
        wish = RANGE | {
            "absoluteSlicePayment": "0.5",
            "mvMultSlicePayment": 0,
            "paymentAccount": client.account.address,
        }
        service = client.submit_service
        for group, code in (
            (await proof(service), "EGROUPLIMIT"), (await proof(service, "dear"), "EPERM"),
            (await proof(service, secret="lion"), "ENOENT"), ({"joinKey": "nothing"}, "ENOENT"), ({}, "EINVAL"),
        ):  # fmt: skip
            with pytest.raises(RemoteError) as refused:
                await service.request("quoteJob", wish | {"cgArray": [group]}, authorize=[client.account])
            assert refused.value.code == code, group


async def test_a_minimum_wage_is_what_is_left_after_the_commission(app: SchedulerApp) -> None:
    """Slices of a millisecond at 1 DCC, of which the group keeps a tenth: 3.24 million DCC per hour for the worker."""
    async with deployer(app.url) as owner, fake_worker(app.url) as worker, fake_worker(app.url) as dear:
        await create(owner, commissionRate="0.1")
        job = await job_in(
            owner, {"joinKey": "lab"}, absoluteSlicePayment=1, mvMultSlicePayment=0, estimationSlices=1
        )  # fmt: skip
        first = await take(worker, await proof(worker.tasks))
        await worker.result(job, 1, 1, authorization_of(first))
        asking = await proof(dear.tasks)
        refused = await take(dear, asking, minimumWage={"CPU": 3_300_000})
        assert refused["body"]["noWork"] == {"EWAGE": 1}
        await take(worker, await proof(worker.tasks), minimumWage={"CPU": 9_000_000})
        told = await owner.pheme.request("explainJob", {"job": job})
        [wage] = [one for one in told["findings"] if one["code"] == "EWAGE"]
        assert "at least 1.02 DCC per slice" in wage["remedy"], "of which a tenth is the group's"
        assert job in (await take(dear, asking, minimumWage={"CPU": 3_200_000}))["body"]["task"]


async def test_a_worker_is_told_through_which_group_a_job_came(app: SchedulerApp) -> None:
    async with deployer(app.url) as owner, fake_worker(app.url) as worker:
        group = (await create(owner, commissionRate=0.05))["payload"]
        job = await job_in(owner, {"joinKey": "lab"})
        answer = await take(worker, await proof(worker.tasks))
        assert answer["body"]["newJobs"][job]["jobCgId"] == f"{job}-{group}"
        assert answer["auth"]["jobCommissions"] == {job: {"rate": "0.05", "account": owner.client.identity.address}}
        lease = answer["auth"]["lease"]["id"]
        async with app.core.database.snapshot() as tx:
            assert (await leases.load(tx, [lease]))[lease] == app.core.leases.check(
                read_claim(answer), worker.client.identity.address
            )


async def test_jobs_need_the_secret(app: SchedulerApp) -> None:
    async with deployer(app.url) as owner, deployer(app.url) as client:
        await create(owner)
        job, _ = await client.submit(**RANGE)
        for descriptor in ({"joinKey": "lab"}, await proof(client.groups, secret="lion"), {"joinKey": "nothing"}):
            refused = await put(client, job, descriptor)
            assert (refused["success"], refused["code"]) == (False, "ENOENT")
        partly = await put(client, job, {"joinKey": "nothing"}, await proof(client.groups))
        assert partly["success"] and [one["group"] for one in partly["failed"]] == ["nothing"]
        stolen = await put(owner, job, {"joinKey": "lab"})
        assert stolen["code"] == "EPERM"


async def test_joining_by_address(app: SchedulerApp) -> None:
    async with deployer(app.url) as owner, deployer(app.url) as client:
        address = client.client.identity.address
        group = "A" * 22
        data = {"joinDescriptor": {"id": group, "joinAddress": address}, "name": "by address"}
        assert await owner.groups.request("createGroup", data) == {"success": True, "payload": group}
        await job_in(client, {"id": group})
        async with deployer(app.url) as stranger:
            job, _ = await stranger.submit(**RANGE)
            assert not (await put(stranger, job, {"id": group}))["success"]
            assert (await put(stranger, job, {"id": group, "joinAddress": address}))["success"]


async def test_lists_replace_the_secret(app: SchedulerApp) -> None:
    async with deployer(app.url) as owner, deployer(app.url) as client, fake_worker(app.url) as worker:
        lists = {"deployers": [client.client.identity.address], "workers": [worker.client.identity.address]}
        await create(owner, deployAccess="owner", workAccess="owner", **lists)
        job = await job_in(client, {"joinKey": "lab"})
        assert set((await take(worker, {"joinKey": "lab"}))["body"]["task"]) == {job}
        async with fake_worker(app.url) as other:
            assert "task" not in (await take(other, await proof(other.tasks)))["body"]


async def test_only_its_owner_changes_lists_and_deletes_a_group(app: SchedulerApp) -> None:
    async with deployer(app.url) as owner, deployer(app.url) as stranger, fake_worker(app.url) as worker:
        group = (await create(owner))["payload"]
        assert (await create(owner))["payload"] == group
        taken = await create(stranger)
        assert (taken["success"], taken["code"]) == (False, "EEXIST")
        job = await job_in(stranger, await proof(stranger.groups))
        descriptor = {"joinKey": "lab"}
        requests = {
            "changeGroup": {"descriptor": descriptor, "newDescriptor": {"joinHash": join_hash("lab", "lion")}},
            "listJobs": {"descriptor": descriptor},
            "removeJob": {"descriptor": descriptor, "job": job},
            "removeAllJobs": {"descriptor": {"id": group}},
            "deleteGroup": {"descriptor": descriptor},
        }
        for operation, data in requests.items():
            if operation != "removeJob":  # the owner of the job may
                refused = await stranger.groups.request(operation, data)
                assert (refused["success"], refused["code"]) == (False, "EPERM"), operation
        assert (await owner.groups.request("changeGroup", requests["changeGroup"]))["success"]
        assert "task" not in (await take(worker, await proof(worker.tasks)))["body"]
        listed = await owner.groups.request("listJobs", requests["listJobs"])
        assert [one["job"] for one in listed["payload"]] == [job]
        assert [one["jobs"] for one in (await owner.groups.request("listGroups", {}))["payload"]] == [1]
        assert (await owner.groups.request("removeJob", requests["removeJob"]))["success"]
        again = await owner.groups.request("removeJob", requests["removeJob"])
        assert (again["success"], again["code"]) == (False, "ENOENT")
        assert "task" not in (await take(worker, await proof(worker.tasks, secret="lion")))["body"]
        await job_in(stranger, await proof(stranger.groups, secret="lion"))
        assert (await owner.groups.request("removeAllJobs", requests["removeAllJobs"]))["payload"] == 1
        assert (await owner.groups.request("deleteGroup", requests["deleteGroup"]))["success"]
        gone = await owner.groups.request("listJobs", requests["listJobs"])
        assert (gone["success"], gone["code"]) == (False, "ENOENT")
        assert (await stranger.groups.request("deleteGroup", {"descriptor": PUBLIC_GROUP}))["code"] == "EPERM"


async def test_fees_are_paid_once(app: SchedulerApp) -> None:
    async with deployer(app.url) as owner, deployer(app.url) as client:
        till = owner.client.identity.address
        await create(owner, deployFee=2, addJobFee=0.5)
        await create(owner, "second", addJobFee="0.25")
        job = await job_in(client, await proof(client.groups), mvMultSlicePayment=0)
        assert await balance(app, till) == 2.5 * DCC
        await put(client, job, await proof(client.groups))
        assert await balance(app, till) == 2.5 * DCC
        await put(client, job, await proof(client.groups, "second"))
        assert await balance(app, till) == 2.75 * DCC
        assert await balance(app, client.account.address) == app.settings.initial_credit - 11 * DCC // 4


async def test_high_fees_need_the_signature_of_who_pays(app: SchedulerApp) -> None:
    async with deployer(app.url) as owner, deployer(app.url) as client:
        await create(owner, addJobFee=50)
        job, _ = await client.submit(**RANGE)
        descriptor = await proof(client.groups)
        refused = await put(client, job, descriptor)
        assert (refused["success"], refused["code"]) == (False, "EPERM")
        data = {"job": job, "cgArray": [descriptor]}
        assert (await client.groups.request("addJobToGroups", data, authorize=[client.account]))["success"]
        await owner.groups.request(
            "changeGroup", {"descriptor": {"joinKey": "lab"}, "newDescriptor": {"addJobFee": 1e6}}
        )
        poor, _ = await client.submit(**RANGE)
        data = {"job": poor, "cgArray": [descriptor]}
        answer = await client.groups.request("addJobToGroups", data, authorize=[client.account])
        assert (answer["success"], answer["code"]) == (False, "ENOFUNDS")


async def test_limits(app: SchedulerApp) -> None:
    async with deployer(app.url) as owner, fake_worker(app.url) as worker, fake_worker(app.url) as second:
        await create(owner, maxConcurrentJobs=1, maxTotalPayment=1, maxConcurrentWorkers=1)
        job, _ = await owner.submit(**RANGE, mvMultSlicePayment=0, absoluteSlicePayment=0.1)
        refused = await put(owner, job, {"joinKey": "lab"})
        assert (refused["code"], "2 DCC" in refused["message"]) == ("EGROUPLIMIT", True)
        fits = await job_in(owner, {"joinKey": "lab"})
        other, _ = await owner.submit(**RANGE)
        assert (await put(owner, other, {"joinKey": "lab"}))["code"] == "EGROUPLIMIT"
        await owner.submit_service.request("cancelJob", {"job": fits})
        third = await job_in(owner, {"joinKey": "lab"}, estimationSlices=None)
        assert third in (await take(worker, await proof(worker.tasks)))["body"]["task"]
        turned_away = (await take(second, await proof(second.tasks)))["body"]
        assert turned_away["noWork"] == {"EGROUPLIMIT": 1}


async def test_a_job_that_outgrows_a_group_waits_there(app: SchedulerApp) -> None:
    async with deployer(app.url) as owner, fake_worker(app.url) as worker:
        await create(owner, maxTotalPayment=1)
        job, _ = await owner.submit(mvMultSlicePayment=0, absoluteSlicePayment=0.4)
        assert (await put(owner, job, {"joinKey": "lab"}))["success"]
        await owner.add(job, [1, 2])
        answer = await take(worker, await proof(worker.tasks))
        assert job in answer["body"]["task"]
        await owner.add(job, [3])
        assert "task" not in (await take(worker, await proof(worker.tasks)))["body"]
        assert authorization_of(answer)["auth"]["jobCommissions"] == {}


async def test_the_operator_says_who_makes_groups_and_how_many(app: SchedulerApp) -> None:
    async with deployer(app.url) as owner, deployer(app.url) as stranger:
        settings = {"group_creators": (owner.client.identity.address,), "max_groups_per_owner": 2}
        app.core.settings = app.settings.model_copy(update=settings)
        assert (await create(stranger))["code"] == "EPERM"
        assert [(await create(owner, secrets.token_hex(4)))["success"] for _ in range(3)] == [True, True, False]


async def test_jobs_of_groups_without_workers_do_not_hide_those_of_others(
    app: SchedulerApp, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(board, "MOST_LOOKED_AT", 3)
    async with deployer(app.url) as owner, fake_worker(app.url) as worker:
        await create(owner)
        for _ in range(4):
            await job_in(owner, {"joinKey": "lab"})
        public = await job_in(owner, PUBLIC_GROUP)
        assert set((await take(worker, PUBLIC_GROUP))["body"]["task"]) == {public}
