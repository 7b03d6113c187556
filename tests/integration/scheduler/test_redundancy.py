"""Jobs whose slices several workers must agree on: who is asked, who is right, who is paid, what the owner hears."""

from __future__ import annotations

import contextlib
import re
from collections.abc import AsyncIterator, Mapping
from typing import Any

import pytest

from orchestrator.bank import Bank
from orchestrator.protocol.errors import RemoteError
from orchestrator.scheduler.app import SchedulerApp
from orchestrator.scheduler.late_leasing import LateLeasing
from orchestrator.scheduler.pricing import to_dcc
from orchestrator.settings import SchedulerSettings
from tests.integration.scheduler.actors import Deployer, FakeWorker, authorization_of, deployer, fake_worker, serving
from tests.integration.scheduler.test_when_things_go_wrong import Clock, numbers

ONE = {"start": 1, "end": 1, "step": 1}
PRICE = 10**18
TWO_OF_THREE = {"agree": 2, "of": 3}


@pytest.fixture
def settings(settings: SchedulerSettings) -> SchedulerSettings:
    return settings.model_copy(update={"long_poll_s": 0.0})


@contextlib.asynccontextmanager
async def workers(app: SchedulerApp, count: int) -> AsyncIterator[list[FakeWorker]]:
    async with contextlib.AsyncExitStack() as stack:
        yield [await stack.enter_async_context(fake_worker(app.url)) for _ in range(count)]


async def deploy(client: Deployer, redundancy: Any = True, **fields: Any) -> str:
    offer = {"mvMultSlicePayment": 0, "absoluteSlicePayment": 1}
    return await client.deploy("result", "error", **({"dataRange": ONE, "redundancy": redundancy} | offer | fields))


async def say(worker: FakeWorker, job: str, value: Any) -> Mapping[str, Any]:
    """Take slice 1 and report it."""
    task = await worker.take()
    assert numbers(task, job) == [1]
    told: Mapping[str, Any] = await worker.result(job, 1, value, authorization_of(task))
    return told


async def earned(app: SchedulerApp, *those: FakeWorker) -> list[int]:
    async with app.core.database.snapshot() as tx:
        return [await Bank().balance(tx, worker.payment.address) for worker in those]


async def sound(app: SchedulerApp, client: Deployer) -> None:
    """The books are right, and nothing is held any more."""
    async with app.core.database.snapshot() as tx:
        assert (await Bank().audit(tx)).problems == ()
    for report in await client.pheme.request("listJobs", {}):
        assert report["escrow"] == "0"


async def test_a_lone_liar_is_outvoted_and_not_paid(app: SchedulerApp) -> None:
    async with deployer(app.url) as client, workers(app, 3) as (honest, liar, other):
        job = await deploy(client, TWO_OF_THREE)
        told = await say(honest, job, "right")
        assert (told["accepted"], told["verdict"], told["slicePaymentAmount"]) == (True, "opinion", "0")
        assert numbers(await honest.take(), job) == [], "nobody is asked twice"
        assert (await say(liar, job, "wrong"))["verdict"] == "opinion"
        assert client.of("result") == [], "nothing is told before it is agreed"
        told = await say(other, job, "right")
        assert (told["accepted"], told["verdict"], told["slicePaymentAmount"]) == (True, "accepted", "1")
        await client.wait_for("stop")
        assert client.decoded() == {1: "right"}
        assert len(client.of("result")) == 1
        assert await earned(app, honest, liar, other) == [PRICE, 0, PRICE]
        report = await client.pheme.request("fetchJobReport", {"job": job})
        assert (report["spent"], report["cost"]) == ("2", "2")
        assert report["failures"] == [{"reason": "EWRONG: others agree on another result; not paid", "slices": 1}]
        about = await client.pheme.request("fetchSliceReport", {"job": job, "slice": 1})
        assert [(one["worker"], one["state"], one["paid"]) for one in about["opinions"]] == [
            (honest.id, "agreed", True), (liar.id, "wrong", False), (other.id, "agreed", True),
        ]  # fmt: skip
        assert about["opinions"][1]["trust"].startswith("suspect: 0 opinions agreed with, 1 shown wrong")
        findings = (await client.pheme.request("explainJob", {"job": job}))["findings"]
        assert "1 result was shown wrong by others and not paid" in [one["what"] for one in findings]
        await sound(app, client)


