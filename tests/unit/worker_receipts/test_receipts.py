"""Receipts: Ethereum's own tools recover who signed, and no field can be changed unnoticed."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest
from eth_account import Account
from eth_account.messages import encode_defunct
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.errors import InvalidInput
from orchestrator.jobs.words import SliceMetrics
from orchestrator.wallet.keys import PrivateKey, keccak256
from orchestrator.worker import receipts
from orchestrator.worker.limits import SandboxLimits, SliceLimits
from orchestrator.worker.receipt_audit import Audit

KEY = PrivateKey(b"\x11" * 32)
TERMS = receipts.Terms(
    worker=KEY.address,
    worker_id="w" * 22,
    payment_address=PrivateKey(b"\x22" * 32).address,
    image="sha256:" + "3" * 64,
    limits=receipts.limits_in_force(SandboxLimits(cpus=0.5), SliceLimits(slice_timeout_s=None)),
    isolation="runc-hardened",
)
OLD = (
    '{"format":"dcp-orchestrator receipt 1",'
    '"image":"sha256:3333333333333333333333333333333333333333333333333333333333333333",'
    '"input":"0x445b6599bcf267ef41be2c5735c494c8e5b52933fe6a8da0212a98a2c3e7eb5f","job":"jjjjjjjjjjjjjjjjjjjjjj",'
    '"limits":{"cpuMillis":500,"memoryBytes":536870912,"pids":32,"progressTimeoutMs":300000,"sliceTimeoutMs":null,'
    '"swapBytes":0},'
    '"metrics":{"bytesIn":100,"bytesOut":2000,"cpuNs":12345600,"gpuNs":0,"peakMemory":5000000,"wallNs":1500000000},'
    '"output":"0xe58756d1c595c1999aecd001baff5559506f1d4628f4dcbb48f33a036f517cc9",'
    '"paymentAddress":"0x1563915e194D8CfBA1943570603F7606A3115508","slice":7,"threw":false,"time":5,'
    '"worker":"0x19E7E376E7C213B7E7e7e46cc70A5dD086DAff2A","workerId":"wwwwwwwwwwwwwwwwwwwwww",'
    '"signature":"0xedc5395672f7aa7124423bebf110c22927e06e05046cfd0cbef7c30bd5e3ce3a'
    '54bc957f93ac5e2b4d98c7960fecb484505fc2a9c4af9fd7e36c9dbcb7e1ece01b"}'
)
"""Signed before receipts told the level of isolation."""
METRICS = SliceMetrics(0.0123456, 1.5, 100, 2000, 5_000_000)
DELIVERY = receipts.Delivery("j" * 22, 7, "data:application/json,7", '"é"', False, METRICS)


def issued(delivery: receipts.Delivery = DELIVERY, time_ms: int = 1_800_000_000_000) -> dict[str, Any]:
    return receipts.issue(KEY, TERMS, delivery, time_ms).receipt


def test_ethereums_own_library_recovers_the_signer() -> None:
    receipt = issued()
    unsigned = {name: value for name, value in receipt.items() if name != "signature"}
    text = json.dumps(unsigned, sort_keys=True, separators=(",", ":"))  # all that a reader in Python needs
    assert Account.recover_message(encode_defunct(text=text), signature=receipt["signature"]) == KEY.address
    assert receipts.signer(receipt) == KEY.address


def test_what_it_says() -> None:
    receipt = issued()
    assert (receipt["job"], receipt["slice"], receipt["workerId"]) == ("j" * 22, 7, "w" * 22)
    assert receipt["input"] == "0x" + keccak256(b"data:application/json,7").hex()
    assert receipt["output"] == "0x" + keccak256('"é"'.encode()).hex()
    assert receipt["metrics"]["cpuNs"] == 12_345_600
    assert receipt["isolation"] == "runc-hardened"
    assert receipt["limits"] == {
        "cpuMillis": 500, "memoryBytes": 512 << 20, "pids": 32, "progressTimeoutMs": 300_000, "sliceTimeoutMs": None,
        "swapBytes": 0,
    }  # fmt: skip


def test_the_line_is_the_receipt() -> None:
    one = receipts.issue(KEY, TERMS, DELIVERY, 5)
    assert receipts.parse(one.line) == json.loads(json.dumps(one.receipt))
    assert receipts.signer(receipts.parse(one.line)) == KEY.address


def test_receipts_of_before_the_level_of_isolation_was_told_are_still_good() -> None:
    assert receipts.signer(receipts.parse(OLD)) == KEY.address
    assert receipts.issue(KEY, dataclasses.replace(TERMS, isolation=None), DELIVERY, 5).line == OLD
    with pytest.raises(InvalidInput, match="changed"):
        receipts.signer({**receipts.parse(OLD), "isolation": "kata"})


def test_any_order_of_fields_is_the_same_receipt() -> None:
    receipt = issued()
    turned = {name: receipt[name] for name in reversed(list(receipt))}
    turned["metrics"] = {name: receipt["metrics"][name] for name in reversed(list(receipt["metrics"]))}
    assert receipts.signer(json.loads(json.dumps(turned))) == KEY.address


def paths(value: Any, here: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    if isinstance(value, dict):
        return [path for name, inner in value.items() for path in paths(inner, (*here, name))]
    return [here]


scalars = st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats(allow_nan=False) | st.text(max_size=80)


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(paths(issued())), scalars)
def test_no_field_can_be_replaced(path: tuple[str, ...], value: Any) -> None:
    receipt = json.loads(json.dumps(issued()))
    place = receipt
    for name in path[:-1]:
        place = place[name]
    if value == place[path[-1]] and isinstance(value, bool) is isinstance(place[path[-1]], bool):
        return
    place[path[-1]] = value
    with pytest.raises(InvalidInput):
        receipts.signer(receipt)


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_no_character_can_be_changed(data: st.DataObject) -> None:
    """One digit or letter of a line is another one: it is no JSON any more, or no receipt, or nobody's."""
    line = receipts.issue(KEY, TERMS, DELIVERY, 5).line
    place = data.draw(st.integers(0, len(line) - 1))
    other = data.draw(st.sampled_from('0123456789abcdefx"{}:,-. '))
    changed = line[:place] + other + line[place + 1 :]
    try:
        same = json.loads(changed) == json.loads(line)
    except ValueError:
        same = False
    if same:
        return
    with pytest.raises(InvalidInput):
        receipts.signer(receipts.parse(changed))


