"""Jobs from submit to stop, with clients and workers made of our own protocol client."""

from __future__ import annotations

from typing import Any

import pytest

from orchestrator.bank import Bank
from orchestrator.errors import OrchestratorError
from orchestrator.scheduler.app import SchedulerApp
from orchestrator.scheduler.store import events, jobs
from tests.integration.scheduler.actors import deployer, fake_worker, serving


async def balance(app: SchedulerApp, account: str) -> int:
    async with app.core.database.snapshot() as tx:
        return await Bank().balance(tx, account)


async def test_a_range_is_computed_and_paid(app: SchedulerApp) -> None:
    async with deployer(app.url) as client, serving(app.url, lambda datum, _: datum * 2) as worker:
        await client.deploy(dataRange={"start": 1, "end": 30, "step": 1})
        stop = (await client.wait_for("stop"))[0]
        assert (stop["runStatus"], stop["sliceCount"]) == ("finished", 30)
        assert client.decoded() == {number: number * 2 for number in range(1, 31)}
        last = client.of("status")[-1]
        assert (last["runStatus"], last["total"], last["distributed"], last["computed"]) == ("finished", 30, 30, 30)
        price = app.settings.market_slice_value
        assert await balance(app, worker.payment.address) == 30 * price
        assert await balance(app, client.account.address) == app.settings.initial_credit - 30 * price
        assert all(answer["accepted"] for answer in worker.answers)


async def test_listed_inputs_arrive_in_order(app: SchedulerApp) -> None:
    values: list[Any] = [f"value {number} ✓" for number in range(250)]
    async with deployer(app.url) as client, serving(app.url, lambda datum, number: [datum, number]):
        await client.listed(values)
        stop = (await client.wait_for("stop"))[0]
        assert stop["sliceCount"] == 250
        assert client.decoded() == {number: [values[number - 1], number] for number in range(1, 251)}


async def test_a_job_without_slices_finishes(app: SchedulerApp) -> None:
    async with deployer(app.url) as client:
        await client.listed([])
        assert (await client.wait_for("stop"))[0]["sliceCount"] == 0


async def test_what_was_before_the_end_and_is_told_after_it_holds_up_no_stop(app: SchedulerApp) -> None:
    async with deployer(app.url) as client:
        job, _ = await client.submit()
        async with app.core.database.snapshot() as tx:
            key = (await app.core.catalog.get(tx, job)).key
            before = (await jobs.states(tx, [key]))[key]
        await client.subscribe(job)
        await client.results.request("closeJob", {"job": job})
        app.core.publish_state(before)
        assert (await client.wait_for("stop"))[0]["sliceCount"] == 0


async def test_stop_is_repeated_until_the_client_unsubscribes(app: SchedulerApp) -> None:
    async with deployer(app.url) as client:
        job, _ = await client.submit()
        answer = await client.subscribe(job)
        await client.results.request("closeJob", {"job": job})
        await client.join(job)
        await client.wait_for("stop", 3)
        ids = [one["event"]["eventId"] for one in client.events]
        assert len(set(ids)) == len(ids)
        token = answer["tokens"][0]
        await client.router.request("unsubscribe", {"label": "stop", "token": {"token": token["token"]}})
        watches = app.router.statistics()["watches"]
        assert all(not watch["labels"] for watch in watches)


async def test_labels_are_subscribed_and_dropped_one_by_one(app: SchedulerApp) -> None:
    async with deployer(app.url) as client, fake_worker(app.url) as worker:
        job, _ = await client.submit(dataRange={"start": 1, "end": 3, "step": 1})
        chosen = {"filter": {"job": job}}
        tokens = {
            label: (await client.router.request("subscribe", {"label": label, "options": chosen}))["token"]
            for label in ("result", "status")
        }
        by_name = {"label": "job::optionalEvent", "options": {"filter": {"job": job, "eventName": "stop"}}}
        tokens["stop"] = (await client.router.request("subscribe", by_name))["token"]
        again = await client.router.request("subscribe", {"label": "status", "options": chosen})
        assert again["token"] == tokens["status"]
        drop = {"label": "status", "token": {"token": tokens["status"], "options": chosen}}
        await client.wait_for("status")
        assert (await client.router.request("unsubscribe", drop))["success"]
        assert (await client.router.request("unsubscribe", drop))["success"]
        heard = len(client.of("status"))
        await client.join(job)
        while len(worker.answers) < 3:
            await worker.compute(await worker.take())
        await client.wait_for("stop")
        assert len(client.of("result")) == 3
        assert len(client.of("status")) == heard
        assert {one["token"] for one in client.events} == set(tokens.values())