async def test_the_last_to_speak_hears_that_it_is_wrong_and_so_do_repetitions(app: SchedulerApp) -> None:
    async with deployer(app.url) as client, workers(app, 4) as (first, liar, third, late):
        job = await deploy(client, {"agree": 2, "of": 4})
        task = await first.take()
        assert (await first.result(job, 1, 5, authorization_of(task)))["verdict"] == "opinion"
        assert (await first.result(job, 1, 5, authorization_of(task)))["verdict"] == "duplicate"
        wrong = await liar.take()
        assert (await liar.result(job, 1, 6, authorization_of(wrong)))["verdict"] == "opinion"
        assert (await say(third, job, 5))["verdict"] == "opinion", "a suspicious result: one more must agree"
        told = await say(late, job, 7)
        assert (told["accepted"], told["verdict"], told["slicePaymentAmount"]) == (False, "wrong", "0")
        assert told["reason"].startswith("EWRONG")
        again = await liar.result(job, 1, 6, authorization_of(wrong))
        assert (again["accepted"], again["verdict"]) == (False, "wrong")
        assert (await first.result(job, 1, 5, authorization_of(task)))["verdict"] == "duplicate"
        await client.wait_for("stop")
        assert client.decoded() == {1: 5}
        assert await earned(app, first, liar, third, late) == [PRICE, 0, PRICE, 0]
        await sound(app, client)


async def test_without_agreement_the_slice_fails_and_everybody_is_paid(app: SchedulerApp) -> None:
    async with deployer(app.url) as client, workers(app, 3) as several:
        job = await deploy(client, TWO_OF_THREE)
        told = [await say(worker, job, number) for number, worker in enumerate(several)]
        assert [one["verdict"] for one in told] == ["opinion", "opinion", "undecided"]
        assert told[2]["slicePaymentAmount"] == "1"
        stop = (await client.wait_for("stop"))[0]
        assert stop["code"] == "ETOOMANYERRORS"
        error = client.of("error")[0]
        assert error["code"] == "ENOAGREEMENT"
        assert "3 workers computed it, and no 2 of them agree" in error["message"]
        assert client.of("result") == []
        assert await earned(app, *several) == [PRICE] * 3
        await sound(app, client)


async def test_kin_is_not_asked(app: SchedulerApp) -> None:
    async with deployer(app.url) as client, workers(app, 3) as (first, kin, other):
        kin.payment = first.payment
        job = await deploy(client)
        await say(first, job, "x")
        refused = await kin.take()
        assert numbers(refused, job) == []
        assert refused["body"]["noWork"]["EOPINION"] == 1
        why = (await client.pheme.request("explainJob", {"job": job}))["findings"]
        assert why[0]["code"] == "EOPINION"
        assert "another identity and payment address" in why[0]["remedy"]
        # Whoever takes it under another address and wants the money sent there all the same is found out later.
        task = await other.take()
        other.payment = first.payment
        told = await other.result(job, 1, "x", authorization_of(task))
        assert (told["accepted"], told["verdict"]) == (False, "unasked")
        assert client.of("result") == []


async def test_an_idle_worker_need_not_wait_for_the_first_opinion(app: SchedulerApp) -> None:
    async with deployer(app.url) as client, workers(app, 3) as (one, other, third):
        job = await deploy(client)
        first, second = await one.take(), await other.take()
        assert numbers(first, job) == numbers(second, job) == [1]
        assert numbers(await third.take(), job) == []
        assert (await other.result(job, 1, "x", authorization_of(second)))["verdict"] == "opinion"
        assert numbers(await third.take(), job) == [], "the first one is at it"
        assert (await one.result(job, 1, "x", authorization_of(first)))["verdict"] == "accepted"
        await client.wait_for("stop")
        assert await earned(app, one, other) == [PRICE, PRICE]


