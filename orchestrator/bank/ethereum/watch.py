"""Follows the chain, credits what came in and settles what went out. Any number of processes may do so side by side."""

from __future__ import annotations

import dataclasses
import logging
from typing import Any

from orchestrator import telemetry
from orchestrator.bank.ethereum import abi, plan, settling, store
from orchestrator.bank.ethereum.flights import Flight, Outcome, State
from orchestrator.bank.ethereum.plan import Cursor
from orchestrator.bank.ethereum.rpc import Rpc
from orchestrator.bank.service import Bank
from orchestrator.database import Database, persistently
from orchestrator.errors import InvalidInput

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

    @property
    def sender(self) -> str:
        """Whose nonces those of withdrawals are."""
        return f"{self.chain_id}:{self.bank}"


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
        self._ahead = -1

    async def once(self) -> bool:
        """Carry the next range over; False when there is none yet. Raises what `Rpc.call` raises."""
        cursor = await persistently(self._cursor)
        head = abi.number(await self._rpc.call("eth_blockNumber"), "block number")
        telemetry.chain_height.set(head)
        telemetry.chain_carried.set(cursor.number)
        if cursor.hash and cursor.number <= head and await self._hash(cursor.number) != cursor.hash:
            return await persistently(lambda: self._rewind(cursor))
        span = plan.next_range(cursor, head, self._confirmations)
        if span is None:
            await self._look_ahead(cursor.number + 1, head)
            return False
        first, last = span
        end = Cursor(last, await self._hash(last))
        came = await self._transfers(first, last, target=self._place.bank)
        went = await self._transfers(first, last, source=self._place.bank)
        # Only now, when the range is there: whatever can be in it was signed, and kept, before.
        ended = await settling.outcomes(
            self._rpc,
            await persistently(self._flying),
            contract=self._place.contract,
            bank=self._place.bank,
            last=last,
            confirmations=self._confirmations,
        )
        strangers = await self._strangers(went)
        if await self._hash(last) != end.hash:
            return True  # the chain changed while it was read
        deposits = plan.deposits(came, self._place.bank)

        async def carry() -> tuple[int, list[Outcome]]:
            """How many deposits were new, and what was settled."""
            new, settled = 0, list[Outcome]()
            async with self._database.transaction() as tx:
                if await store.locked_cursor(tx, self._place.key, self._place.start) != cursor:
                    return 0, []  # another process was faster
                for one in deposits:
                    deposit_id = f"{self._place.key}:{one.id}"
                    new += await self._bank.deposit(tx, deposit_id=deposit_id, account=one.account, amount=one.amount)
                found = [await settling.recognised(tx, self._place.key, one, nonce) for one, nonce in strangers]
                for outcome in [*ended, *(one for one in found if one is not None)]:
                    if await settling.settle(tx, self._bank, outcome):
                        settled.append(outcome)
                await store.set_cursor(tx, self._place.key, end)
            return new, settled

        new, settled = await persistently(carry)
        telemetry.chain_deposits.add(new)
        for outcome in settled:
            telemetry.chain_withdrawals.add(1, {"outcome": "done" if outcome.reason is None else "failed"})
        return True

    async def _cursor(self) -> Cursor:
        async with self._database.snapshot() as tx:
            known = await store.cursor(tx, self._place.key)
        return known if known is not None else Cursor(self._place.start - 1, "")

    async def _look_ahead(self, first: int, head: int) -> None:
        """Count the deposits that wait for confirmations; once per block."""
        if head == self._ahead:
            return
        came = await self._transfers(first, head, target=self._place.bank) if first <= head else []
        telemetry.chain_deposits_in_flight.set(len(plan.deposits(came, self._place.bank)))
        self._ahead = head

    async def _flying(self) -> list[Flight]:
        async with self._database.snapshot() as tx:
            return await store.open_flights(tx, self._place.key, State.SENT)

    async def _strangers(self, went: list[abi.Transfer]) -> list[tuple[abi.Transfer, int]]:
        """What left the Bank's address in transactions that were not signed here, and their nonces."""
        outside = [one for one in went if one.target != self._place.bank and one.amount]

        async def known() -> set[str]:
            async with self._database.snapshot() as tx:
                return await store.known_transactions(tx, {one.transaction for one in outside})

        ours = await persistently(known) if outside else set()
        found = []
        for one in outside:
            if one.transaction not in ours:
                transaction = await self._rpc.call("eth_getTransactionByHash", one.transaction)
                if not isinstance(transaction, dict):
                    raise abi.BadAnswer(f"the chain's endpoint does not know transaction {one.transaction}")
                found.append((one, abi.number(transaction.get("nonce"), "nonce")))
        return found

    async def _rewind(self, cursor: Cursor) -> bool:
        log.error(
            "the chain was reorganised deeper than %d confirmations, at block %d: what was credited stays credited,"
            " what was withdrawn is sent again; run an audit, and ask for more confirmations",
            self._confirmations,
            cursor.number,
            extra={"action": "chain"},
        )
        back = plan.rewound(cursor, self._confirmations, self._place.start)
        async with self._database.transaction() as tx:
            if await store.locked_cursor(tx, self._place.key, self._place.start) == cursor:
                await store.set_cursor(tx, self._place.key, Cursor(back, ""))
                await store.reopen(tx, self._place.key, above=back)
        return True

    async def _hash(self, number: int) -> str:
        block = await self._rpc.call("eth_getBlockByNumber", hex(number), False)
        if not isinstance(block, dict) or not isinstance(block.get("hash"), str):
            raise abi.BadAnswer(f"the chain's endpoint does not know block {number}")
        return str(block["hash"])

    async def _transfers(
        self, first: int, last: int, *, source: str | None = None, target: str | None = None
    ) -> list[abi.Transfer]:
        ends = [None if one is None else abi.topic_of(one) for one in (source, target)]
        topics: list[Any] = [abi.TRANSFER, *ends]
        asked = {"fromBlock": hex(first), "toBlock": hex(last), "address": self._place.contract, "topics": topics}
        logs = await self._rpc.call("eth_getLogs", asked)
        if not isinstance(logs, list):
            raise abi.BadAnswer("the chain's endpoint gave no list of logs")
        return [abi.transfer_of_log(one) for one in logs]
