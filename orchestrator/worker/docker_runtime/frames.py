"""Pure: Docker's stream multiplexing (attach without a terminal): 8 bytes of header, then a payload.

Header: stream (0 stdin, 1 stdout, 2 stderr), three zero bytes, payload length as a big-endian 32-bit number. The daemon
writes the headers, not the guest: bytes that look like one inside a payload are payload.
"""

from __future__ import annotations

from typing import Final

STDOUT: Final = 1
STDERR: Final = 2
_HEADER: Final = 8


class FrameError(ValueError):
    """The stream is not Docker's: the connection is of no more use."""


class FrameParser:
    """Chunks in, (stream, bytes) out, however the chunks were cut. Payloads are passed on at once, never collected."""

    def __init__(self) -> None:
        self._header = b""
        self._stream = STDOUT
        self._left = 0
        self.frames = 0
        """Frames begun so far."""

    def feed(self, data: bytes) -> list[tuple[int, bytes]]:
        """The payload pieces in `data`, neighbours of one stream joined. Raises FrameError."""
        pieces: list[tuple[int, bytes]] = []
        position, end = 0, len(data)
        while position < end:
            if self._left == 0:
                position = self._begin(data, position)
                continue
            piece = data[position : position + self._left]
            position += len(piece)
            self._left -= len(piece)
            pieces.append((self._stream, piece))
        return pieces if len(pieces) < 2 else _joined(pieces)

    def _begin(self, data: bytes, position: int) -> int:
        """Read (the rest of) a header at `position`; where it ends."""
        needed = _HEADER - len(self._header)
        header = self._header + data[position : position + needed]
        if len(header) < _HEADER:
            self._header = header
            return position + needed
        if header[0] > STDERR or header[1:4] != b"\0\0\0":
            raise FrameError(f"not a frame header: {header.hex()}")
        self._header = b""
        self._stream = header[0]
        self._left = int.from_bytes(header[4:], "big")
        self.frames += 1
        return position + needed


def _joined(pieces: list[tuple[int, bytes]]) -> list[tuple[int, bytes]]:
    out: list[tuple[int, bytes]] = []
    run: list[bytes] = []
    stream = pieces[0][0]
    for of, piece in pieces:
        if of != stream:
            out.append((stream, b"".join(run)))
            stream, run = of, []
        run.append(piece)
    out.append((stream, b"".join(run)))
    return out
