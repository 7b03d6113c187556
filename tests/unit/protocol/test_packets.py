"""Which packets of engine.io and socket.io a client may send."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.protocol.packets import (
    Connect,
    Disconnect,
    Event,
    MalformedPacket,
    Outer,
    engine_packet,
    socket_packet,
)


@pytest.mark.parametrize(
    ("packet", "expected"),
    [
        ("0", Connect()),
        ("0{}", Connect()),
        ('0{"token":"x"}', Connect()),
        ("0/,", Connect()),
        ("1", Disconnect()),
        ('2["message","{}"]', Event("{}")),
        ('2/,["message","{}"]', Event("{}")),
        ('27["message","with an id"]', Event("with an id")),
        # Not DCP, and no offence: the reference passes over it.
        ('2["message"]', Event(None)),
        ('2["message",1]', Event(None)),
        ('2["message","a","b"]', Event(None)),
        ('2["disconnect"]', Event(None)),
        ('2["connect",{}]', Event(None)),
    ],
)
def test_what_clients_may_send(packet, expected):
    assert socket_packet(packet) == expected


@pytest.mark.parametrize(
    "packet",
    [
        "", "2", "2{", "2[", "2[]", "2[1]", "2{}", '2["a"]x', '2"a"', "x", "7", "-1", "²", "0/other",
        "0/other,{}", "1/other",
        '2/other,["message","x"]', '3["x"]', "30[]", '4{"message":"x"}', '51-["message",{"_placeholder":true,"num":0}]',
        "61-[]", "2" + "9" * 50 + '["message","x"]', "0{" + "x" * 2000 + "}", '0[1]', "2" + "[" * 100_000,
    ],
)  # fmt: skip
def test_what_no_client_sends(packet):
    with pytest.raises(MalformedPacket) as caught:
        socket_packet(packet)
    assert len(caught.value.message) < 200


def test_packets_of_engine_io():
    assert engine_packet("3") == (Outer.PONG, "")
    assert engine_packet("1") == (Outer.CLOSE, "")
    assert engine_packet('42["message","x"]') == (Outer.MESSAGE, '2["message","x"]')
    for packet in ("", "0", "2", "5", "6", "b4AAA", "x", "\x00", b"", b"4"):
        with pytest.raises(MalformedPacket):
            engine_packet(packet)


@given(st.text(max_size=40) | st.binary(max_size=20))
def test_whatever_comes_is_a_packet_or_malformed(text):
    try:
        _, carried = engine_packet(text)
        packet = socket_packet(carried)
    except MalformedPacket:
        return
    assert isinstance(packet, Connect | Disconnect | Event)


@given(st.lists(st.none() | st.text() | st.integers(), max_size=3))
def test_only_one_string_in_an_event_message_is_dcp(arguments):
    packet = socket_packet("2" + json.dumps(["message", *arguments]))
    text = arguments[0] if len(arguments) == 1 and isinstance(arguments[0], str) else None
    assert packet == Event(text)
