"""The demo job of a local computer: the Mandelbrot set in tiles, one slice each."""

from __future__ import annotations

import dataclasses
import pathlib
import struct
import zlib
from collections.abc import Iterator

WORK_FUNCTION = """(tile, width, height, side, iterations) => {
  const columns = width / side;
  const left = (tile % columns) * side;
  const top = Math.floor(tile / columns) * side;
  const scale = 3.0 / width;
  const shades = new Uint8Array(side * side);
  for (let y = 0; y < side; y++) {
    progress(y / side);
    for (let x = 0; x < side; x++) {
      const cr = (left + x) * scale - 2.2;
      const ci = (top + y - height / 2) * scale;
      let zr = 0, zi = 0, n = 0;
      while (zr * zr + zi * zi <= 16 && n < iterations) {
        const t = zr * zr - zi * zi + cr;
        zi = 2 * zr * zi + ci;
        zr = t;
        n++;
      }
      shades[y * side + x] = n >= iterations ? 0
        : 1 + Math.floor(254 * ((Math.sqrt(n + 1 - Math.log2(Math.log2(zr * zr + zi * zi) / 2)) / 8) % 1));
    }
  }
  progress(1);
  return shades;
}"""


@dataclasses.dataclass(frozen=True)
class Plan:
    """Size of the picture and of its square tiles, in pixels. The side divides width and height."""

    width: int = 960
    height: int = 640
    side: int = 40
    iterations: int = 12_000

    @property
    def columns(self) -> int:
        return self.width // self.side

    @property
    def tiles(self) -> int:
        return self.columns * (self.height // self.side)

    @property
    def arguments(self) -> tuple[int, ...]:
        return (self.width, self.height, self.side, self.iterations)


class Picture:
    """A picture that fills tile by tile. Pixels are indexes into a palette of 256 colours; 0 is black."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.filled = 0
        self._rows = [bytearray(plan.width) for _ in range(plan.height)]

    def fill(self, tile: int, shades: bytes) -> None:
        """Put the `side * side` pixels of one tile in place. Raises `ValueError` when there are more or fewer."""
        side = self.plan.side
        if len(shades) != side * side:
            raise ValueError(f"tile {tile} has {len(shades)} pixels instead of {side * side}")
        left = tile % self.plan.columns * side
        top = tile // self.plan.columns * side
        for y in range(side):
            self._rows[top + y][left : left + side] = shades[y * side : (y + 1) * side]
        self.filled += 1

    def sample(self, columns: int, rows: int) -> Iterator[list[tuple[int, int, int]]]:
        """`rows` rows of `columns` colours: the picture as a terminal can show it."""
        for row in range(rows):
            line = self._rows[row * self.plan.height // rows]
            yield [_PALETTE[line[column * self.plan.width // columns]] for column in range(columns)]

    def write_png(self, path: pathlib.Path) -> None:
        """Write the picture as it is now; a reader sees the old file or the new one, never half of one."""
        header = struct.pack(">IIBBBBB", self.plan.width, self.plan.height, 8, 3, 0, 0, 0)
        pixels = zlib.compress(b"".join(b"\0" + bytes(row) for row in self._rows), 6)
        palette = b"".join(bytes(colour) for colour in _PALETTE)
        parts = [(b"IHDR", header), (b"PLTE", palette), (b"IDAT", pixels), (b"IEND", b"")]
        unfinished = path.with_suffix(".part")
        unfinished.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(_chunk(kind, data) for kind, data in parts))
        unfinished.replace(path)


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def _colour(shade: int) -> tuple[int, int, int]:
    """From night blue over white to amber and back, so that neighbouring shades differ little."""
    stops = [(0, 7, 100), (32, 107, 203), (237, 255, 255), (255, 170, 0), (60, 2, 20), (0, 7, 100)]
    position = (shade - 1) / 255 * (len(stops) - 1)
    index = min(int(position), len(stops) - 2)
    part = position - index
    low, high = stops[index], stops[index + 1]
    return tuple(round(a + (b - a) * part) for a, b in zip(low, high, strict=True))  # type: ignore[return-value]


_PALETTE: list[tuple[int, int, int]] = [(0, 0, 0), *(_colour(shade) for shade in range(1, 256))]
