"""Receipts of a whole Worker: what it sent, what it kept, and what an auditor says of both."""

from __future__ import annotations

import json

import pytest
from click.testing import CliRunner
from eth_account import Account
from eth_account.messages import encode_defunct

from orchestrator.cli.receipts import command
from orchestrator.worker import receipts

pytestmark = pytest.mark.docker

JOB = "j" * 22


async def test_every_result_carries_a_receipt_that_others_can_check(scheduler, worker, tmp_path):
    data = [f"data:application/json,{n}" for n in range(4)]
    code = "n => { progress(); if (n === 3) throw new TypeError('no'); return [n] }"
    scheduler.add(JOB, code, data, needCapabilities=0)
    payee = "0x" + "22" * 20
    async with worker(scheduler, payment_address=payee, memory_mib=300, slice_timeout_s=9) as w:
        await scheduler.done(4)
    identity = w.account.identity.address
    for number, uri in enumerate(data, 1):
        sent = scheduler.results[JOB, number]
        receipt = sent["receipt"]
        assert receipts.signer(receipt) == identity
        unsigned = {name: value for name, value in receipt.items() if name != "signature"}
        text = json.dumps(unsigned, sort_keys=True, separators=(",", ":"))
        assert text == receipts.signed_text(receipt)
        assert Account.recover_message(encode_defunct(text=text), signature=receipt["signature"]) == identity
        assert receipt["input"] == receipts.hash_of(uri)
        assert receipt["output"] == receipts.hash_of(sent["resultV2"]["what"]["raw"]["string"])
        assert (receipt["job"], receipt["slice"], receipt["threw"]) == (JOB, number, number == 4)
        assert receipt["metrics"]["cpuNs"] == round(sent["metrics"]["CPUTime"] * 1e6)
        assert receipt["metrics"]["bytesIn"] == sent["metrics"]["InDataSize"]
        assert receipt["paymentAddress"].lower() == payee
        assert receipt["workerId"] == w.account.worker_id
        assert receipt["limits"]["memoryBytes"] == 300 << 20
        assert receipt["limits"]["sliceTimeoutMs"] == 9000
        assert receipt["isolation"] == w.statistics()["runtime"]["isolation"]
        assert receipt["image"] == w.statistics()["runtime"]["image_digest"]
    result = CliRunner().invoke(command, ["verify", "--state", str(tmp_path / "worker"), "--output", "json"])
    assert result.exit_code == 0, result.output
    found = json.loads(result.output)
    assert (found["valid"], found["signers"]) == (4, {identity: 4})
    shown = CliRunner().invoke(command, ["show", JOB, "2", "--state", str(tmp_path / "worker")])
    assert json.loads(shown.output) == [{**scheduler.results[JOB, 2]["receipt"], "verified": {"signer": identity}}]


async def test_receipts_can_be_turned_off(scheduler, worker, tmp_path):
    scheduler.add(JOB, "n => { progress(); return n }", ["data:application/json,1"])
    async with worker(scheduler, receipts=False) as w:
        await scheduler.done(1)
    assert "receipt" not in scheduler.results[JOB, 1]
    assert w.statistics()["receipts"] == {}
    assert not (tmp_path / "worker" / "receipts").exists()


async def test_receipts_come_whole_out_of_a_pile(scheduler, worker):
    scheduler.in_pile = 100
    scheduler.add(JOB, "n => { progress(); return n }", [f"data:application/json,{n}" for n in range(60)])
    async with worker(scheduler) as w:
        await scheduler.done(60)
    sent = [scheduler.results[JOB, number]["receipt"] for number in range(1, 61)]
    assert {receipts.signer(receipt) for receipt in sent} == {w.account.identity.address}
    assert max(scheduler.piles) > 1
