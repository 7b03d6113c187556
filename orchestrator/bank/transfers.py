"""Transfers that arrive while one transaction runs share the next.

A transaction costs a disk flush and a dozen statements, however many transfers it holds. Under load the groups grow by
themselves and the cost of each falls; without load a transfer waits for nothing. Each is answered for itself: one that
cannot be paid is refused, the others in its transaction are not.
"""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Awaitable, Callable, Sequence

from orchestrator.bank.ledger import Wanted
from orchestrator.bank.service import Bank, Moved
from orchestrator.database import Database, Transaction, retried
from orchestrator.errors import OrchestratorError

MOST = 200
"""in one transaction"""


@dataclasses.dataclass(slots=True, eq=False)
class _Waiting:
    wanted: Wanted
    outcome: Moved | OrchestratorError | None = None


class Transfers:
    """`before` is called in each transaction with the accounts that pay in it."""

    def __init__(
        self, bank: Bank, database: Database, before: Callable[[Transaction, Sequence[str]], Awaitable[None]]
    ) -> None:
        self._bank = bank
        self._database = database
        self._before = before
        self._turn = asyncio.Lock()
        self._waiting: list[_Waiting] = []

    async def move(self, wanted: Wanted) -> Moved:
        """Returns when the transfer is committed. The same id again: what was moved then.

        Raises `NotEnoughFunds`, `IdReused`, `InvalidInput`, and `DatabaseAway`, after which nothing is known. When
        cancelled, it may have happened.
        """
        mine = _Waiting(wanted)
        self._waiting.append(mine)
        try:
            async with self._turn:
                # Whoever has the turn carries out what all others want, too; they find it done.
                if mine.outcome is None:
                    await self._settle([mine, *(one for one in self._waiting if one is not mine)][:MOST])
        finally:
            self._waiting.remove(mine)
        outcome = mine.outcome
        assert outcome is not None
        if isinstance(outcome, OrchestratorError):
            raise outcome
        return outcome

    async def _settle(self, waiting: Sequence[_Waiting]) -> None:
        group = [one for one in waiting if one.outcome is None]

        async def once() -> Sequence[Moved | OrchestratorError]:
            async with self._database.transaction() as tx:
                await self._before(tx, sorted({one.wanted.source for one in group}))
                return await self._bank.transfers(tx, [one.wanted for one in group])

        for one, outcome in zip(group, await retried(once), strict=True):
            one.outcome = outcome
