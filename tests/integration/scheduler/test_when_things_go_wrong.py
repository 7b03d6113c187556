"""Throwing work functions, silent workers, repeated reports, restarts."""

from __future__ import annotations

import asyncio
import contextlib
import pathlib
from collections.abc import AsyncIterator
from typing import Any

import pytest

from orchestrator import kvin
from orchestrator.errors import OrchestratorError
from orchestrator.protocol.client import DcpClient
from orchestrator.scheduler.app import SchedulerApp
from orchestrator.settings import SchedulerSettings
from orchestrator.wallet.keys import PrivateKey
from tests.integration.scheduler.actors import (
    Deployer,
    FakeWorker,
    authorization_of,
    deployer,
    fake_worker,
    serving,
    thrown,
    until,
)


class Clock:
    def __init__(self) -> None:
        self.ahead = 0.0

    def __call__(self) -> float:
        import time

        return time.time() + self.ahead


def numbers(answer: Any, job: str) -> list[int]:
    return [one["sliceNumber"] for one in answer["body"].get("task", {}).get(job, [])]


async def test_a_job_whose_every_slice_throws_stops(app: SchedulerApp) -> None:
    async with deployer(app.url) as client, serving(app.url, lambda *_: thrown("never works")):
        await client.deploy(dataRange={"start": 1, "end": 50, "step": 1})
        stop = (await client.wait_for("stop"))[0]
        assert (stop["runStatus"], stop["code"]) == ("cancelled", "ETOOMANYERRORS")
        assert "never works" in stop["error"]["message"]
        assert client.of("result") == []
        assert client.of("status")[-1]["runStatus"] == "cancelled"


async def test_a_slice_that_throws_is_left_out(app: SchedulerApp) -> None:
    def work(datum: int, _: int) -> Any:
        return thrown("five") if datum == 5 else datum

    async with deployer(app.url) as client, serving(app.url, work) as worker:
        await client.deploy(dataRange={"start": 1, "end": 12, "step": 1})
        stop = (await client.wait_for("stop"))[0]
        assert (stop["runStatus"], stop["sliceCount"]) == ("finished", 12)
        assert sorted(client.decoded()) == [n for n in range(1, 13) if n != 5]
        assert [number for _, number in worker.taken].count(5) == app.settings.max_slice_failures
        # Workers tell of each exception; that nobody will try again, the Scheduler says once.
        assert [(one["sliceNumber"], one["code"]) for one in client.of("error")] == [(5, "ETOOMANYATTEMPTS")]
        status = client.of("status")[-1]
        assert (status["total"], status["distributed"], status["computed"]) == (12, 12, 11)


async def test_a_failed_slice_goes_to_another_worker_first(app: SchedulerApp) -> None:
    async with deployer(app.url) as client, fake_worker(app.url) as first, fake_worker(app.url) as second:
        job = await client.deploy(dataRange={"start": 1, "end": 1, "step": 0})
        answer = await first.take()
        assert numbers(answer, job) == [1]
        looking = asyncio.ensure_future(second.take())
        await until(lambda: app.roster.statistics()["workers"] == 2)
        await first.give_back(job, [1], "ENOPROGRESS", authorization_of(answer))
        again, mine = await asyncio.gather(looking, first.take())
        assert (numbers(again, job), numbers(mine, job)) == ([1], [])


async def test_neutral_returns_cost_nothing(app: SchedulerApp) -> None:
    async with deployer(app.url) as client, fake_worker(app.url) as worker:
        job = await client.deploy(dataRange={"start": 1, "end": 1, "step": 0})
        for _ in range(2 * app.settings.max_slice_losses):
            answer = await worker.take()
            assert numbers(answer, job) == [1]
            await worker.give_back(job, [1], "Worker wanted fewer running slices", authorization_of(answer))
        await worker.compute(await worker.take())
        assert (await client.wait_for("stop"))[0]["runStatus"] == "finished"


async def test_a_repeated_result_is_paid_once(app: SchedulerApp) -> None:
    async with deployer(app.url) as client, fake_worker(app.url) as worker:
        job = await client.deploy(dataRange={"start": 1, "end": 2, "step": 1})
        answer = await worker.take()
        number, *_ = numbers(answer, job)
        authorization = authorization_of(answer)
        first, second = await asyncio.gather(
            worker.result(job, number, "one", authorization), worker.result(job, number, "two", authorization)
        )
        assert (first["verdict"], second["verdict"]) == ("accepted", "duplicate")
        assert (first["slicePaymentAmount"], second["slicePaymentAmount"]) == ("0.00001", "0")
        await client.wait_for("result", 1)
        assert client.decoded() == {number: "one"}


