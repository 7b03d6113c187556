"""Keeps in rows what owners got, for the processes beside this one and for those after it."""

from __future__ import annotations

import asyncio
import contextlib

from orchestrator.database import DatabaseAway, persistently, retried
from orchestrator.scheduler.core import Core
from orchestrator.scheduler.listing import REFRESH_S

FORGET_S = 3600.0


class AccountKeeper:
    """`run()` works until cancelled, and writes once more then. A process that is killed loses a few seconds of it."""

    def __init__(self, core: Core) -> None:
        self._core = core

    async def run(self) -> None:
        next_forget = self._core.clock() + FORGET_S
        try:
            while True:
                await asyncio.sleep(REFRESH_S)
                await persistently(self.share)
                if self._core.clock() >= next_forget:
                    next_forget = self._core.clock() + FORGET_S
                    await persistently(self._forget)
        finally:
            with contextlib.suppress(DatabaseAway, TimeoutError):
                async with asyncio.timeout(2):
                    await retried(self.share)

    async def share(self) -> None:
        await self._core.listing.share_accounts(self._core.clock())

    async def _forget(self) -> None:
        await self._core.listing.forget(self._core.clock())
