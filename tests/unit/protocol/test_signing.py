from __future__ import annotations

import json
import pathlib
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.errors import InvalidInput
from orchestrator.protocol import js_json, signing
from orchestrator.protocol.authorization import authorized_resources
from orchestrator.wallet.keys import PrivateKey

VECTORS = json.loads((pathlib.Path(__file__).parent / "vectors" / "signature-vectors.json").read_text())
KEY = PrivateKey.from_hex("11" * 32)
OTHER = PrivateKey.from_hex("22" * 32)


# Made by dcp-client 5.6.1. One of them is a bare string, whose signature the reference itself cannot check.
@pytest.mark.parametrize("vector", [v for v in VECTORS if v["verifies"]], ids=lambda v: v["json"])
def test_signatures_equal_those_of_the_reference(vector: dict[str, Any]) -> None:
    key = PrivateKey.from_hex(vector["privateKey"])
    assert signing.seal(key, vector["json"]) == vector["sealed"]
    if vector["json"].startswith("{"):
        envelope = signing.open_envelope(vector["sealed"])
        assert envelope.owner == key.address
        assert js_json.dumps(envelope.body) == vector["json"]


BODY = {"type": "ack", "token": "ä\ud800", "2": 1.5, "1": [1e21]}
SEALED = signing.seal(KEY, js_json.dumps(BODY))


def _with(change: dict[str, Any]) -> str:
    return json.dumps(json.loads(SEALED) | change)


def test_other_notations_of_the_same_message() -> None:
    envelope = json.loads(SEALED)
    signature = envelope["signature"]
    plain = {"r": signature["r"]["data"], "s": signature["s"]["data"], "v": signature["v"] - 27}
    for variant in (
        json.dumps(envelope, indent=1),
        json.dumps(dict(reversed(envelope.items()))),
        _with({"signature": plain}),
        _with({"signature": json.dumps(plain)}),
        _with({"owner": KEY.address.lower()}),
    ):
        assert signing.open_envelope(variant) == signing.Envelope(KEY.address, js_json.loads(js_json.dumps(BODY)))


@pytest.mark.parametrize(
    "frame",
    [
        "",
        "{",
        "[]",
        '"x"',
        "{}",
        SEALED[:-1],
        SEALED + " x",
        SEALED.replace(KEY.address, OTHER.address),
        SEALED.replace("ack", "kca"),
        _with({"body": None}),
        _with({"body": "text"}),
        _with({"owner": 5}),
        _with({"owner": "0x00"}),
        _with({"signature": None}),
        _with({"signature": "0x00"}),
        _with({"signature": {"r": [0] * 32, "s": [0] * 32, "v": 27}}),
        _with({"signature": {"r": [255] * 32, "s": [255] * 32, "v": 27}}),
        _with({"signature": {"r": [1] * 31, "s": [1] * 32, "v": 27}}),
        _with({"signature": {"r": [1] * 32, "s": [1] * 32, "v": 99}}),
        _with({"signature": {"r": [True] * 32, "s": [1] * 32, "v": 27}}),
        _with({"signature": {"r": [256] * 32, "s": [1] * 32, "v": 27}}),
        SEALED.replace('"v":2', '"v":9'),
        SEALED.replace('"body":{', '"body":{"x":1,'),
        SEALED.replace("\\ud800", "\ud800"),
    ],
)
def test_what_cannot_be_opened(frame: str) -> None:
    with pytest.raises(signing.MalformedMessage):
        signing.open_envelope(frame)


def test_a_second_body_cannot_hide_behind_a_signed_one() -> None:
    head, _, body = SEALED.partition('"body":')
    with pytest.raises(signing.MalformedMessage):
        signing.open_envelope(f'{head}"body":{body[:-1]},"body":{{"type":"evil"}}}}')


@settings(max_examples=200)
@given(st.text(max_size=40), st.integers(0, len(SEALED)), st.integers(0, 40))
def test_garbage_is_refused_and_nothing_else_happens(text: str, position: int, cut: int) -> None:
    damaged = SEALED[:position] + text + SEALED[position + cut :]
    for frame in (text, damaged):
        try:
            envelope = signing.open_envelope(frame)
        except signing.MalformedMessage:
            continue
        assert envelope.owner == KEY.address
        assert envelope.body == js_json.loads(js_json.dumps(BODY))


def _payload(*entries: dict[str, Any], data: Any = None) -> dict[str, Any]:
    return {"operation": "submit", "data": data or {"10": 1.0, "2": "é\ud800"}, "allow": list(entries)}


def _entry(resource: str, guardian: str = KEY.address, accessor: str = OTHER.address) -> dict[str, Any]:
    return {"resource": resource, "guardian": guardian, "accessor": accessor}


ACCOUNT = PrivateKey.from_hex("33" * 32)


def _auth(payload: dict[str, Any], key: PrivateKey = ACCOUNT) -> dict[str, Any]:
    return {key.address: json.loads(signing.signature_text(key, js_json.dumps(payload)))}


def _proven(payload: dict[str, Any], auth: Any) -> frozenset[str]:
    return authorized_resources(payload, auth, guardian=KEY.address, accessor=OTHER.address)


def test_a_permission_is_proven_by_the_resources_signature() -> None:
    payload = _payload(_entry(ACCOUNT.address))
    assert _proven(payload, _auth(payload)) == {ACCOUNT.address}
    lower = {key.lower(): signature for key, signature in _auth(payload).items()}
    assert _proven(payload, lower) == {ACCOUNT.address}


@pytest.mark.parametrize(
    ("payload", "auth"),
    [
        (_payload(_entry(ACCOUNT.address)), {}),
        (_payload(_entry(ACCOUNT.address)), None),
        (_payload(), _auth(_payload())),
        (_payload(_entry(ACCOUNT.address)), _auth(_payload(_entry(ACCOUNT.address), data={"other": 1}))),
        (_payload(_entry(ACCOUNT.address, guardian=OTHER.address)), None),
        (_payload(_entry(ACCOUNT.address, accessor=KEY.address)), None),
        (_payload({"resource": ACCOUNT.address}), None),
        (_payload("text"), None),  # type: ignore[arg-type]
        (_payload(_entry("peerAddress")), None),
        (_payload(_entry(ACCOUNT.address, "peerAddress", "identity.address")), None),
        ({"operation": "x", "allow": "text"}, None),
    ],
)
def test_what_proves_nothing(payload: dict[str, Any], auth: Any) -> None:
    assert _proven(payload, auth) == frozenset()
    assert _proven(payload, auth or _auth({**payload, "more": 1})) == frozenset()


def test_a_signature_by_another_key_proves_nothing() -> None:
    payload = _payload(_entry(ACCOUNT.address))
    forged = {ACCOUNT.address: next(iter(_auth(payload, OTHER).values()))}
    assert _proven(payload, forged) == frozenset()


def test_a_batched_request_proves_the_senders_own_resource_only() -> None:
    batched = [_entry(key.address, "peerAddress", "identity.address") for key in (ACCOUNT, OTHER)]
    assert _proven(_payload(*batched), {}) == {OTHER.address}


def test_recovering_reports_what_is_malformed() -> None:
    for signature in (None, "x", {}, {"r": [1] * 32, "s": [1] * 32, "v": "27"}):
        with pytest.raises(InvalidInput):
            signing.recover_signer(signature, "{}")