async def test_reports_need_the_lease_of_their_sender(app: SchedulerApp) -> None:
    async with deployer(app.url) as client, fake_worker(app.url) as worker, fake_worker(app.url) as thief:
        job = await client.deploy(dataRange={"start": 1, "end": 2, "step": 1})
        authorization = authorization_of(await worker.take())
        lease = {**authorization["auth"]["lease"], "token": "guess"}
        forged = {**authorization, "auth": {**authorization["auth"], "lease": lease}}
        for sender, claim in ((thief, authorization), (worker, forged)):
            with pytest.raises(OrchestratorError) as refused:
                await sender.result(job, 1, "mine", claim)
            assert refused.value.code == "EPERM"
        with pytest.raises(OrchestratorError) as refused:
            await worker.result(job, 1, "mine", {})
        assert refused.value.code == "EINVAL"
        with pytest.raises(OrchestratorError):
            await thief.emit(job, 1, "console", {"level": "log", "message": kvin.marshal(["x"])}, authorization)


@pytest.fixture
async def timed(settings: SchedulerSettings) -> AsyncIterator[tuple[SchedulerApp, Clock]]:
    clock = Clock()
    async with SchedulerApp(settings, clock=clock) as running:
        yield running, clock


async def test_an_expired_lease_gives_its_slices_to_others(timed: tuple[SchedulerApp, Clock]) -> None:
    app, clock = timed
    async with deployer(app.url) as client, fake_worker(app.url) as silent, fake_worker(app.url) as other:
        job = await client.deploy(dataRange={"start": 1, "end": 1, "step": 0})
        old = await silent.take()
        assert numbers(old, job) == [1]
        clock.ahead = 2 * app.settings.lease_s
        assert await app.reconciler.expire() == 1
        new = await other.take()
        assert numbers(new, job) == [1]
        late = await silent.result(job, 1, "late", authorization_of(old))
        assert (late["accepted"], late["slicePaymentAmount"]) == (False, "0")
        assert (await other.result(job, 1, "good", authorization_of(new)))["accepted"]
        await client.wait_for("result", 1)
        assert client.decoded() == {1: "good"}


async def test_a_slice_that_loses_its_workers_is_given_up_and_the_client_hears_why(
    settings: SchedulerSettings,
) -> None:
    clock = Clock()
    settings = settings.model_copy(update={"max_slice_losses": 2, "lease_s": 10.0})
    async with (
        SchedulerApp(settings, clock=clock) as app,
        deployer(app.url) as client,
        fake_worker(app.url) as worker,
    ):
        job = await client.deploy(dataRange={"start": 1, "end": 1, "step": 0})
        for _ in range(2):
            assert numbers(await worker.take(), job) == [1]
            clock.ahead += 2 * settings.lease_s
            await app.reconciler.expire()
        (error,) = await client.wait_for("error")
        assert (error["code"], error["sliceNumber"]) == ("ETOOMANYATTEMPTS", 1)
        assert (await client.wait_for("stop"))[0]["code"] == "ETOOMANYERRORS"


async def test_a_late_result_is_welcome_while_nobody_else_has_the_slice(timed: tuple[SchedulerApp, Clock]) -> None:
    app, clock = timed
    async with deployer(app.url) as client, fake_worker(app.url) as worker:
        job = await client.deploy(dataRange={"start": 1, "end": 1, "step": 0})
        answer = await worker.take()
        clock.ahead = 2 * app.settings.lease_s
        await app.reconciler.expire()
        assert (await worker.result(job, 1, "late", authorization_of(answer)))["accepted"]
        assert (await client.wait_for("stop"))[0]["runStatus"] == "finished"


async def test_a_sign_of_life_keeps_leases(timed: tuple[SchedulerApp, Clock]) -> None:
    app, clock = timed
    async with deployer(app.url) as client, fake_worker(app.url) as worker:
        job = await client.deploy(dataRange={"start": 1, "end": 1, "step": 0})
        await worker.take()
        clock.ahead = app.settings.lease_s * 0.9
        await worker.take(fetchState=2, soteriaJobs={job: [1]})
        clock.ahead = app.settings.lease_s * 1.5
        assert await app.reconciler.expire() == 0


