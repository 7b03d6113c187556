"""Ids, masks, and the proofs of compute groups."""

from __future__ import annotations

from typing import Any

import pytest

from orchestrator.errors import InvalidInput
from orchestrator.jobs import words


def test_job_ids() -> None:
    assert words.parse_job_id("WHhetL7mj1w1mw1XV6dxyC") == "WHhetL7mj1w1mw1XV6dxyC"
    for bad in ("", "WHhetL7mj1w1mw1XV6dxy", "WHhetL7mj1w1mw1XV6dx-C", 5, None, "WHhetL7mj1w1mw1XV6dxyC\n"):
        with pytest.raises(InvalidInput, match=r"slice\.job"):
            words.parse_job_id(bad, "slice.job")


def test_run_states_are_the_words_of_the_protocol() -> None:
    assert [str(status) for status in words.RunStatus] == [
        "new", "estimation", "running", "paused", "finished", "cancelled", "corrupted",
    ]  # fmt: skip


def test_capabilities() -> None:
    assert words.Capability.parse(80, "capabilities") == words.Capability.FDLIBM | words.Capability.KVIN_V9
    assert int(words.Capability.parse(1 << 20, "capabilities")) == 1 << 20
    for bad in (-1, 1.5, "80", None, True, 2**40):
        with pytest.raises(InvalidInput, match="capabilities"):
            words.Capability.parse(bad, "capabilities")


def test_hashes_are_those_of_the_client() -> None:
    # the hash of an Ethereum signed message, as every Ethereum library gives it
    assert words.eh1("hello") == "eh1-50b2c43fd39106bafbba0da34fc430e1f91e3c96ea2acee2bc34119f92b37750"
    assert words.eh1("é") != words.eh1("e")
    assert words.join_hash("scott", "tiger") == words.eh1("scott tiger")
    assert words.eh1("public undefined") == words.PUBLIC_JOIN_HASH
    assert words.join_hash_hash("sid", "eh1-00") == words.eh1("sideh1-00")


def test_a_group_is_proved_for_one_connection_only() -> None:
    secret = words.join_hash("scott", "tiger")
    group = words.parse_group({"joinKey": "scott", "joinHashHash": words.join_hash_hash("sid-1", secret)}, "cgArray[0]")
    assert group.proves(secret, "sid-1")
    assert not group.proves(secret, "sid-2")
    assert not group.proves(words.join_hash("scott", "lion"), "sid-1")
    assert not words.GroupDescriptor(join_key="scott").proves(secret, "sid-1")


def test_the_public_group_goes_by_any_of_its_names() -> None:
    assert words.parse_group(words.PUBLIC_GROUP, "cgArray[0]").is_public
    assert words.parse_group({"id": 1}, "g").is_public
    assert words.parse_group({"opaqueId": "WHhetL7mj1w1mw1XV6dxyC"}, "g").is_public
    assert words.parse_group({"joinKey": "public"}, "g").is_public
    assert not words.parse_group({"joinKey": "private", "id": 2}, "g").is_public


@pytest.mark.parametrize("descriptor", [None, [], {}, {"joinKey": 5}, {"id": "1"}, {"id": True}, {"joinHashHash": "x"}])
def test_bad_group_descriptors(descriptor: Any) -> None:
    with pytest.raises(InvalidInput, match=r"cgArray\[3\]"):
        words.parse_group(descriptor, "cgArray[3]")