async def test_events_wait_for_a_subscription(app: SchedulerApp) -> None:
    async with deployer(app.url) as client, fake_worker(app.url) as worker:
        job, _ = await client.submit(dataRange={"start": 1, "end": 5, "step": 1})
        await client.join(job)
        while len(worker.answers) < 5:
            await worker.compute(await worker.take())
        await client.subscribe(job, "result")
        await client.wait_for("result", 5)
        await client.wait_for("stop")


async def test_acknowledged_events_are_forgotten(app: SchedulerApp) -> None:
    async with deployer(app.url) as client, serving(app.url):
        job_id = await client.deploy("result", dataRange={"start": 1, "end": 5, "step": 1})
        await client.wait_for("stop")
        async with app.core.database.snapshot() as tx:
            job = await app.core.catalog.get(tx, job_id)
        left = 5
        while left:
            await client.wait_for("stop", len(client.of("stop")) + 1)
            async with app.core.database.snapshot() as tx:
                left = await events.count(tx, job.key, "result")


async def test_submit_again_is_answered_as_before(app: SchedulerApp) -> None:
    async with deployer(app.url) as client, deployer(app.url, client.account) as other:
        fields = {"dataRange": {"start": 1, "end": 5, "step": 1}}
        job, first = await client.submit(**fields)
        assert (await client.submit(job=job, **fields))[1] == first
        held = app.settings.initial_credit - 5 * app.settings.market_slice_value
        assert await balance(app, client.account.address) == held
        with pytest.raises(OrchestratorError, match="taken by another owner"):
            await other.submit(job=job, **fields)


async def test_submit_needs_funds_and_a_signature(app: SchedulerApp) -> None:
    async with deployer(app.url) as client, deployer(app.url) as other:
        with pytest.raises(OrchestratorError) as refused:
            await client.submit(
                dataRange={"start": 1, "end": 10, "step": 1}, mvMultSlicePayment=0, absoluteSlicePayment=1e15
            )
        assert refused.value.code == "ENOFUNDS"
        with pytest.raises(OrchestratorError) as refused:
            await client.submit(dataRange={"start": 1, "end": 10, "step": 1}, paymentAccount=other.account.address)
        assert refused.value.code == "EPERM"
        with pytest.raises(OrchestratorError) as refused:
            await client.submit(dataRange={"start": "a", "end": 10})
        assert refused.value.code == "EINVAL"


async def test_unknown_operation(app: SchedulerApp) -> None:
    async with deployer(app.url) as client:
        for connection in (client.pheme, client.router, client.results):
            with pytest.raises(OrchestratorError) as refused:
                await connection.request("noSuchThing", {})
            assert refused.value.code == "ENOSYS"


async def test_ten_million_slices_cost_nothing_until_they_are_touched(app: SchedulerApp) -> None:
    async with deployer(app.url) as client, serving(app.url) as worker:
        job, answer = await client.submit(dataRange={"start": 1, "end": 10_000_000, "step": 1}, mvMultSlicePayment=0)
        assert answer["lastSliceNumber"] == 10_000_000
        await client.subscribe(job, "result")
        await client.join(job)
        await client.wait_for("result", 20)
        async with app.core.database.snapshot() as tx:
            key = (await app.core.catalog.get(tx, job)).key
            counts = (await jobs.states(tx, [key]))[key].counts
            rows = (await tx.exec_driver_sql("SELECT count(*) FROM slices")).scalar_one()
        assert rows <= counts.cursor + 2 * app.settings.max_task_slices < 50_000
        await client.submit_service.request("cancelJob", {"job": job, "reason": "enough"})
        stop = (await client.wait_for("stop"))[0]
        assert (stop["runStatus"], stop["reason"]) == ("cancelled", "enough")
        assert worker.taken


async def test_cancel_gives_the_rest_back(app: SchedulerApp) -> None:
    async with deployer(app.url) as client, deployer(app.url, client.account) as stranger:
        job = await client.deploy(dataRange={"start": 1, "end": 100, "step": 1})
        with pytest.raises(OrchestratorError, match="only the owner"):
            await stranger.submit_service.request("cancelJob", {"job": job})
        await client.submit_service.request(
            "cancelJob", {"job": job, "owner": client.account.address, "reason": "no longer needed"}
        )
        stop = (await client.wait_for("stop"))[0]
        assert (stop["runStatus"], stop["code"]) == ("cancelled", "ECANCELLED")
        assert await balance(app, client.account.address) == app.settings.initial_credit


async def test_status_of_a_cancelled_job_counts_nothing_as_distributed(app: SchedulerApp) -> None:
    async with deployer(app.url) as client, fake_worker(app.url) as worker:
        job = await client.deploy(dataRange={"start": 1, "end": 10, "step": 1}, estimationSlices=None)
        await worker.take()
        await client.submit_service.request("cancelJob", {"job": job})
        await client.wait_for("stop")
        last = client.of("status")[-1]
        assert (last["runStatus"], last["total"], last["distributed"], last["computed"]) == ("cancelled", 10, 0, 0)


