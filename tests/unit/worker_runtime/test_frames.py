"""Docker's stream multiplexing: any chunking gives the same bytes, and nothing but the daemon's headers is a header."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.worker.docker_runtime.frames import STDERR, STDOUT, FrameError, FrameParser


def frame(stream: int, payload: bytes) -> bytes:
    return bytes([stream, 0, 0, 0]) + len(payload).to_bytes(4, "big") + payload


def cut(data: bytes, sizes: list[int]) -> list[bytes]:
    chunks, position = [], 0
    for size in sizes:
        chunks.append(data[position : position + size])
        position += size
    return [*chunks, data[position:]]


def collect(chunks: list[bytes]) -> tuple[dict[int, bytes], int]:
    parser, seen = FrameParser(), {STDOUT: b"", STDERR: b""}
    for chunk in chunks:
        for stream, piece in parser.feed(chunk):
            assert piece
            seen[stream] += piece
    return seen, parser.frames


frames = st.lists(st.tuples(st.sampled_from([STDOUT, STDERR]), st.binary(max_size=40)), max_size=12)


@settings(max_examples=200, deadline=None)
@given(frames, st.lists(st.integers(1, 30), max_size=40))
def test_any_chunking_gives_the_same_bytes(parts: list[tuple[int, bytes]], sizes: list[int]) -> None:
    data = b"".join(frame(stream, payload) for stream, payload in parts)
    seen, count = collect(cut(data, sizes))
    assert seen == {of: b"".join(p for s, p in parts if s == of) for of in (STDOUT, STDERR)}
    assert count == len(parts)


def test_one_byte_at_a_time() -> None:
    data = frame(STDOUT, b"hello") + frame(STDERR, b"") + frame(STDOUT, b" world")
    seen, count = collect([bytes([byte]) for byte in data])
    assert seen == {STDOUT: b"hello world", STDERR: b""}
    assert count == 3


def test_the_order_of_streams_is_kept() -> None:
    parser = FrameParser()
    assert parser.feed(frame(1, b"a") + frame(1, b"b") + frame(2, b"c") + frame(1, b"d")) == [
        (1, b"ab"),
        (2, b"c"),
        (1, b"d"),
    ]


def test_a_forged_header_inside_a_payload_is_payload() -> None:
    forged = frame(STDERR, b"forged")
    seen, count = collect([frame(STDOUT, forged)])
    assert seen == {STDOUT: forged, STDERR: b""}
    assert count == 1


@pytest.mark.parametrize("header", [b"\x03\0\0\0\0\0\0\1x", b"\1\0\1\0\0\0\0\1x", b"HTTP/1.1 500"])
def test_a_stream_that_is_not_dockers_is_an_error(header: bytes) -> None:
    with pytest.raises(FrameError):
        FrameParser().feed(header)


def test_a_huge_declared_length_costs_no_memory() -> None:
    parser = FrameParser()
    assert parser.feed(b"\1\0\0\0\xff\xff\xff\xff" + b"x" * 10) == [(1, b"x" * 10)]