async def test_the_price_is_told_and_held_and_the_rest_comes_back(app: SchedulerApp) -> None:
    async with deployer(app.url) as client, workers(app, 2) as (one, other):
        offer = {"mvMultSlicePayment": 0, "absoluteSlicePayment": 1}
        job, answer = await client.submit(dataRange={"start": 1, "end": 10, "step": 1}, redundancy=True, **offer)
        told = answer["redundancy"]
        assert (told["agree"], told["of"], told["trusting"], told["slices"]) == (2, 4, False, 10)
        assert (told["total"]["least"], told["total"]["most"]) == ("20", "40")
        assert 20 <= float(told["total"]["expected"]) < 21
        report = (await client.pheme.request("listJobs", {"job": job}))[0]
        assert (report["escrow"], report["cost"], report["spent"]) == ("40", "40", "0")
        assert report["redundancy"] == {"agree": 2, "of": 4, "trusting": False, "inDoubt": 0}
        await client.subscribe(job, "result")
        await client.join(job)
        async with serving(app.url, lambda x, _: x), serving(app.url, lambda x, _: x):
            await client.wait_for("stop")
        assert client.decoded() == {number: number for number in range(1, 11)}
        report = (await client.pheme.request("listJobs", {"job": job}))[0]
        assert (report["escrow"], report["cost"], report["spent"]) == ("0", "20", "20")
        assert one.taken == other.taken == []
        await sound(app, client)


async def test_a_job_without_it_is_told_nothing_of_it(app: SchedulerApp) -> None:
    async with deployer(app.url) as client, workers(app, 1) as (one,):
        job, answer = await client.submit(dataRange=ONE)
        assert "redundancy" not in answer
        assert "redundancy" not in (await client.pheme.request("listJobs", {"job": job}))[0]
        await client.join(job)
        assert (await say(one, job, 1))["verdict"] == "accepted"


async def test_a_quote_tells_what_the_deploy_will_and_keeps_nothing(app: SchedulerApp) -> None:
    async with deployer(app.url) as client:
        wish: dict[str, Any] = {"mvMultSlicePayment": 0, "absoluteSlicePayment": "0.5", "redundancy": {"agree": 3}}
        listed = await client.submit_service.request("quoteJob", {**wish, "slices": 12})
        assert (listed["slicePrice"], listed["slices"]) == ("0.5", 12)
        assert listed["held"] == {"first": "30", "most": "36"}, "ten slices at first, six opinions on each"
        assert "available" not in listed
        wish["dataRange"] = {"start": 1, "end": 10, "step": 1}
        account = {"paymentAccount": client.account.address}
        told = await client.submit_service.request("quoteJob", {**wish, **account}, authorize=[client.account])
        assert (told["held"], told["available"]) == ({"first": "30", "most": "30"}, "1000")
        job, answer = await client.submit(**wish)
        assert told["redundancy"] == answer["redundancy"]
        assert told["total"] == answer["redundancy"]["total"]
        assert [one["job"] for one in await client.pheme.request("listJobs", {})] == [job]
        market = await client.submit_service.request("quoteJob", {"mvMultSlicePayment": 2, "slices": 3})
        price = 2 * app.settings.market_slice_value
        assert market["total"] == dict.fromkeys(("least", "expected", "most"), to_dcc(3 * price))
        for wrong, match in (
            ({"redundancy": {"agree": 3, "of": 2}}, r"redundancy\.of is 2; it must be from 3 to 15 here"),
            ({"slices": -1}, "slices is -1; it must be a whole number"),
            ({"absoluteSlicePayment": -1}, "absoluteSlicePayment is -1"),
        ):
            with pytest.raises(RemoteError, match=match):
                await client.submit_service.request("quoteJob", {**wrong})


@pytest.mark.parametrize(
    ("fields", "match"),
    [
        ({"redundancy": {"agree": 1}}, r"redundancy\.agree is 1; it must be from 2 to 15 here"),
        ({"redundancy": True, "localExec": True}, "localExec"),
        ({"redundancy": True, "resultStorageType": "pattern", "resultStorageDetails": "http://x/{slice}"}, "'pattern'"),
    ],
)
async def test_what_makes_no_sense_is_refused(app: SchedulerApp, fields: dict[str, Any], match: str) -> None:
    async with deployer(app.url) as client:
        with pytest.raises(RemoteError, match=match) as refused:
            await client.submit(dataRange=ONE, **fields)
        assert refused.value.code == "EINVAL"


