"""Reports to the Scheduler leave together: the first at once, what follows soon after it in one go.

Each message is signed here, verified there, committed and answered, some ten milliseconds of processor time over both
sides, however many reports share it. Slices of a few milliseconds would cost more to report than to compute.
"""

from __future__ import annotations

import asyncio


class Pace:
    """`await turn()` before sending: returns at once when nothing was let through for `every_s`, else with all others

    that wait, at the end of that time. Cancelling gives up one's own turn only.
    """

    def __init__(self, every_s: float) -> None:
        self._every_s = every_s
        self._free_at = 0.0
        self._gate: asyncio.Future[None] | None = None

    async def turn(self) -> None:
        loop = asyncio.get_running_loop()
        now = loop.time()
        if self._gate is None:
            if now >= self._free_at:
                self._free_at = now + self._every_s
                return
            self._gate = loop.create_future()
            loop.call_at(self._free_at, self._open, self._gate)
        await asyncio.shield(self._gate)

    def _open(self, gate: asyncio.Future[None]) -> None:
        self._gate = None
        self._free_at = asyncio.get_running_loop().time() + self._every_s
        gate.set_result(None)
