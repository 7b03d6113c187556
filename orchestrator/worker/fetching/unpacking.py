"""Pure: undoing a server's compression, a bounded piece at a time, and noticing when the end is missing."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from typing import Final

GZIP: Final = frozenset({"gzip", "x-gzip"})
KNOWN: Final = frozenset({"", "identity", "deflate"}) | GZIP
_PIECE: Final = 256 * 1024
_EITHER: Final = 32 + zlib.MAX_WBITS  # gzip or zlib, by the header
_RAW: Final = -zlib.MAX_WBITS


class Damaged(ValueError):
    """What came is not what its encoding says, or stops in the middle."""


class Unpacker:
    """`encoding` is one of `KNOWN`. Feed what comes, take what it means; `finish` at the end."""

    def __init__(self, encoding: str) -> None:
        self._plain = encoding in ("", "identity")
        self._gzip = encoding in GZIP
        self._inflate = None if self._plain else zlib.decompressobj(_EITHER)
        self._begun = False

    def feed(self, data: bytes) -> Iterator[bytes]:
        """Pieces of at most 256 KiB, however large all of them are. Raises `Damaged`."""
        if self._inflate is None:
            yield data
            return
        while data:
            yield (piece := self._step(data))
            if self._inflate.eof:
                data = self._inflate.unused_data
                if not self._gzip or not data.startswith(b"\x1f\x8b"):
                    return  # what follows the end is padding
                self._inflate = zlib.decompressobj(_EITHER)  # gzip files may be several, one after the other
            else:
                data = self._inflate.unconsumed_tail
                if not data and len(piece) == _PIECE:
                    yield from self._rest()

    def _rest(self) -> Iterator[bytes]:
        """What zlib holds back after a full piece although it has read all input."""
        assert self._inflate is not None
        while not self._inflate.eof and (piece := self._inflate.decompress(b"", _PIECE)):
            yield piece

    def _step(self, data: bytes) -> bytes:
        assert self._inflate is not None
        first, self._begun = not self._begun, True
        try:
            return self._inflate.decompress(data, _PIECE)
        except zlib.error as error:
            if not first or self._gzip:
                raise Damaged(f"damaged compressed data: {error}") from None
        self._inflate = zlib.decompressobj(_RAW)  # many servers mean this by "deflate"
        try:
            return self._inflate.decompress(data, _PIECE)
        except zlib.error as error:
            raise Damaged(f"damaged compressed data: {error}") from None

    def finish(self) -> None:
        """Raises `Damaged` when the compressed data has not come to its end."""
        if self._inflate is not None and self._begun and not self._inflate.eof:
            raise Damaged("the compressed data stops in the middle")
