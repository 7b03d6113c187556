"""Reports to the Scheduler leave together: the first at once, what follows soon after it in one go.

Each message is signed here, verified there, committed, told to the job's owner and answered by them: some twenty
milliseconds of processor time in all, however many reports share it. Short slices would cost more to report than to
compute.
"""

from __future__ import annotations

import asyncio
import math
from typing import Final

EVERY_S: Final = 2.0
"""Reports that come up within this time share a signed message."""
MOST: Final = 2000
"""So many results leave before that: a Scheduler that has to settle more at once answers nobody meanwhile."""
AWAITED_EVERY_S: Final = 0.1
"""The time for those that somebody waits for."""
ESTIMATION_EVERY_S: Final = 0.02
"""And for those of a job's first few slices, while its other cores have nothing of it to compute."""


class Pace:
    """`await turn(patience_s)` before sending: returns at once when nothing was let through for `patience_s`.

    Otherwise it returns with all others that wait, as soon as the first of them has no more patience. Cancelling gives
    up one's own turn only.
    """

    def __init__(self) -> None:
        self._last = -math.inf
        self._opens_at = math.inf
        self._timer: asyncio.TimerHandle | None = None
        self._gate: asyncio.Future[None] | None = None

    async def turn(self, patience_s: float) -> None:
        loop = asyncio.get_running_loop()
        at = self._last + patience_s
        if loop.time() >= at:
            self._open()
            return
        if self._gate is None:
            self._gate = loop.create_future()
        if at < self._opens_at:
            if self._timer is not None:
                self._timer.cancel()
            self._opens_at = at
            self._timer = loop.call_at(at, self._open)
        await asyncio.shield(self._gate)

    def _open(self) -> None:
        """Let everybody through who waits."""
        self._last = asyncio.get_running_loop().time()
        self._opens_at = math.inf
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._gate is not None:
            self._gate.set_result(None)
            self._gate = None