async def test_a_worker_that_starts_again_returns_what_it_held(app: SchedulerApp) -> None:
    async with deployer(app.url) as client, fake_worker(app.url) as worker, fake_worker(app.url) as thief:
        job = await client.deploy(dataRange={"start": 1, "end": 3, "step": 1})
        taken = numbers(await worker.take(), job)
        with pytest.raises(OrchestratorError):
            await thief.take(fetchState=5, returnAllSlices=worker.holds_nothing())
        again = await worker.take(fetchState=5, returnAllSlices=worker.holds_nothing())
        assert numbers(again, job) == taken
        answer = await worker.tasks.request(
            "requestTask@3",
            {"paymentAddress": worker.payment.address, "fetchState": 16, "returnAllSlices": worker.holds_nothing()},
        )
        assert "task" not in answer["body"]
        status = (await client.wait_for("status", len(client.of("status")) + 0))[-1]
        assert status["computed"] == 0


@contextlib.asynccontextmanager
async def rejected_by_all(
    settings: SchedulerSettings, rejected_job_s: float
) -> AsyncIterator[tuple[SchedulerApp, Any, Any, str]]:
    """A Scheduler, the client, the only worker, and the job that it gave back and does not want again."""
    settings = settings.model_copy(update={"rejected_job_s": rejected_job_s})
    async with SchedulerApp(settings) as app, deployer(app.url) as client, fake_worker(app.url) as worker:
        job = await client.deploy(dataRange={"start": 1, "end": 3, "step": 1})
        answer = await worker.take()
        reason = {"message": "not here", "retries": 0, "errorCode": "EWORKREJECT"}
        held = numbers(answer, job)
        await worker.give_back(job, held[:1], reason, authorization_of(answer))
        await worker.give_back(job, held[1:], "EWORKREJECT", authorization_of(answer))
        assert numbers(await worker.take(rejectedJobs=[job]), job) == []
        yield app, client, worker, job


async def test_a_job_that_every_worker_rejected_stops(settings: SchedulerSettings) -> None:
    async with rejected_by_all(settings, 0.0) as (_, client, worker, job):
        assert numbers(await worker.take(rejectedJobs=[job]), job) == []
        stop = (await client.wait_for("stop"))[0]
        assert (stop["runStatus"], stop["code"]) == ("cancelled", "ETOOMANYERRORS")


async def test_requests_that_come_together_stop_a_rejected_job_once(settings: SchedulerSettings) -> None:
    async with rejected_by_all(settings, 3600.0) as (app, client, _, _):
        offers = app.distributor._leasing._offers
        (key,) = offers._rejected_since
        offers._rejected_since[key] -= 3600.0
        await asyncio.gather(offers.stop_rejected(), offers.stop_rejected())
        assert (await client.wait_for("stop"))[0]["code"] == "ETOOMANYERRORS"


async def test_emitted_events_reach_the_client(app: SchedulerApp) -> None:
    async with deployer(app.url) as client, fake_worker(app.url) as worker:
        job = await client.deploy(dataRange={"start": 1, "end": 1, "step": 0})
        authorization = authorization_of(await worker.take())
        message = kvin.marshal(["hello", {"a": 1}])
        await worker.emit(job, 1, "console", {"level": "log", "message": message}, authorization)
        await worker.emit(job, 1, "console", {"level": "log", "same": 5}, authorization)
        custom = {"eventName": "custom", "customEvent": "milestone", "data": 7}
        await worker.emit(job, 1, "custom", custom, authorization)
        marshalled = {**custom, "data": kvin.marshal({"bytes": kvin.TypedArray("Uint8Array", b"\x07"), "i": 1})}
        await worker.emit(job, 1, "custom", marshalled, authorization)
        await worker.emit(job, 1, "noProgress", {"message": "no", "code": "ENOPROGRESS"}, authorization)
        with pytest.raises(OrchestratorError, match="cannot be decoded"):
            await worker.emit(job, 1, "console", {"level": "log", "message": {"what": 1}}, authorization)
        with pytest.raises(OrchestratorError):
            await worker.emit(job, 1, "stop", {"runStatus": "finished"}, authorization)
        first, second = await client.wait_for("console", 2)
        assert kvin.unmarshal(first["message"]) == ["hello", {"a": 1}]
        assert (second["same"], kvin.unmarshal(second["message"])) == (5, kvin.UNDEFINED)
        customs = await client.wait_for("custom", 2)
        assert [(one["customEvent"], one["data"]) for one in customs] == [
            ("milestone", 7),
            ("milestone", {"bytes": {"0": 7}, "i": 1}),
        ]
        assert (await client.wait_for("noprogress"))[0]["sliceNumber"] == 1