async def test_what_was_heard_is_paid_when_the_owner_stops_the_job(app: SchedulerApp) -> None:
    async with deployer(app.url) as client, workers(app, 2) as (one, other):
        job = await deploy(client, TWO_OF_THREE)
        task = await one.take()
        assert (await one.result(job, 1, "x", authorization_of(task)))["verdict"] == "opinion"
        await client.submit_service.request("cancelJob", {"job": job})
        assert await earned(app, one, other) == [PRICE, 0]
        assert (await one.result(job, 1, "x", authorization_of(task)))["verdict"] == "duplicate"
        await sound(app, client)
        report = (await client.pheme.request("listJobs", {"job": job}))[0]
        assert report["spent"] == "1"


async def test_a_failing_slice_pays_those_who_computed_it(app: SchedulerApp) -> None:
    async with deployer(app.url) as client, workers(app, 4) as (one, *failing):
        job = await deploy(client, {"agree": 2, "of": 2})
        await say(one, job, "x")
        for worker in failing:
            task = await worker.take()
            await worker.give_back(job, [1], "ENOPROGRESS", authorization_of(task))
        assert (await client.wait_for("stop"))[0]["code"] == "ETOOMANYERRORS"
        assert await earned(app, one, *failing) == [PRICE, 0, 0, 0]
        await sound(app, client)


async def test_funds_go_as_far_as_whole_slices_with_all_their_opinions(app: SchedulerApp) -> None:
    async with deployer(app.url) as client, workers(app, 3) as (one, other, third):
        # The account holds 1000: ten slices of at most 90 each, and then one more in doubt.
        job = await deploy(client, TWO_OF_THREE, dataRange=None, absoluteSlicePayment=30)
        await client.add(job, list(range(12)))
        report = (await client.pheme.request("listJobs", {"job": job}))[0]
        assert (report["escrow"], report["fundsRequired"]) == ("990", "90")
        async with app.core.database.snapshot() as tx:
            assert await Bank().balance(tx, client.account.address) == 10 * PRICE
        given: list[int] = []
        while got := numbers(task := await one.take(), job):
            given += got
            for number in got:
                await one.result(job, number, number, authorization_of(task))
        assert len(given) == 11, "nobody else was heard: what is in doubt stays bound"
        while got := numbers(task := await other.take(), job):
            for number in got:
                assert (await other.result(job, number, number, authorization_of(task)))["accepted"]
        # Two of three opinions were needed: what was saved pays for the twelfth.
        report = (await client.pheme.request("listJobs", {"job": job}))[0]
        assert report["computed"] == 11
        for worker in (one, third):
            while got := numbers(task := await worker.take(), job):
                for number in got:
                    await worker.result(job, number, number, authorization_of(task))
        await client.results.request("closeJob", {"job": job})
        await client.wait_for("stop")
        assert len(client.decoded()) == 12
        await sound(app, client)


async def test_a_raised_quorum_outlasts_the_patience_with_a_slice(settings: SchedulerSettings) -> None:
    """Two of three agree, a fourth is wanted and does not come: the slice is given up, and not taken for right."""
    clock = Clock()
    settings = settings.model_copy(update={"opinion_wait_s": 120.0})
    async with (
        SchedulerApp(settings, clock=clock) as app,
        deployer(app.url) as client,
        workers(app, 4) as (one, liar, other, slow),
    ):
        job = await deploy(client)
        for worker, value in ((one, "x"), (liar, "y"), (other, "x")):
            assert (await say(worker, job, value))["verdict"] == "opinion"
        clock.ahead = 20
        assert await app.keeper.give_up() == 0
        task = await slow.take()
        clock.ahead = 130
        assert await app.keeper.give_up() == 0, "somebody is at it"
        await slow.give_back(job, [1], "EWORKERSTOPPING", authorization_of(task))
        clock.ahead = 170
        answer = await client.pheme.request("explainJob", {"job": job})
        [what] = [one["what"] for one in answer["findings"] if one["code"] == "EOPINION" and "slice 1" in one["what"]]
        assert re.search("slice 1 has waited for [45]. s and needs 1 more opinion", what)
        assert re.search("suspicious: 3 must agree; if nobody takes it, it is given up in [678]. s$", what)
        clock.ahead = 300
        await app.keeper.give_up()
        assert (await client.wait_for("stop"))[0]["code"] == "ETOOMANYERRORS"
        error = client.of("error")[0]
        assert error["code"] == "ENOAGREEMENT"
        assert "3 workers computed it, 3 must agree, and nobody else has given an opinion for 120 s" in error["message"]
        assert client.of("result") == []
        assert await earned(app, one, liar, other, slow) == [PRICE, PRICE, PRICE, 0]
        await sound(app, client)


