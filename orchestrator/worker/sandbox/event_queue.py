"""What a sandbox said, until its owner takes it."""

from __future__ import annotations

import asyncio
import collections
from collections.abc import AsyncIterator, Callable
from typing import Final

from orchestrator.worker.sandbox_events import SandboxEnded, SandboxEvent

#: Above this many queued events nobody has taken, the stream is not read until half are gone.
_HIGH: Final = 10_000


class EventQueue:
    """For one consumer.

    `hush()` is called when too many wait, and says whether it could stop the stream; `hear(seconds)` when that is to be
    read again, which it was not for so long.
    """

    def __init__(self, hush: Callable[[], bool], hear: Callable[[float], None]) -> None:
        self._hush = hush
        self._hear = hear
        self._events: collections.deque[SandboxEvent] = collections.deque()
        self._wake = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self._hushed_at: float | None = None

    @property
    def hushed(self) -> bool:
        """Whether the sandbox cannot be heard, because too many events wait."""
        return self._hushed_at is not None

    def put(self, event: SandboxEvent) -> None:
        self._events.append(event)
        self._wake.set()
        if len(self._events) > _HIGH and self._hushed_at is None and self._hush():
            self._hushed_at = self._loop.time()

    def end(self, event: SandboxEnded) -> None:
        """The last one."""
        self._events.append(event)
        self._wake.set()

    async def batches(self) -> AsyncIterator[list[SandboxEvent]]:
        """Events as they come, all that are there at once. Ends after SandboxEnded."""
        ended = False
        while not ended:
            await self._some()
            batch = list(self._events)
            self._events.clear()
            self._look()
            ended = isinstance(batch[-1], SandboxEnded)
            yield batch

    async def one_by_one(self) -> AsyncIterator[SandboxEvent]:
        """Events in order. Ends after SandboxEnded."""
        ended = False
        while not ended:
            await self._some()
            event = self._events.popleft()
            self._look()
            ended = isinstance(event, SandboxEnded)
            yield event

    async def _some(self) -> None:
        while not self._events:
            self._wake.clear()
            await self._wake.wait()

    def _look(self) -> None:
        if self._hushed_at is None or len(self._events) > _HIGH // 2:
            return
        waited = self._loop.time() - self._hushed_at
        self._hushed_at = None
        self._hear(waited)
