"""The chain's side of the Bank, made from settings."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import pathlib
from typing import Protocol

from orchestrator.bank.amounts import format_amount
from orchestrator.bank.ethereum import abi, store
from orchestrator.bank.ethereum.rpc import Rpc
from orchestrator.bank.ethereum.watch import Watch, find_place
from orchestrator.bank.kinds import CHAIN_RESERVE
from orchestrator.bank.service import Bank
from orchestrator.database import Database, Transaction
from orchestrator.errors import InvalidInput
from orchestrator.wallet import addresses, files


class ChainSettings(Protocol):
    """The chain's part of the settings."""

    @property
    def chain_url(self) -> str | None: ...
    @property
    def chain_contract(self) -> str | None: ...
    @property
    def chain_keystore(self) -> pathlib.Path | None: ...
    @property
    def chain_confirmations(self) -> int: ...
    @property
    def chain_start_block(self) -> int: ...
    @property
    def chain_poll_s(self) -> float: ...


@dataclasses.dataclass(frozen=True)
class Chain:
    """Run `run()` while the Bank is open."""

    watch: Watch
    poll_s: float

    async def run(self) -> None:
        await self.watch.run(self.poll_s)


async def connected(
    stack: contextlib.AsyncExitStack, settings: ChainSettings, bank: Bank, database: Database
) -> Chain | None:
    """None when no chain is configured.

    Raises `InvalidInput` for settings that do not belong together or name no contract, and `ChainAway`.
    """
    if settings.chain_url is None:
        if settings.chain_contract is not None or settings.chain_keystore is not None:
            raise InvalidInput("chain_url is missing: chain_contract and chain_keystore say nothing without it")
        return None
    contract, own = await _addresses(settings)
    rpc = await stack.enter_async_context(Rpc(settings.chain_url))
    place = await find_place(rpc, contract, own, settings.chain_start_block)
    return Chain(Watch(bank, database, rpc, place, settings.chain_confirmations), settings.chain_poll_s)


async def reserve_problem(settings: ChainSettings, bank: Bank, tx: Transaction) -> str | None:
    """How the chain reserve differs from what the contract says the Bank had at the last block carried over; None when
    it does not, or when no chain is configured. `tx` is a snapshot.

    Raises what `connected` raises, and `Refused` by an endpoint that no longer knows the state at that block.
    """
    if settings.chain_url is None:
        return None
    contract, own = await _addresses(settings)
    async with Rpc(settings.chain_url) as rpc:
        place = await find_place(rpc, contract, own, settings.chain_start_block)
        reserve = -await bank.balance(tx, CHAIN_RESERVE)
        cursor = await store.cursor(tx, place.key)
        if cursor is None:
            return None if reserve == 0 else f"the chain reserve is {format_amount(reserve)} DCC, of another contract"
        call = {"to": contract, "data": abi.balance_call(own)}
        held = abi.number(await rpc.call("eth_call", call, hex(max(cursor.number, 0))), "balance")
    if held == reserve:
        return None
    return (
        f"the chain reserve is {format_amount(reserve)} DCC, but at block {cursor.number} the contract had"
        f" {format_amount(held)} DCC for the Bank"
    )


async def _addresses(settings: ChainSettings) -> tuple[str, str]:
    """Of the contract and of the Bank."""
    if settings.chain_contract is None or settings.chain_keystore is None:
        missing = "chain_contract" if settings.chain_contract is None else "chain_keystore"
        raise InvalidInput(f"{missing} is missing: with chain_url, the contract and the Bank's keystore must be given")
    try:
        contract = addresses.checksum(settings.chain_contract)
    except InvalidInput as error:
        raise InvalidInput(f"chain_contract: {error.message}") from error
    keystore = await asyncio.to_thread(files.load, settings.chain_keystore)
    if keystore.address is None:
        raise InvalidInput(f"chain_keystore: {settings.chain_keystore} does not say its address")
    return contract, keystore.address