async def test_a_late_opinion_counts_and_an_expired_one_is_asked_for_again(settings: SchedulerSettings) -> None:
    clock = Clock()
    settings = settings.model_copy(update={"lease_s": 100.0})
    async with (
        SchedulerApp(settings, clock=clock) as app,
        deployer(app.url) as client,
        workers(app, 3) as (one, other, third),
    ):
        job = await deploy(client, TWO_OF_THREE, dataRange={"start": 1, "end": 1, "step": 1})
        task = await one.take()
        clock.ahead = settings.lease_s + 1
        assert await app.reconciler.expire() == 1
        assert (await one.result(job, 1, "x", authorization_of(task)))["verdict"] == "opinion"
        lost = await other.take()
        clock.ahead = 2 * settings.lease_s + 2
        assert await app.reconciler.expire() == 1
        assert (await say(third, job, "x"))["verdict"] == "accepted"
        assert (await other.result(job, 1, "x", authorization_of(lost)))["verdict"] == "late"
        await client.wait_for("stop")
        assert await earned(app, one, other, third) == [PRICE, 0, PRICE]
        await sound(app, client)


async def test_who_has_nothing_to_do_does_not_look_for_late_slices_when_there_are_none(
    app: SchedulerApp, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked: list[str] = []
    look = LateLeasing._out

    async def counted(self: LateLeasing, tx: Any, job: int, rule: Any, worker: str, who: Any) -> Any:
        looked.append(worker)
        return await look(self, tx, job, rule, worker, who)

    monkeypatch.setattr(LateLeasing, "_out", counted)
    async with deployer(app.url) as client, workers(app, 5) as (one, other, *idle):
        job = await deploy(client, {"agree": 2, "of": 2})
        assert [numbers(await who.take(), job) for who in (one, other)] == [[1], [1]]
        looked.clear()
        for who in idle:
            assert numbers(await who.take(), job) == []
        assert len(looked) <= 2, "the first that finds nothing late for anybody"


async def test_opinions_survive_a_restart(settings: SchedulerSettings) -> None:
    async with SchedulerApp(settings) as app, deployer(app.url) as client, workers(app, 2) as (one, other):
        job = await deploy(client)
        await say(one, job, "x")
        owner, account = client.client.identity, client.account
    async with (
        SchedulerApp(settings) as app,
        deployer(app.url, account, owner) as client,
        workers(app, 1) as (another,),
    ):
        assert (await say(another, job, "x"))["verdict"] == "accepted"
        assert await earned(app, one, another, other) == [PRICE, PRICE, 0]
        found = await client.results.request("fetchResult", {"job": job, "range": [1]})
        assert len(found) == 1
        await sound(app, client)


async def test_trust_is_earned_spent_and_lost(settings: SchedulerSettings) -> None:
    """A trusted worker is believed alone, but for spot checks; one that is caught is believed no more."""
    settings = settings.model_copy(update={"trusted_after": 3, "least_spot_checks": 0.0})
    async with SchedulerApp(settings) as app, deployer(app.url) as client, workers(app, 3) as (one, other, third):
        rule = {"agree": 2, "of": 3, "trusting": True}
        for _ in range(4):
            job = await deploy(client, rule)
            if (await say(one, job, "x"))["verdict"] == "opinion":
                assert (await say(other, job, "x"))["verdict"] == "accepted"
        _, answer = await client.submit(dataRange=ONE, redundancy=rule)
        assert float(answer["redundancy"]["opinions"]["expected"]) < 2
        verdicts = []
        for _ in range(20):
            job = await deploy(client, rule)
            verdicts.append((await say(one, job, "lie"))["verdict"])
            if verdicts[-1] == "opinion":  # a spot check
                await say(other, job, "x")
                assert (await say(third, job, "x"))["verdict"] == "accepted"
                break
        else:
            pytest.fail("twenty lies of a worker of which every second slice is checked were believed")
        job = await deploy(client, rule)
        assert (await say(one, job, "lie"))["verdict"] == "opinion", "it is believed alone no more"
