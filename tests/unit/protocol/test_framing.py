from __future__ import annotations

import contextlib
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.protocol.framing import ANNOUNCEMENT, FramingError, FramingLimits, Receiver, Sender

EMOJI = "\U0001f600"


def _sender(size: int) -> Sender:
    sender = Sender()
    sender.fragment_size = size
    return sender


def _fragment(header: str, piece: str) -> str:
    return f"E{len(header):04x}C{header}{piece}"


def _units(text: str) -> int:
    return len(text.encode("utf-16-le", "surrogatepass")) // 2


@settings(max_examples=200)
@given(
    st.lists(st.text(st.characters(codec="utf-8"), max_size=60).map(lambda text: "{" + text), max_size=5),
    st.integers(1, 20),
    st.randoms(use_true_random=False),
)
def test_fragments_in_any_order_make_the_messages_again(messages: list[str], size: int, random: object) -> None:
    sender, receiver = _sender(size), Receiver()
    got: list[str] = []
    for message in messages:
        frames = sender.frames(message)
        assert len(frames) == max(1, -(-_units(message) // size))
        random.shuffle(frames)  # type: ignore[attr-defined]
        for frame in frames:
            # As socket.io sends it: JSON text, in which lone surrogates are escaped.
            got += receiver.receive(json.loads(json.dumps(frame)))
    assert got == messages
    assert receiver._characters == 0


def test_form_of_a_fragment() -> None:
    frames = _sender(10).frames("{" + "x" * 14)
    assert frames == [
        'E001dC{"msgId":2,"seq":0,"total":2}{xxxxxxxxx',
        'E001dC{"msgId":2,"seq":1,"total":2}xxxxx',
    ]


def test_a_cut_surrogate_pair_is_joined() -> None:
    message = "{" + EMOJI * 5
    frames = _sender(4).frames(message)
    assert any("\ud83d" in frame for frame in frames)
    receiver = Receiver()
    (got,) = [message for frame in frames for message in receiver.receive(frame)]
    assert got == message
    got.encode()


def test_interleaved_messages_keep_the_order_of_their_first_fragments() -> None:
    sender, receiver = _sender(3), Receiver()
    first, second = sender.frames("{aaaa"), sender.frames("{bbbb")
    assert receiver.receive(first[0]) == []
    assert receiver.receive(second[0]) == []
    assert receiver.receive(second[1]) == []
    assert receiver.receive("{whole}") == []
    assert receiver.receive(first[1]) == ["{aaaa", "{bbbb", "{whole}"]
    assert receiver.receive("{next}") == ["{next}"]


def test_the_announcement_sets_the_senders_size() -> None:
    sender, receiver = Sender(), Receiver()
    assert receiver.receive(ANNOUNCEMENT, sender) == []
    assert sender.fragment_size == 300_000
    for announced, kept in [('{"rxMaxFragmentSize":5}', 10_000), ("{}", 300_000), ("[]", 300_000)]:
        sender.fragment_size = 300_000
        receiver.receive("E0000P" + announced, sender)
        assert sender.fragment_size == kept
    assert ANNOUNCEMENT == (
        'E0000P{"canOoo":true,"canAck":true,"wantsConcat":true,"wantsAck":false,"rxMaxFragmentSize":300000,'
        '"rxMaxFragmentCount":0,"pingInterval":10100,"hasAnnounced":true}'
    )


@pytest.mark.parametrize("packet", ["A0000-ACK", "T anything", "E0000X", "E0000O", "E0002Q{}x"])
def test_ignored_packets(packet: str) -> None:
    assert Receiver().receive(packet) == []


def test_an_out_of_order_packet_is_a_message() -> None:
    assert Receiver().receive('E0000O{"a":1}') == ['{"a":1}']


@pytest.mark.parametrize(
    "packet",
    [
        "",
        "x",
        "[]",
        "E",
        "Ezzzz",
        "E0000P{",
        "E0002C{}",
        _fragment('{"msgId":15,"seq":3,"total":3}', "x"),
        _fragment('{"msgId":15,"seq":-1,"total":3}', "x"),
        _fragment('{"msgId":15,"seq":0,"total":300000000}', "x"),
        _fragment('{"msgId":15,"seq":true,"total":3}', "x"),
        _fragment('{"seq":0,"total":3}', "x"),
        _fragment("[]", "x"),
        "E0002Cé{}",
    ],
)
def test_refused_packets(packet: str) -> None:
    with pytest.raises(FramingError):
        Receiver().receive(packet, Sender())


def test_limits() -> None:
    limits = FramingLimits(message=10, partial=2, fragments=4)
    first = '{"msgId":1,"seq":0,"total":3}'

    def refuses(*packets: str) -> None:
        receiver = Receiver(limits)
        for packet in packets[:-1]:
            assert receiver.receive(packet) == []
        with pytest.raises(FramingError):
            receiver.receive(packets[-1])

    refuses("{" + "x" * 10)
    refuses(_fragment(first, "x" * 11))
    refuses(_fragment(first, "x" * 6), _fragment('{"msgId":2,"seq":0,"total":3}', "x" * 5))
    refuses(_fragment(first, "x"), "{" + "x" * 9)
    refuses(*(_fragment(f'{{"msgId":{n},"seq":0,"total":3}}', "x") for n in (1, 2, 3)))
    refuses(_fragment('{"msgId":1,"seq":0,"total":5}', "x"))
    refuses(_fragment(first, "x"), _fragment(first, "x"))
    refuses(_fragment(first, "x"), _fragment('{"msgId":1,"seq":1,"total":2}', "x"))


@settings(max_examples=300)
@given(
    st.lists(
        st.text(max_size=30) | st.text(max_size=20).map("E0000".__add__) | st.text(max_size=20).map("E000cC".__add__)
    )
)
def test_nothing_but_a_framing_error_comes_of_garbage(packets: list[str]) -> None:
    receiver, sender = Receiver(FramingLimits(message=1000)), Sender()
    for packet in packets:
        with contextlib.suppress(FramingError):
            receiver.receive(packet, sender)