async def test_results_that_would_end_a_client_are_failures(app: SchedulerApp) -> None:
    async with deployer(app.url) as client, fake_worker(app.url) as worker:
        job = await client.deploy(dataRange={"start": 1, "end": 1, "step": 0})
        authorization = authorization_of(await worker.take())
        bad = {"string": "{not json", "method": "json", "MIMEType": "application/json"}
        answer = await worker.results.request(
            "result",
            {"slice": 1, "job": job, "worker": worker.id, "authorizationMessage": authorization, "resultV2": bad},
        )
        assert answer["verdict"] == "retry"
        assert client.of("result") == []


@contextlib.asynccontextmanager
async def scheduler(settings: SchedulerSettings) -> AsyncIterator[SchedulerApp]:
    async with SchedulerApp(settings) as app:
        yield app


async def test_a_restart_in_the_middle_loses_nothing(settings: SchedulerSettings, tmp_path: pathlib.Path) -> None:
    """Leases, accepted results and unheard events come back from the database; clients and workers only reconnect."""
    worker_key, owner_key = PrivateKey.generate(), PrivateKey.generate()
    account = PrivateKey.generate()
    async with scheduler(settings) as app, DcpClient(worker_key) as one, DcpClient(owner_key) as two:
        worker, client = FakeWorker(one, app.url, lambda datum, _: datum * 3), Deployer(two, app.url, account)
        job, _ = await client.submit(dataRange={"start": 1, "end": 40, "step": 1}, estimationSlices=0)
        await client.join(job)
        held = await worker.take()
        slices = numbers(held, job)
        assert len(slices) > 3
        for number in slices[:3]:
            await worker.result(job, number, number * 3, authorization_of(held))
        identity = app.core.identity.address
    async with scheduler(settings) as app, DcpClient(worker_key) as one, DcpClient(owner_key) as two:
        assert app.core.identity.address == identity
        again, client = FakeWorker(one, app.url, lambda datum, _: datum * 3), Deployer(two, app.url, account)
        again.id = worker.id
        await client.subscribe(job, "result", "status")
        assert len(await client.wait_for("result", 3)) == 3
        # The lease is as good as before, the repetition is known, and the rest is still to be had.
        answers = [await again.result(job, number, number * 3, authorization_of(held)) for number in slices]
        assert [one["verdict"] for one in answers] == ["duplicate"] * 3 + ["accepted"] * (len(slices) - 3)
        async with asyncio.timeout(20):
            while len(again.answers) < 40 - len(slices):
                await again.compute(await again.take())
        await client.wait_for("stop")
        assert client.decoded() == {number: number * 3 for number in range(1, 41)}
        assert len(client.of("result")) == 40


async def test_a_client_with_a_new_session_hears_what_it_had_not_acknowledged(app: SchedulerApp) -> None:
    async with deployer(app.url) as client, fake_worker(app.url) as worker:
        job = await client.deploy("result", dataRange={"start": 1, "end": 4, "step": 1})
        await worker.compute(await worker.take())
        before = len(await client.wait_for("result", 1))
        await client.router.close()
        while len(worker.answers) < 4:
            await worker.compute(await worker.take())
        client.router = client.client.connect(f"{app.url}eventRouter/", on_request=client._on_request)
        await client.subscribe(job, "result")
        await client.wait_for("stop")
        assert set(client.decoded()) == {1, 2, 3, 4}
        assert len(client.of("result")) <= 4 + before


async def test_local_jobs_go_only_to_workers_that_name_them(app: SchedulerApp) -> None:
    async with deployer(app.url) as client, fake_worker(app.url) as stranger, fake_worker(app.url) as own:
        job, answer = await client.submit(
            localExec=True,
            mvMultSlicePayment=0,
            estimationSlices=0,
            workFunctionURI="file:///tmp/work",
            marshaledDataValues={"0": "file:///tmp/a", "1": "file:///tmp/b", "length": 2},
        )
        assert answer["lastSliceNumber"] == 2
        assert numbers(await stranger.take(), job) == []
        task = (await own.take(jobIds=[job], workerComputeGroups=[]))["body"]
        assert [one["datumUri"] for one in task["task"][job]] == ["file:///tmp/a", "file:///tmp/b"]
        assert task["newJobs"][job]["codeLocation"] == "file:///tmp/work"


