"""Makes pending transfers void whose time is over. Any number of processes may do so side by side."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from orchestrator import telemetry
from orchestrator.bank.service import Bank
from orchestrator.database import Database, persistently

LONGEST_PAUSE_S = 30.0
"""other processes make transfers too, of which nobody tells us"""
SHORTEST_PAUSE_S = 0.1
GROUP = 100


class Sweep:
    """Run `run()` while the Bank is open. It need not be in time: what has expired cannot be posted anyway."""

    def __init__(self, bank: Bank, database: Database, clock: Callable[[], float]) -> None:
        self._bank = bank
        self._database = database
        self._clock = clock

    async def run(self) -> None:
        while True:
            while await persistently(self.once):
                pass
            await asyncio.sleep(await persistently(self._pause))

    async def once(self) -> int:
        """How many became void."""
        async with self._database.transaction() as tx:
            expired = await self._bank.expire(tx, GROUP)
        telemetry.bank_transfers.add(expired, {"outcome": "void"})
        return expired

    async def _pause(self) -> float:
        async with self._database.snapshot() as tx:
            expiry = await self._bank.next_expiry(tx)
        if expiry is None:
            return LONGEST_PAUSE_S
        return min(max(expiry - self._clock(), SHORTEST_PAUSE_S), LONGEST_PAUSE_S)
