"""Who gets a job over the wire, and who does not: bans, GPUs, filters, long slices, groups, wages."""

from __future__ import annotations

from typing import Any

import pytest

from orchestrator import kvin
from orchestrator.jobs.words import Capability, join_hash, join_hash_hash
from orchestrator.scheduler.app import SchedulerApp
from orchestrator.settings import SchedulerSettings
from tests.integration.scheduler.actors import FakeWorker, authorization_of, deployer, fake_worker, until

MACHINE = int(Capability.KVIN_V9 | Capability.FDLIBM)


@pytest.fixture
def settings(settings: SchedulerSettings) -> SchedulerSettings:
    return settings.model_copy(update={"long_poll_s": 0.05, "estimation_slices": 1})


def numbers(answer: Any, job: str) -> list[int]:
    return [one["sliceNumber"] for one in answer["body"].get("task", {}).get(job, [])]


async def refused(worker: FakeWorker, **more: Any) -> dict[str, int]:
    """By code, how many jobs wait that the worker does not get."""
    answer = await worker.take(**more)
    assert "task" not in answer["body"], answer["body"]["task"]
    return dict(answer["body"]["noWork"])


async def compute(worker: FakeWorker, answer: Any, *, cpu_ms: float) -> None:
    """Report a task whose slices took so long."""
    for job, slices in answer["body"]["task"].items():
        for one in slices:
            await worker.results.request(
                "result",
                {
                    "slice": one["sliceNumber"],
                    "job": job,
                    "worker": worker.id,
                    "paymentAddress": worker.payment.address,
                    "metrics": {"CPUTime": cpu_ms, "CPUDensity": 1},
                    "authorizationMessage": authorization_of(answer),
                    "resultV2": kvin.marshal(
                        {"string": kvin.stringify(1), "method": "kvin", "MIMEType": "application/x-kvin"}
                    ),
                },
            )


async def test_a_worker_that_fails_a_job_is_banned_from_it_while_another_is_there(app: SchedulerApp) -> None:
    async with deployer(app.url) as client, fake_worker(app.url) as bad:
        job = await client.deploy(dataRange={"start": 1, "end": 100, "step": 1}, estimationSlices=0)
        async with fake_worker(app.url) as good:
            assert numbers(await good.take(), job)
            task = await bad.take()
            await bad.give_back(job, numbers(task, job)[:3], "ENOPROGRESS", authorization_of(task))
            assert await refused(bad) == {"EBANNED": 1}
            [why] = [
                one
                for one in (await client.pheme.request("explainJob", {"job": job}))["findings"]
                if one["code"] == "EBANNED"
            ]
            assert "1 " in why["what"]
            other = await client.deploy(dataRange={"start": 1, "end": 2, "step": 1})
            assert numbers(await bad.take(), other) == [1]
        await until(lambda: app.roster.statistics()["workers"] == 1)
        assert numbers(await bad.take(), job)


async def test_jobs_for_a_gpu_go_to_workers_that_have_one_free(app: SchedulerApp) -> None:
    with_gpu = {"capabilities": MACHINE | int(Capability.WEBGPU)}
    async with deployer(app.url) as client, fake_worker(app.url, load=4.0) as worker:
        job = await client.deploy(
            dataRange={"start": 1, "end": 40, "step": 1}, requirements=64 | 32, estimationSlices=0
        )
        assert await refused(worker) == {"ECAPABILITY": 1}
        assert await refused(worker, **with_gpu) == {"EGPUBUSY": 1}
        [why] = (await client.pheme.request("explainJob", {"job": job}))["findings"]
        assert why["code"] == "EGPUBUSY"
        one_gpu = await worker.take(**with_gpu, targetLoad={"cpu": 4, "gpu": 1})
        two_gpus = await worker.take(**with_gpu, targetLoad={"cpu": 4, "gpu": 2})
        assert len(numbers(two_gpus, job)) == 2 * len(numbers(one_gpu, job)) > 0


async def test_a_job_that_wants_stronger_walls_waits_for_a_worker_that_has_them(app: SchedulerApp) -> None:
    async with deployer(app.url) as client, fake_worker(app.url) as worker:
        job = await client.deploy(dataRange={"start": 1, "end": 2, "step": 1}, isolation="gvisor")
        assert await refused(worker) == {"EISOLATION": 1}  # official workers name no level
        assert await refused(worker, isolation={"level": "userns"}) == {"EISOLATION": 1}
        assert numbers(await worker.take(isolation={"level": "gvisor"}), job) == [1]


