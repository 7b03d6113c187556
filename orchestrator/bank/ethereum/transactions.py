"""Transactions of Ethereum: their bytes, signed. Pure.

RLP is written out here, a dozen lines: eth-account, which could sign too, takes half a second to import and raises
the recursion limit of whoever does.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TypeAlias

from orchestrator.wallet.keys import PrivateKey, keccak256

_Item: TypeAlias = "int | bytes | Sequence[_Item]"

_DYNAMIC_FEE = b"\x02"
"""The type of a transaction with a tip (EIP-1559)."""


@dataclasses.dataclass(frozen=True, slots=True)
class Fees:
    """What is paid per gas, in wei."""

    most: int
    """All in all: never more."""
    tip: int | None
    """Of that, what goes to who makes the block; None on a chain that has no base fee."""


@dataclasses.dataclass(frozen=True, slots=True)
class Call:
    """A transaction that calls a contract and brings it nothing."""

    chain_id: int
    nonce: int
    contract: str
    data: str
    """0x and hex digits."""
    gas: int
    fees: Fees


def signed(call: Call, key: PrivateKey) -> bytes:
    """As it is sent. The same call and key give the same bytes."""
    to, data = bytes.fromhex(call.contract[2:]), bytes.fromhex(call.data[2:])
    fees = call.fees
    if fees.tip is None:
        fields: list[_Item] = [call.nonce, fees.most, call.gas, to, 0, data]
        signature = key.sign_digest(keccak256(rlp([*fields, call.chain_id, 0, 0])))
        v = signature.v - 27 + 35 + 2 * call.chain_id  # EIP-155: for this chain and no other
        return rlp([*fields, v, int.from_bytes(signature.r), int.from_bytes(signature.s)])
    fields = [call.chain_id, call.nonce, fees.tip, fees.most, call.gas, to, 0, data, []]
    signature = key.sign_digest(keccak256(_DYNAMIC_FEE + rlp(fields)))
    ends = [signature.v - 27, int.from_bytes(signature.r), int.from_bytes(signature.s)]
    return _DYNAMIC_FEE + rlp([*fields, *ends])


def hash_of(raw: bytes) -> str:
    """What a signed transaction is called."""
    return "0x" + keccak256(raw).hex()


def rlp(item: _Item) -> bytes:
    if isinstance(item, int):
        item = item.to_bytes((item.bit_length() + 7) // 8)
    if isinstance(item, bytes):
        return item if len(item) == 1 and item[0] < 0x80 else _length(len(item), 0x80) + item
    content = b"".join(rlp(one) for one in item)
    return _length(len(content), 0xC0) + content


def _length(length: int, offset: int) -> bytes:
    if length < 56:
        return bytes([offset + length])
    digits = length.to_bytes((length.bit_length() + 7) // 8)
    return bytes([offset + 55 + len(digits)]) + digits