async def test_jobs_share_workers_fairly(app: SchedulerApp) -> None:
    async with deployer(app.url) as client, fake_worker(app.url, load=2.0) as worker:
        wanted = {"dataRange": {"start": 1, "end": 1000, "step": 1}, "estimationSlices": 0}
        one, two = await client.deploy(**wanted), await client.deploy(**wanted)
        answer = await worker.take()
        assert len(numbers(answer, one)) == len(numbers(answer, two)) > 0


async def test_a_waiting_worker_gets_work_as_soon_as_the_estimation_ends(settings: SchedulerSettings) -> None:
    settings = settings.model_copy(update={"long_poll_s": 60.0})
    async with (
        SchedulerApp(settings) as app,
        deployer(app.url) as client,
        fake_worker(app.url) as measuring,
        fake_worker(app.url) as waiting,
    ):
        job = await client.deploy(dataRange={"start": 1, "end": 100, "step": 1}, estimationSlices=2)
        first = await measuring.take()
        assert len(numbers(first, job)) == 2
        later = asyncio.ensure_future(waiting.take())
        await until(lambda: app.roster.statistics()["workers"] == 2)
        await measuring.compute(first)
        async with asyncio.timeout(10):
            assert numbers(await later, job)


async def test_a_worker_that_does_not_want_a_job_for_long_waits_for_others(settings: SchedulerSettings) -> None:
    settings = settings.model_copy(update={"long_poll_s": 60.0})
    async with SchedulerApp(settings) as app, deployer(app.url) as client, fake_worker(app.url) as worker:
        unwanted = await client.deploy(dataRange={"start": 1, "end": 4, "step": 1})
        fetching = await worker.take(unresolvedJobs=[unwanted])
        assert fetching["body"]["noWork"] == {"EUNRESOLVED": 1}  # answered soon: it will be able to take it
        waiting = asyncio.ensure_future(worker.take(unresolvedJobs=[unwanted], deferredJobs=[unwanted]))
        await until(lambda: app.roster.statistics()["workers"] == 1)
        wanted = await client.deploy(dataRange={"start": 1, "end": 4, "step": 1})
        async with asyncio.timeout(10):
            assert numbers(await waiting, wanted)


async def test_an_answer_without_slices_says_why_jobs_are_not_for_the_worker(app: SchedulerApp) -> None:
    async with deployer(app.url) as client, fake_worker(app.url) as worker:
        assert "noWork" not in (await worker.take())["body"]  # there is no job at all
        one_slice = {"start": 1, "end": 1, "step": 1}
        await client.deploy("result", dataRange=one_slice)
        await client.deploy("result", dataRange=one_slice, requirements=64 | 32)
        other = [{"name": "pyodide", "version": "0.28.0"}]
        assert (await worker.take(worktimes=other))["body"]["noWork"] == {"EWORKTIME": 1, "ECAPABILITY": 1}
        assert (await worker.take(workerComputeGroups=[]))["body"]["noWork"] == {"ECOMPUTEGROUP": 2}
        answer = await worker.take()
        assert answer["body"]["task"] and "noWork" not in answer["body"]


async def test_leases_that_ran_out_while_the_scheduler_was_away_wait_for_their_workers(
    settings: SchedulerSettings,
) -> None:
    """It was the Scheduler that did not listen: nobody else gets the slices before their workers could come back."""

    def echo(datum: Any, _: int) -> Any:
        return datum

    key, clock = PrivateKey.generate(), Clock()
    account = PrivateKey.generate()
    async with (
        SchedulerApp(settings, clock=clock) as app,
        DcpClient(key) as one,
        DcpClient(PrivateKey.generate()) as two,
    ):
        worker, client = FakeWorker(one, app.url, echo), Deployer(two, app.url, account)
        job = await client.deploy(dataRange={"start": 1, "end": 2, "step": 1}, estimationSlices=0)
        held = await worker.take()
        assert numbers(held, job) == [1, 2]
    clock.ahead += 600
    async with SchedulerApp(settings, clock=clock) as app, DcpClient(key, clock=clock) as one:
        again = FakeWorker(one, app.url, echo)
        again.id = worker.id
        async with DcpClient(PrivateKey.generate(), clock=clock) as three:
            assert numbers(await FakeWorker(three, app.url, echo).take(), job) == []
        answers = [await again.result(job, number, number, authorization_of(held)) for number in (1, 2)]
        assert [answer["verdict"] for answer in answers] == ["accepted"] * 2
