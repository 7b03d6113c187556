"""Reads from the books, every so often, what metrics show of them. One process sees what all do."""

from __future__ import annotations

import asyncio
from typing import Final

from orchestrator import telemetry
from orchestrator.bank.amounts import UNITS
from orchestrator.bank.ethereum import store
from orchestrator.bank.ethereum.flights import State
from orchestrator.bank.service import Bank
from orchestrator.database import Database, persistently

PAUSE_S: Final = 15.0


class Measuring:
    """Run `run()` while somebody may look."""

    def __init__(self, bank: Bank, database: Database) -> None:
        self._bank = bank
        self._database = database

    async def run(self) -> None:
        while True:
            await persistently(self.once)
            await asyncio.sleep(PAUSE_S)

    async def once(self) -> None:
        async with self._database.snapshot() as tx:
            holds, held, pending = await self._bank.totals(tx)
            flying = await store.counts(tx)
        telemetry.bank_holds.set(holds)
        telemetry.bank_escrow.set(held / UNITS)
        telemetry.bank_pending.set(pending)
        for state in (State.WAITING, State.SENT):
            telemetry.chain_withdrawals_in_flight.set(flying.get(state, 0), {"state": state.value})
