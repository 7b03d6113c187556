"""Two things about ELF files: what the loader is called, and how to leave out what is not loaded.

Symbol tables and the section table are 14 % of the Node binary and nothing reads them at run time. They lie behind the
last loaded byte, so that cutting them off needs no binutils and gives the same bytes on every machine.
"""

from __future__ import annotations

import struct

_HEADER = struct.Struct("<16sHHIQQQIHHHHHH")
_PROGRAM = struct.Struct("<IIQQQQQQ")
_PT_LOAD = 1
_PT_INTERP = 3


class NotElf(ValueError):
    """The file is not a 64-bit little-endian ELF file."""


def _programs(binary: bytes) -> list[tuple[int, int, int]]:
    """(type, file offset, file size) of every program header."""
    if binary[:6] != b"\x7fELF\x02\x01":
        raise NotElf("not a 64-bit little-endian ELF file")
    header = _HEADER.unpack_from(binary)
    offset, size, count = header[5], header[9], header[10]
    programs = []
    for index in range(count):
        kind, _flags, at, _virtual, _physical, length, _memory, _align = _PROGRAM.unpack_from(
            binary, offset + index * size
        )
        programs.append((kind, at, length))
    return programs


def interpreter(binary: bytes) -> str:
    """Absolute path of the loader."""
    for kind, at, length in _programs(binary):
        if kind == _PT_INTERP:
            return binary[at : at + length].rstrip(b"\0").decode()
    raise NotElf("the binary names no loader")


def loaded_part(binary: bytes) -> bytes:
    """The binary without section table and everything else behind the last loaded byte."""
    end = max(at + length for kind, at, length in _programs(binary) if kind == _PT_LOAD)
    header = list(_HEADER.unpack_from(binary))
    header[6] = header[12] = header[13] = 0  # section table: offset, count, index of the names
    return _HEADER.pack(*header) + binary[_HEADER.size : end]
