"""The chain's side of the Bank, made from settings."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import pathlib
from collections.abc import Callable
from typing import Protocol

from orchestrator.bank.amounts import format_amount
from orchestrator.bank.ethereum import abi, store
from orchestrator.bank.ethereum.flights import GWEI
from orchestrator.bank.ethereum.rpc import Rpc
from orchestrator.bank.ethereum.sending import Sender
from orchestrator.bank.ethereum.watch import Watch, find_place
from orchestrator.bank.ethereum.withdrawals import Withdrawals
from orchestrator.bank.kinds import CHAIN_RESERVE
from orchestrator.bank.service import Bank
from orchestrator.database import Database, Transaction
from orchestrator.errors import InvalidInput, OrchestratorError
from orchestrator.wallet import addresses, files, passphrases
from orchestrator.wallet.keystores import Keystore

log = logging.getLogger(__name__)


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
    @property
    def chain_withdrawals(self) -> bool: ...
    @property
    def chain_min_withdrawal(self) -> int: ...
    @property
    def chain_resend_s(self) -> float: ...
    @property
    def chain_max_fee_gwei(self) -> float: ...


class Chain:
    """Run `run()` while the Bank is open. Where users may not withdraw, `withdrawals` is None; what they had asked for
    before is settled all the same."""

    def __init__(self, watch: Watch, poll_s: float, withdrawals: Withdrawals | None, sender: Sender | None) -> None:
        self.withdrawals = withdrawals
        self._watch = watch
        self._sender = sender
        self._poll_s = poll_s
        self._woken = asyncio.Event()

    def wake(self) -> None:
        """There is something new to send."""
        self._woken.set()

    async def run(self) -> None:
        """Until cancelled. A chain that is away or talks nonsense is logged and asked again."""
        while True:
            self._woken.clear()
            try:
                await self.once()
            except OrchestratorError as error:
                log.warning("the chain: %s", error.message, extra={"action": "chain"})
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._poll_s):
                    await self._woken.wait()

    async def once(self) -> None:
        """Carry over what is final, then send what is to be sent. Raises what `Rpc.call` raises."""
        while await self._watch.once():
            pass
        if self._sender is not None:
            await self._sender.once()


async def connected(
    stack: contextlib.AsyncExitStack,
    settings: ChainSettings,
    bank: Bank,
    database: Database,
    clock: Callable[[], float],
) -> Chain | None:
    """None when no chain is configured.

    Raises `InvalidInput` for settings that do not belong together or name no contract, `ChainAway`, and what unlocking
    the Bank's keystore raises, which is done where users may withdraw.
    """
    if settings.chain_url is None:
        for name in ("chain_contract", "chain_keystore", "chain_withdrawals"):
            if getattr(settings, name):
                raise InvalidInput(f"chain_url is missing: {name} says nothing without it")
        return None
    contract, own, keystore = await _addresses(settings)
    key = None
    if settings.chain_withdrawals:
        key = await asyncio.to_thread(passphrases.unlock, keystore)
    rpc = await stack.enter_async_context(Rpc(settings.chain_url))
    place = await find_place(rpc, contract, own, settings.chain_start_block)
    watch = Watch(bank, database, rpc, place, settings.chain_confirmations)
    if key is None:
        return Chain(watch, settings.chain_poll_s, None, None)
    sender = Sender(
        bank,
        database,
        rpc,
        place,
        key,
        resend_s=settings.chain_resend_s,
        most_fee=round(settings.chain_max_fee_gwei * GWEI),
        clock=clock,
    )
    withdrawals = Withdrawals(bank, place, settings.chain_min_withdrawal)
    return Chain(watch, settings.chain_poll_s, withdrawals, sender)


async def problems(settings: ChainSettings, bank: Bank, tx: Transaction) -> list[str]:
    """What an audit finds wrong with withdrawals, and with the chain reserve where a chain is configured. `tx` is a
    snapshot.

    Raises what `connected` raises, and `Refused` by an endpoint that no longer knows the state at that block.
    """
    found = [
        f"withdrawal {name} is {own or 'not known'}, but its pending transfer {other}"
        for name, own, other in await store.unmatched(tx)
    ]
    problem = await reserve_problem(settings, bank, tx)
    return found if problem is None else [*found, problem]


async def reserve_problem(settings: ChainSettings, bank: Bank, tx: Transaction) -> str | None:
    """How the chain reserve differs from what the contract says the Bank had at the last block carried over; None when
    it does not, or when no chain is configured. `tx` is a snapshot.

    A withdrawal counts as part of the reserve until its block is carried over, which is when it is posted: so the two
    are equal whatever is on its way. Raises as `problems` does.
    """
    if settings.chain_url is None:
        return None
    contract, own, _ = await _addresses(settings)
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


async def _addresses(settings: ChainSettings) -> tuple[str, str, Keystore]:
    """Of the contract and of the Bank, and the Bank's keystore."""
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
    return contract, keystore.address, keystore
