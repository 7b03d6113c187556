"""Compressed answers, in whatever pieces they come."""

from __future__ import annotations

import gzip
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.worker.fetching.unpacking import Damaged, Unpacker


def raw_deflate(data: bytes) -> bytes:
    packer = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    return packer.compress(data) + packer.flush()


PACKERS = {
    "": bytes,
    "identity": bytes,
    "gzip": gzip.compress,
    "x-gzip": lambda data: gzip.compress(data[:100]) + gzip.compress(data[100:]),
    "deflate": zlib.compress,
}


def unpacked(encoding: str, data: bytes, step: int) -> bytes:
    unpacker = Unpacker(encoding)
    pieces = [piece for at in range(0, len(data), step) for piece in unpacker.feed(data[at : at + step])]
    unpacker.finish()
    assert all(len(piece) <= 256 * 1024 for piece in pieces) or encoding in ("", "identity")
    return b"".join(pieces)


@given(st.sampled_from(sorted(PACKERS)), st.binary(max_size=3000), st.integers(1, 100), st.integers(10, 2000))
def test_every_encoding_in_pieces_of_any_size(encoding, data, times, step):
    data *= times
    assert unpacked(encoding, PACKERS[encoding](data), step) == data


@pytest.mark.parametrize("size", [0, 10, 262_143, 262_144, 262_145, 3_000_000])
def test_what_servers_call_deflate(size):
    assert unpacked("deflate", raw_deflate(b"a" * size), 1_000_000) == b"a" * size


@pytest.mark.parametrize("encoding", ["gzip", "deflate"])
def test_what_stops_in_the_middle_or_is_something_else(encoding):
    data = PACKERS[encoding](bytes(range(256)) * 10)
    for bad in (data[:-1], data[:20], b"\xff\xff plain text", data[:50] + b"\xff" * 20 + data[70:]):
        with pytest.raises(Damaged):
            unpacked(encoding, bad, 7)


def test_padding_after_the_end_does_not_matter():
    assert unpacked("gzip", gzip.compress(b"x") + b"\0" * 100, 1000) == b"x"
