"""Follows the chain and credits what came in. Any number of processes may do so side by side."""

from __future__ import annotations

import asyncio
import dataclasses
import logging
from typing import Any

from orchestrator.bank.ethereum import abi, plan, store
from orchestrator.bank.ethereum.plan import Cursor
from orchestrator.bank.ethereum.rpc import Rpc
from orchestrator.bank.service import Bank
from orchestrator.database import Database, persistently
from orchestrator.errors import InvalidInput, OrchestratorError

log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Place:
    """Where the Bank's credits lie: `contract` and `bank` are checksummed addresses."""

    chain_id: int
    contract: str
    bank: str
    start: int
    """The first block that matters."""

    @property
    def key(self) -> str:
        return f"{self.chain_id}:{self.contract}:{self.bank}"


async def find_place(rpc: Rpc, contract: str, bank: str, start: int) -> Place:
    """Raises `InvalidInput` when there is no contract, and what `Rpc.call` raises."""
    if await rpc.call("eth_getCode", contract, "latest") in ("0x", "0x0", None):
        raise InvalidInput(f"chain_contract: there is no contract at {contract} on this chain")
    return Place(abi.number(await rpc.call("eth_chainId"), "chain id"), contract, bank, start)


class Watch:
    """`once` may be called at any time; cancelled, it has carried over a whole range or nothing of it."""

    def __init__(self, bank: Bank, database: Database, rpc: Rpc, place: Place, confirmations: int) -> None:
        self._bank = bank
        self._database = database
        self._rpc = rpc
        self._place = place
        self._confirmations = confirmations

    async def run(self, pause_s: float) -> None:
        """Until cancelled. A chain that is away or talks nonsense is logged and asked again."""
        while True:
            try:
                while await self.once():
                    pass
            except OrchestratorError as error:
                log.warning("the chain: %s", error.message, extra={"action": "chain"})
            await asyncio.sleep(pause_s)

    async def once(self) -> bool:
        """Carry the next range over; False when there is none yet. Raises what `Rpc.call` raises."""
        cursor = await persistently(self._cursor)
        head = abi.number(await self._rpc.call("eth_blockNumber"), "block number")
        if cursor.hash and cursor.number <= head and await self._hash(cursor.number) != cursor.hash:
            return await persistently(lambda: self._rewind(cursor))
        span = plan.next_range(cursor, head, self._confirmations)
        if span is None:
            return False
        first, last = span
        end = Cursor(last, await self._hash(last))
        came = await self._transfers(first, last, target=self._place.bank)
        if await self._hash(last) != end.hash:
            return True  # the chain changed while it was read
        deposits = plan.deposits(came, self._place.bank)

        async def carry() -> bool:
            async with self._database.transaction() as tx:
                if await store.locked_cursor(tx, self._place.key, self._place.start) != cursor:
                    return True  # another process was faster
                for one in deposits:
                    deposit_id = f"{self._place.key}:{one.id}"
                    await self._bank.deposit(tx, deposit_id=deposit_id, account=one.account, amount=one.amount)
                await store.set_cursor(tx, self._place.key, end)
            return True

        return await persistently(carry)

    async def _cursor(self) -> Cursor:
        async with self._database.snapshot() as tx:
            known = await store.cursor(tx, self._place.key)
        return known if known is not None else Cursor(self._place.start - 1, "")

    async def _rewind(self, cursor: Cursor) -> bool:
        log.error(
            "the chain was reorganised deeper than %d confirmations, at block %d: what was credited stays credited;"
            " run an audit, and ask for more confirmations",
            self._confirmations,
            cursor.number,
            extra={"action": "chain"},
        )
        back = plan.rewound(cursor, self._confirmations, self._place.start)
        async with self._database.transaction() as tx:
            if await store.locked_cursor(tx, self._place.key, self._place.start) == cursor:
                await store.set_cursor(tx, self._place.key, Cursor(back, ""))
        return True

    async def _hash(self, number: int) -> str:
        block = await self._rpc.call("eth_getBlockByNumber", hex(number), False)
        if not isinstance(block, dict) or not isinstance(block.get("hash"), str):
            raise abi.BadAnswer(f"the chain's endpoint does not know block {number}")
        return str(block["hash"])

    async def _transfers(self, first: int, last: int, *, target: str) -> list[abi.Transfer]:
        topics: list[Any] = [abi.TRANSFER, None, abi.topic_of(target)]
        asked = {"fromBlock": hex(first), "toBlock": hex(last), "address": self._place.contract, "topics": topics}
        logs = await self._rpc.call("eth_getLogs", asked)
        if not isinstance(logs, list):
            raise abi.BadAnswer("the chain's endpoint gave no list of logs")
        return [abi.transfer_of_log(one) for one in logs]