async def test_where_results_are_stored_depends_on_job_and_slice(app: SchedulerApp) -> None:
    async with deployer(app.url) as client, fake_worker(app.url) as worker:
        job = await client.deploy(
            dataRange={"start": 1, "end": 2, "step": 1},
            resultStorageType="pattern",
            resultStorageDetails="https://store/%7Bjob%7D/%7Bslice%7D?n={slice}",
            resultStorageParams={"key": "k"},
        )
        (first, second) = (await worker.take())["body"]["task"][job]
        assert first["resultStorageDetails"] == f"https://store/{job}/1?n=1"
        assert second["resultStorageDetails"] == f"https://store/{job}/2?n=2"
        assert first["resultStorageParams"] == {"key": "k"}


async def test_fetch_result_never_fails(app: SchedulerApp) -> None:
    async with deployer(app.url) as client, deployer(app.url) as stranger, serving(app.url):
        job = await client.deploy("result", dataRange={"start": 1, "end": 6, "step": 1})
        await client.wait_for("stop")
        request = client.results.request
        everything = await request("fetchResult", {"job": job, "owner": client.client.identity.address})
        assert [one["slice"] for one in everything] == [1, 2, 3, 4, 5, 6]
        assert everything[0]["value"].startswith("data%3Aapplication%2F")
        assert [one["slice"] for one in await request("fetchResult", {"job": job, "range": [3, 99]})] == [3]
        span = {"start": 2, "end": 5, "step": 2}
        assert [one["slice"] for one in await request("fetchResult", {"job": job, "range": span})] == [2, 4]
        assert await request("fetchResult", {"job": job, "range": "what?"}) == []
        assert await request("fetchResult", {"job": "nonsense"}) == []
        assert await request("fetchResult", {"job": 7}) == []
        assert await stranger.results.request("fetchResult", {"job": job}) == []


async def test_reports(app: SchedulerApp) -> None:
    async with deployer(app.url) as client, serving(app.url):
        job = await client.deploy("result", dataRange={"start": 1, "end": 3, "step": 1})
        await client.wait_for("stop")
        listed = await client.pheme.request("listJobs", {"job": job, "statuses": ["finished"]})
        assert [(one["job"], one["computed"]) for one in listed] == [(job, 3)]
        assert await client.pheme.request("listJobs", {"statuses": ["running"]}) == []
        assert await client.pheme.request("countJobs", {}) == {"finished": 1}
        assert (await client.pheme.request("countSlices", {"job": job}))["computed"] == 3
        assert "3 of 3" in (await client.pheme.request("fetchJobReport", {"job": job}))["story"]


async def test_a_pile_sent_again_over_a_new_session_is_stored_once(app: SchedulerApp) -> None:
    async with deployer(app.url) as client:
        job = await client.deploy()
        await client.add(job, ["same", "same"])
        assert (await client.add(job, ["same", "same"]))["lastSliceNumber"] == 4
        again = client.client.connect(f"{app.url}jobSubmit/")
        answer = await again.request("addSliceData", {"job": job, "dataValues": _marshal(["same", "same"])})
        assert answer["lastSliceNumber"] == 4
        answer = await again.request("addSliceData", {"job": job, "dataValues": _marshal(["other"])})
        assert answer["lastSliceNumber"] == 5


async def test_a_pile_after_an_orderly_end_is_another_one(app: SchedulerApp) -> None:
    async with deployer(app.url) as client:
        job = await client.deploy()
        await client.add(job, ["same"])
        await client.submit_service.close()
        again = client.client.connect(f"{app.url}jobSubmit/")
        answer = await again.request("addSliceData", {"job": job, "dataValues": _marshal(["same"])})
        assert answer["lastSliceNumber"] == 2


def _marshal(values: list[Any]) -> Any:
    from orchestrator import kvin

    return kvin.marshal(values)


async def test_the_estimation_leaves_no_core_of_a_worker_idle(app: SchedulerApp) -> None:
    async with deployer(app.url) as client, fake_worker(app.url, load=2.0) as worker:
        job = await client.deploy(dataRange={"start": 1, "end": 100, "step": 1}, estimationSlices=3)
        first, last = await worker.take(), await worker.take()
        assert [len(answer["body"]["task"][job]) for answer in (first, last)] == [2, 1]
        await worker.compute(first)
        # One core works at the last slice of the estimation; the other one has nothing to do until it ends.
        (more,) = (await worker.take(targetLoad={"cpu": 1.8, "gpu": 0, "longSlices": 1}))["body"]["task"][job]
        assert (more["sliceNumber"], more["isEstimationSlice"]) == (4, True)
