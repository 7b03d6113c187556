"""Whose packet is handled next, when more come than one process can handle.

Coroutines wait for their turn, addresses and identities sharing evenly (`fair_queue`): so few turns are given in one
round of the event loop that the network is looked at often.
"""

from __future__ import annotations

import asyncio

from orchestrator.fair_queue import FairQueue

__all__ = ["Turns"]

UNITS_PER_ROUND = 8.0


class Turns:
    """Coroutines that wait for their turn. While there is little to do nobody waits."""

    def __init__(self, units_per_round: float = UNITS_PER_ROUND) -> None:
        self._units = units_per_round
        self._left = units_per_round
        self._queue: FairQueue[asyncio.Future[None]] = FairQueue()
        self._is_due = False
        self.waited = 0
        """turns that did not come at once"""

    def __len__(self) -> int:
        return len(self._queue)

    async def take(self, place: str, who: str = "", cost: float = 1.0) -> None:
        """Wait until it is the turn of `who` at `place` (nobody: those without a name). Cancellation gives the turn
        away."""
        loop = asyncio.get_running_loop()
        if not self._is_due:
            self._is_due = True
            loop.call_soon(self._round)
        if not len(self._queue) and self._left > 0:
            self._left -= cost
            return
        self.waited += 1
        turn: asyncio.Future[None] = loop.create_future()
        self._queue.push(place, who, cost, turn)
        await turn

    def charge(self, place: str, who: str, cost: float) -> None:
        """What was done in the last turn was more than was known before."""
        self._queue.charge(place, who, cost)

    def _round(self) -> None:
        self._left = self._units
        while len(self._queue) and self._left > 0:
            cost, turn = self._queue.pop()
            if not turn.done():
                self._left -= cost
                turn.set_result(None)
        # Once more after the last: what was given in this round has not been done yet.
        self._is_due = self._left < self._units or len(self._queue) > 0
        if self._is_due:
            asyncio.get_running_loop().call_soon(self._round)