@pytest.mark.parametrize("path", paths(issued()), ids=".".join)
def test_no_field_can_be_taken_away(path: tuple[str, ...]) -> None:
    receipt = json.loads(json.dumps(issued()))
    place = receipt
    for name in path[:-1]:
        place = place[name]
    del place[path[-1]]
    with pytest.raises(InvalidInput, match="changed" if path == ("isolation",) else "missing"):
        receipts.signer(receipt)


@pytest.mark.parametrize("where", ["", "limits", "metrics"])
def test_nothing_can_be_added(where: str) -> None:
    receipt = json.loads(json.dumps(issued()))
    (receipt[where] if where else receipt)["bonus"] = 1
    with pytest.raises(InvalidInput, match="bonus"):
        receipts.signer(receipt)


def test_a_high_s_is_another_signature_and_no_duplicate_key() -> None:
    """The twin of a signature (n - s) recovers the same address: it must not pass for a second receipt unnoticed."""
    receipt = issued()
    order = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141
    signature = receipt["signature"]
    s = order - int(signature[66:130], 16)
    twin = {**receipt, "signature": f"{signature[:66]}{s:064x}{'1c' if signature[130:] == '1b' else '1b'}"}
    with pytest.raises(InvalidInput):
        receipts.signer(twin)


metrics = st.builds(
    SliceMetrics,
    st.floats(0, 1e9), st.floats(0, 1e9), st.integers(0, 2**40), st.integers(0, 2**40), st.integers(0, 2**40),
    st.floats(0, 1e6),
)  # fmt: skip
deliveries = st.builds(
    receipts.Delivery, st.text(min_size=1, max_size=40), st.integers(0, 2**53 - 1), st.text(), st.text(),
    st.booleans(), metrics,
)  # fmt: skip


@settings(max_examples=200, deadline=None)
@given(deliveries, st.integers(0, 2**53 - 1))
def test_every_receipt_survives_the_wire(delivery: receipts.Delivery, time_ms: int) -> None:
    one = receipts.issue(KEY, TERMS, delivery, time_ms)
    assert receipts.signer(receipts.parse(one.line)) == KEY.address


def test_lone_surrogates_are_hashed() -> None:
    assert receipts.hash_of("\ud800") == "0x" + keccak256(b"\xed\xa0\x80").hex()


# -- audit


def lines(count: int) -> list[bytes]:
    made = []
    for number in range(count):
        delivery = receipts.Delivery("j" * 22, number, "data:,", "1", False, METRICS)
        made.append(receipts.issue(KEY, TERMS, delivery, 1000 + number).line.encode())
    return made


def test_an_audit_counts() -> None:
    audit = Audit()
    for number, line in enumerate(lines(5)):
        assert audit.take(f"f:{number}", line) is not None
    assert audit.good
    assert (audit.counts["valid"], audit.signers[KEY.address]) == (5, 5)
    assert (audit.first_ms, audit.last_ms) == (1000, 1004)
    assert audit.cpu_ns == 5 * 12_345_600
    assert audit.to_json()["findings"] == []


def test_an_audit_tells_what_is_wrong_with_each() -> None:
    first, second = lines(2)
    again = receipts.issue(KEY, TERMS, receipts.Delivery("j" * 22, 0, "data:,", "1", False, METRICS), 9).line.encode()
    audit = Audit()
    for place, line in enumerate(
        [first, first, second.replace(b'"slice":1', b'"slice":2'), b"garbage", b"\xff", again]
    ):
        audit.take(str(place), line)
    audit.take("torn", second[:50], complete=False)
    assert not audit.good
    assert dict(audit.counts) == {"valid": 2, "invalid": 3, "duplicate": 1, "repeated": 1, "torn": 1}
    assert [finding.place for finding in audit.findings] == ["1", "2", "3", "4", "5", "torn"]
    assert "changed" in audit.findings[1].problem


def test_a_slice_computed_twice_is_told_but_not_held_against_anybody() -> None:
    audit = Audit()
    for moment in (1, 2):
        audit.take("x", receipts.issue(KEY, TERMS, DELIVERY, moment).line.encode())
    assert audit.good
    assert audit.counts["repeated"] == 1


def test_an_audit_of_somebody_elses() -> None:
    audit = Audit(TERMS.payment_address)
    audit.take("x", lines(1)[0])
    assert not audit.good
    assert KEY.address in audit.findings[0].problem


def test_a_line_as_long_as_a_book_is_not_parsed() -> None:
    audit = Audit()
    audit.take("x", b"[" * 100_000)
    assert "100000 bytes" in audit.findings[0].problem
