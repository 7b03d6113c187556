"""Ethereum addresses as DCP writes them: `0x` and 40 hex digits whose case carries the EIP-55 checksum.

Everywhere inside the system an address is a `str` in the checksummed form; text from outside goes through
`checksum` once, at the border.
"""

from __future__ import annotations

import functools
import re

from Crypto.Hash import keccak

from orchestrator.errors import InvalidInput

_FORM = re.compile(r"(?:0x)?([0-9a-fA-F]{40})")
_CACHED = 8192


def keccak256(data: bytes) -> bytes:
    """The 32 byte hash that Ethereum calls keccak-256 (not NIST SHA3-256)."""
    # pycryptodome directly: the wrapper of eth-hash costs four times as much for a short text.
    return keccak.new(data=data, digest_bits=256).digest()


def checksum(text: object) -> str:
    """The checksummed form of an address written by somebody else.

    Accepted, as by dcp-client 5.6.1: all lower case, all upper case, or mixed case with the right checksum; with
    `0x` (lower case x) or without.

    Raises `InvalidInput` for anything else; the message names the value and what is wrong with it.
    """
    if not isinstance(text, str):
        raise InvalidInput(f"an address must be a string such as 0x + 40 hex digits, not {type(text).__name__}")
    return _checksum(text)


def is_address(text: object) -> bool:
    """Whether `checksum` accepts the value."""
    try:
        checksum(text)
    except InvalidInput:
        return False
    return True


def from_public_key(public_key: bytes) -> str:
    """The address of an uncompressed public key (65 bytes with the leading 4)."""
    return _with_case(keccak256(public_key[1:])[12:].hex())


@functools.lru_cache(maxsize=_CACHED)
def _checksum(text: str) -> str:
    match = _FORM.fullmatch(text)
    if match is None:
        raise InvalidInput(f"{_shown(text)} is not an address: expected 0x and 40 hex digits")
    digits = match[1]
    address = _with_case(digits.lower())
    if digits not in (address[2:], digits.lower(), digits.upper()):
        raise InvalidInput(
            f"Bad checksum for address {text}: a digit is wrong, or its case; write it as it was given out"
        )
    return address


def _with_case(lower: str) -> str:
    digest = keccak256(lower.encode()).hex()
    return "0x" + "".join(c.upper() if d >= "8" else c for c, d in zip(lower, digest, strict=False))


def _shown(text: str) -> str:
    return repr(text if len(text) <= 64 else text[:61] + "...")