async def test_a_worker_that_is_bound_to_jobs_gets_those_only(app: SchedulerApp) -> None:
    async with deployer(app.url) as client, fake_worker(app.url) as worker:
        wanted = await client.deploy(dataRange={"start": 1, "end": 2, "step": 1})
        await client.deploy(dataRange={"start": 1, "end": 2, "step": 1})
        answer = await worker.take(jobIds=[wanted])
        assert answer["body"]["task"].keys() == {wanted}
        assert await refused(worker, jobIds=[wanted]) == {"EESTIMATING": 1}
        other = await worker.take(jobIds=["a job that is not here"])
        assert "task" not in other["body"]


async def test_the_proof_of_a_group_is_worth_nothing_in_another_session(app: SchedulerApp) -> None:
    """A joinHashHash is made with the id of the session over which it is sent."""
    secret = join_hash("lab", "tiger")
    async with deployer(app.url) as client, fake_worker(app.url) as member, fake_worker(app.url) as thief:
        await client.groups.request("createGroup", {"joinDescriptor": {"joinKey": "lab", "joinHash": secret}})
        job, _ = await client.submit(dataRange={"start": 1, "end": 2, "step": 1})
        mine = {"joinKey": "lab", "joinHashHash": join_hash_hash(client.groups.dcpsid or "", secret)}
        assert (await client.groups.request("addJobToGroups", {"job": job, "cgArray": [mine]}))["success"]
        await member.tasks.request("keepalive")
        proof = {"joinKey": "lab", "joinHashHash": join_hash_hash(member.tasks.dcpsid or "", secret)}
        assert await refused(thief, workerComputeGroups=[proof]) == {"ECOMPUTEGROUP": 1}
        assert await refused(member, workerComputeGroups=[mine]) == {"ECOMPUTEGROUP": 1}
        assert numbers(await member.take(workerComputeGroups=[proof]), job) == [1]


async def test_no_job_is_called_almost_done(app: SchedulerApp) -> None:
    """An official worker that hears it of several mixes them up."""
    async with deployer(app.url) as client, fake_worker(app.url) as worker:
        job = await client.deploy(dataRange={"start": 1, "end": 2, "step": 1})
        for left in (2, 1):
            task = await worker.take()
            assert (len(numbers(task, job)), task["body"]["newJobs"][job]["almostDone"]) == (1, False), left
            await compute(worker, task, cpu_ms=20_000)


async def test_long_slices_are_told_apart_once_they_are_measured(app: SchedulerApp) -> None:
    async with deployer(app.url) as client, fake_worker(app.url, load=4.0) as worker:
        job = await client.deploy(dataRange={"start": 1, "end": 40, "step": 1})
        first = await worker.take()
        assert [one["isLongSlice"] for one in first["body"]["task"][job]] == [False]
        await compute(worker, first, cpu_ms=20_000)  # a task lasts ten seconds
        for wanted in (1, 2):
            task = await worker.take(targetLoad={"cpu": 4, "gpu": 0, "longSlices": wanted})
            assert [one["isLongSlice"] for one in task["body"]["task"][job]] == [True] * wanted


async def test_a_job_at_market_value_is_held_by_its_price_whatever_its_slices_turn_out_to_be(
    app: SchedulerApp,
) -> None:
    """Its price is that of its deploy, and workers that want more for what was measured leave it alone."""
    price = app.settings.market_slice_value
    async with deployer(app.url) as client, fake_worker(app.url) as worker:
        job = await client.deploy()  # open
        await client.add(job, list(range(15)))
        first = await worker.take()
        assert first["body"]["newJobs"][job]["slicePaymentAmount"] != "0"
        await compute(worker, first, cpu_ms=3_600_000)
        await client.add(job, list(range(5)))
        async with app.core.database.snapshot() as tx:
            known = await app.core.catalog.get(tx, job)
            held = (await app.core.money.held(tx, [known]))[known.key]
        assert (known.slice_price, held) == (price, 19 * price)
        dear = {"minimumWage": {"CPU": price / 10**18 * 1.01, "GPU": 0, "in": 0, "out": 0}}
        assert await refused(worker, **dear) == {"EWAGE": 1}
        fair = {"minimumWage": {"CPU": price / 10**18 * 0.99, "GPU": 0, "in": 0, "out": 0}}
        assert numbers(await worker.take(**fair), job)
        await client.results.request("closeJob", {"job": job})
