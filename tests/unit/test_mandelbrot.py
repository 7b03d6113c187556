"""The demo's picture: tiles land where they belong, and the file is a PNG that an independent decoder reads."""

from __future__ import annotations

import pathlib
import struct
import zlib

import pytest

from orchestrator import mandelbrot

PLAN = mandelbrot.Plan(width=8, height=4, side=2, iterations=10)


def test_tiles_fill_the_picture() -> None:
    picture = mandelbrot.Picture(PLAN)
    for tile in range(PLAN.tiles):
        picture.fill(tile, bytes([tile]) * 4)
    assert (PLAN.tiles, picture.filled) == (8, 8)
    top = next(picture.sample(8, 4))
    assert top == [mandelbrot._PALETTE[shade] for shade in (0, 0, 1, 1, 2, 2, 3, 3)]


def test_a_tile_of_the_wrong_size_is_refused() -> None:
    with pytest.raises(ValueError, match="tile 3 has 5 pixels instead of 4"):
        mandelbrot.Picture(PLAN).fill(3, b"12345")


def test_the_file_is_a_png(tmp_path: pathlib.Path) -> None:
    picture = mandelbrot.Picture(PLAN)
    picture.fill(5, bytes([9, 8, 7, 6]))
    path = tmp_path / "picture.png"
    picture.write_png(path)
    width, height, pixels = decode_png(path.read_bytes())
    assert (width, height) == (8, 4)
    assert pixels[2][2:4] == bytes([9, 8])
    assert pixels[3][2:4] == bytes([7, 6])
    assert [entry.name for entry in tmp_path.iterdir()] == ["picture.png"]


def decode_png(data: bytes) -> tuple[int, int, list[bytes]]:
    """Width, height and rows of palette indexes, with every chunk's checksum verified."""
    assert data.startswith(b"\x89PNG\r\n\x1a\n")
    chunks: dict[bytes, bytes] = {}
    at = 8
    while at < len(data):
        (length,) = struct.unpack_from(">I", data, at)
        kind, body = data[at + 4 : at + 8], data[at + 8 : at + 8 + length]
        assert struct.unpack_from(">I", data, at + 8 + length)[0] == zlib.crc32(kind + body)
        chunks[kind] = body
        at += 12 + length
    width, height, depth, colour_type = struct.unpack(">IIBB", chunks[b"IHDR"][:10])
    assert (depth, colour_type, len(chunks[b"PLTE"])) == (8, 3, 768)
    raw = zlib.decompress(chunks[b"IDAT"])
    rows = [raw[y * (width + 1) : (y + 1) * (width + 1)] for y in range(height)]
    assert all(row[0] == 0 for row in rows)
    return width, height, [row[1:] for row in rows]
