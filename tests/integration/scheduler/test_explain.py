"""What owners are told of their jobs: reports, counts, and why a job waits."""

from __future__ import annotations

from typing import Any

import pytest

from orchestrator.errors import OrchestratorError
from orchestrator.jobs.words import PUBLIC_GROUP, Capability, join_hash
from orchestrator.protocol.errors import RemoteError
from orchestrator.scheduler.app import SchedulerApp
from orchestrator.settings import SchedulerSettings
from orchestrator.wallet.keys import PrivateKey
from tests.integration.scheduler.actors import Deployer, authorization_of, deployer, fake_worker

RANGE = {"dataRange": {"start": 1, "end": 4, "step": 1}}


@pytest.fixture
def settings(settings: SchedulerSettings) -> SchedulerSettings:
    return settings.model_copy(update={"long_poll_s": 0.05})


async def explain(client: Deployer, job: str) -> dict[str, Any]:
    answer: dict[str, Any] = await client.pheme.request("explainJob", {"job": job})
    return answer


async def test_why_a_job_waits_from_its_deploy_to_its_end(app: SchedulerApp) -> None:
    async with deployer(app.url) as client, fake_worker(app.url) as worker:
        job, _ = await client.submit(**RANGE, requirements=64 | Capability.WEBGPU, estimationSlices=0)

        async def why() -> list[str]:
            return [one["code"] for one in (await explain(client, job))["findings"]]

        assert await why() == ["ENOGROUP"]
        await client.join(job)
        assert await why() == ["ENOWORKER"]
        assert (await worker.take())["body"]["noWork"] == {"ECAPABILITY": 1}
        answer = await explain(client, job)
        assert "lacking what it requires: webgpu (1 worker)" in answer["findings"][0]["what"]
        assert answer["workers"] == {
            "present": 1, "able": 0, "refused": {"ECAPABILITY": 1}, "refusedLately": {"ECAPABILITY": 1},
        }  # fmt: skip
        other, _ = await client.submit(**RANGE, estimationSlices=0)
        await client.groups.request("addJobToGroups", {"job": other, "cgArray": [PUBLIC_GROUP]})
        taken = await worker.take(capabilities=80 | Capability.WEBGPU, workerComputeGroups=[])
        assert "task" not in taken["body"]
        assert (await explain(client, other))["findings"][0]["code"] == "ECOMPUTEGROUP"
        load = {"cpu": 2, "gpu": 1, "longSlices": 1}
        taken = await worker.take(capabilities=80 | Capability.WEBGPU, jobIds=[job], targetLoad=load)
        answer = await explain(client, job)
        assert [one["code"] for one in answer["findings"]] == ["ELEASED"]
        assert [(one["worker"], one["slices"]) for one in answer["leases"]] == [(worker.id, 4)]
        await worker.give_back(job, [1], "EUNCAUGHT", authorization_of(taken))
        answer = await explain(client, job)
        assert answer["findings"][-1]["code"] == "EFAILING" and "1 times: EUNCAUGHT" in answer["findings"][-1]["what"]
        await client.submit_service.request("cancelJob", {"job": job, "reason": "enough"})
        assert (await why())[0] == "ECANCELLED"


async def test_the_price_that_workers_want_is_told(app: SchedulerApp) -> None:
    async with deployer(app.url) as client, fake_worker(app.url) as worker:
        job = await client.deploy(**RANGE, estimationSlices=1, mvMultSlicePayment=0, absoluteSlicePayment=0.000001)
        taken = await worker.take()
        for one in taken["body"]["task"][job]:
            await worker.result(job, one["sliceNumber"], 1, authorization_of(taken))
        # The slice took 1 ms of CPU.
        refused = await worker.take(minimumWage={"CPU": 36_000, "GPU": 0, "in": 0, "out": 0})
        assert refused["body"]["noWork"] == {"EWAGE": 1}
        finding = (await explain(client, job))["findings"][0]
        assert (finding["code"], "at least 0.01 DCC per slice" in finding["remedy"]) == ("EWAGE", True), finding


