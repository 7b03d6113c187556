"""What we say to an ERC-20 contract and what we read of its log. Pure."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, Final

from orchestrator.errors import InvalidInput, OrchestratorError
from orchestrator.wallet import addresses

TRANSFER: Final = "0xddf252ad1be2c89b69c2b068fc378daa952ba7f163c4a11628f55a4df523b3ef"
"""keccak-256 of Transfer(address,address,uint256): the first topic of such an event"""
NOBODY: Final = "0x" + "00" * 20
_BALANCE_OF: Final = "0x70a08231"
_TRANSFER_CALL: Final = "0xa9059cbb"


class BadAnswer(OrchestratorError):
    """The endpoint answered something that is no answer to what was asked."""

    code = "ECHAINANSWER"


@dataclasses.dataclass(frozen=True, slots=True)
class Transfer:
    """An event Transfer in the contract's log. `amount` in units of 10^-18 DCC."""

    transaction: str
    log_index: int
    block: int
    source: str
    """Checksummed, as is `target`."""
    target: str
    amount: int


def topic_of(address: str) -> str:
    return "0x" + _word(address)


def balance_call(address: str) -> str:
    return _BALANCE_OF + _word(address)


def transfer_call(target: str, amount: int) -> str:
    return f"{_TRANSFER_CALL}{_word(target)}{amount:064x}"


def number(value: Any, what: str) -> int:
    """Of a quantity as JSON-RPC writes it. Raises `BadAnswer`."""
    if isinstance(value, str) and value.startswith("0x"):
        try:
            return int(value, 16)
        except ValueError:
            pass
    raise BadAnswer(f"the chain's endpoint gave no number as {what}: {value!r:.100}")


def transfer_of_log(log: Any) -> Transfer:
    """Raises `BadAnswer`."""
    try:
        if not isinstance(log, Mapping):
            raise TypeError
        _, source, target = log["topics"]
        return Transfer(
            str(log["transactionHash"]).lower(),
            number(log["logIndex"], "logIndex"),
            number(log["blockNumber"], "blockNumber"),
            addresses.checksum("0x" + source[-40:]),
            addresses.checksum("0x" + target[-40:]),
            number(log["data"], "data of a Transfer"),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise BadAnswer(f"the chain's endpoint gave a log that is no Transfer: {log!r:.200}") from error


def _word(address: str) -> str:
    return address.removeprefix("0x").lower().rjust(64, "0")


@dataclasses.dataclass(frozen=True, slots=True)
class Receipt:
    """What became of a transaction that is in a block."""

    block: int
    succeeded: bool
    transfers: tuple[Transfer, ...]
    """Of the contract."""


def receipt(answer: Any, contract: str) -> Receipt | None:
    """None for a transaction that is in no block. Raises `BadAnswer`."""
    if answer is None:
        return None
    try:
        if answer["blockNumber"] is None:
            return None
        logs = [
            one
            for one in answer["logs"]
            if addresses.checksum(one["address"].lower()) == contract and one["topics"][:1] == [TRANSFER]
        ]
        succeeded = number(answer["status"], "status") == 1
        return Receipt(
            number(answer["blockNumber"], "blockNumber"), succeeded, tuple(transfer_of_log(one) for one in logs)
        )
    except (KeyError, TypeError, AttributeError, InvalidInput) as error:
        raise BadAnswer(f"the chain's endpoint gave no receipt: {answer!r:.200}") from error