async def test_groups_without_room_are_named(app: SchedulerApp) -> None:
    async with deployer(app.url) as client, fake_worker(app.url) as worker:
        group = {
            "joinDescriptor": {"joinKey": "lab", "joinHash": join_hash("lab", "tiger")},
            "otherProperties": {"maxConcurrentWorkers": 0, "workers": [worker.client.identity.address]},
        }
        await client.groups.request("createGroup", group)
        job, _ = await client.submit(**RANGE)
        await client.groups.request("addJobToGroups", {"job": job, "cgArray": [{"joinKey": "lab"}]})
        refused = await worker.take(workerComputeGroups=[{"joinKey": "lab"}])
        assert refused["body"]["noWork"] == {"EGROUPLIMIT": 1}
        assert [one["code"] for one in (await explain(client, job))["findings"]] == ["EGROUPLIMIT", "ECOMPUTEGROUP"]


async def test_strangers_are_told_nothing(app: SchedulerApp) -> None:
    async with deployer(app.url) as client, deployer(app.url) as stranger:
        job = await client.deploy(**RANGE)
        for operation in ("explainJob", "fetchJobReport", "fetchSliceReport", "countSlices"):
            with pytest.raises(RemoteError) as caught:
                await stranger.pheme.request(operation, {"job": job})
            assert caught.value.code == "EPERM"
        with pytest.raises(OrchestratorError, match="counted for their owner only"):
            await stranger.pheme.request("countJobs", {"jobOwner": client.client.identity.address})
        assert await stranger.pheme.request("countJobs", {"isSelectingAll": True}) == {}


async def test_reports_of_slices(app: SchedulerApp, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("orchestrator.scheduler.pheme.MOST_SLICES", 2)
    async with deployer(app.url) as client, fake_worker(app.url) as worker:
        job = await client.deploy(**RANGE, estimationSlices=None)
        taken = await worker.take()
        numbers = [one["sliceNumber"] for one in taken["body"]["task"][job]]
        assert numbers == [1, 2]
        await worker.result(job, 1, 1, authorization_of(taken))
        await worker.give_back(job, [2], "EUNCAUGHT", authorization_of(taken))
        report = await client.pheme.request("fetchSliceReport", {"job": job})
        assert (report["total"], report["distributedUpTo"], report["next"]) == (4, 2, 3)
        done, failed = report["slices"]
        assert (done["status"], done["worker"], done["history"]) == ("accepted", worker.id, [])
        assert (failed["status"], failed["failures"]) == ("ready", 1)
        assert [(one["worker"], one["reason"]) for one in failed["history"]] == [(worker.id, "EUNCAUGHT")]
        assert (await client.pheme.request("fetchSliceReport", {"job": job, "from": 3}))["slices"] == []
        with pytest.raises(OrchestratorError, match="from 1 on"):
            await client.pheme.request("fetchSliceReport", {"job": job, "from": 0})
        whole = await client.pheme.request("fetchJobReport", {"job": job})
        assert whole["failures"] == [{"reason": "EUNCAUGHT", "slices": 1}]
        assert [one["name"] for one in whole["computeGroups"]] == ["public"]


async def test_all_jobs_of_an_account_are_cancelled_for_whoever_may(app: SchedulerApp) -> None:
    account = PrivateKey.generate()
    async with deployer(app.url, account) as client, deployer(app.url, account) as other:
        mine, theirs = await client.deploy(**RANGE), await other.deploy(**RANGE)
        request = {"paymentAccount": account.address, "reason": "enough"}
        async with deployer(app.url) as stranger:
            assert (await stranger.submit_service.request("cancelAllJobs", request))["cancelled"] == []
        assert (await client.submit_service.request("cancelAllJobs", request))["cancelled"] == [mine]
        whole = await client.submit_service.request("cancelAllJobs", request, authorize=[account])
        assert whole["cancelled"] == [theirs]
        assert await client.pheme.request("countJobs", {}) == {"cancelled": 1}


async def test_a_paused_job_says_what_it_lacks(app: SchedulerApp) -> None:
    async with deployer(app.url) as client, fake_worker(app.url) as worker:
        job = await client.deploy(mvMultSlicePayment=0, absoluteSlicePayment=600)
        await client.add(job, [1, 2])
        taken = await worker.take()
        await worker.result(job, 1, 1, authorization_of(taken))
        finding = (await explain(client, job))["findings"][0]
        assert (finding["code"], "has 400 DCC" in finding["what"]) == ("ENOFUNDS", True), finding
        assert "bring 200 DCC" in finding["remedy"], finding
