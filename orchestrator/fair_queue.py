"""Who is next when more want something than can have it: equal shares for places, and for those within them.

A place is a network address, and who is within it an identity; all that have no name yet share one part. `FairQueue` is
pure. `FairSemaphore` lets so many in at once, and those that wait in that order.
"""

from __future__ import annotations

import asyncio
import contextvars
import heapq
import itertools
from collections import deque
from types import TracebackType
from typing import Generic, TypeVar

__all__ = ["FairQueue", "FairSemaphore", "Shares", "acting_for"]

_T = TypeVar("_T")
_MOST_REMEMBERED = 10_000

acting_for: contextvars.ContextVar[tuple[str, str]] = contextvars.ContextVar("acting_for", default=("", ""))
"""Place and identity for whom the current task works; a Scheduler's own tasks are a place themselves."""


class Shares:
    """Names that get equal parts of something over time (start-time fair queueing).

    A name that waits is served when its start is the earliest; what it is served moves its next start back.
    """

    __slots__ = ("_heap", "_now", "_numbers", "_start", "_waiting")

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, str]] = []
        self._start: dict[str, float] = {}
        self._waiting: set[str] = set()
        self._now = 0.0
        self._numbers = itertools.count()

    def __len__(self) -> int:
        return len(self._waiting)

    def join(self, name: str) -> None:
        """It has something to do now. Who was away has saved up nothing."""
        if name not in self._waiting:
            self._waiting.add(name)
            start = self._start[name] = max(self._now, self._start.get(name, 0.0))
            heapq.heappush(self._heap, (start, next(self._numbers), name))

    def first(self) -> str:
        """Whose turn it is; there must be one."""
        while True:
            start, _, name = self._heap[0]
            if self._start[name] <= start:
                return name
            # It was charged meanwhile.
            heapq.heapreplace(self._heap, (self._start[name], next(self._numbers), name))

    def served(self, name: str, cost: float, *, has_more: bool) -> None:
        """`name` is what `first` told."""
        self._now = heapq.heappop(self._heap)[0]
        start = self._start[name] = self._now + cost
        if has_more:
            heapq.heappush(self._heap, (start, next(self._numbers), name))
            return
        self._waiting.discard(name)
        if not self._waiting:
            # Nobody waits: there is enough for all, and nobody owes anything.
            self._start.clear()
            self._now = 0.0
        elif len(self._start) > _MOST_REMEMBERED:
            self._start = {one: at for one, at in self._start.items() if one in self._waiting or at > self._now}

    def charge(self, name: str, cost: float) -> None:
        """What was served last turned out to cost more. Without effect for a name that is not known any more."""
        if name in self._start:
            self._start[name] += cost

    def validate(self) -> None:
        assert {name for _, _, name in self._heap} == self._waiting
        assert len(self._heap) == len(self._waiting)
        assert self._waiting <= self._start.keys()
        assert all(self._start[name] >= start for start, _, name in self._heap)


class _Place(Generic[_T]):
    __slots__ = ("queues", "shares")

    def __init__(self) -> None:
        self.shares = Shares()
        self.queues: dict[str, deque[tuple[float, _T]]] = {}


class FairQueue(Generic[_T]):
    """Items of places and of those within them (`who`), each with a cost; first in first out for each `who`."""

    def __init__(self) -> None:
        self._shares = Shares()
        self._places: dict[str, _Place[_T]] = {}
        self._length = 0

    def __len__(self) -> int:
        return self._length

    def push(self, place: str, who: str, cost: float, item: _T) -> None:
        inner = self._places.get(place)
        if inner is None:
            inner = self._places[place] = _Place()
        inner.queues.setdefault(who, deque()).append((cost, item))
        inner.shares.join(who)
        self._shares.join(place)
        self._length += 1

    def pop(self) -> tuple[float, _T]:
        """Cost and item of the next; there must be one."""
        place = self._shares.first()
        inner = self._places[place]
        who = inner.shares.first()
        queue = inner.queues[who]
        cost, item = queue.popleft()
        if not queue:
            del inner.queues[who]
        inner.shares.served(who, cost, has_more=bool(queue))
        self._shares.served(place, cost, has_more=bool(inner.queues))
        if not inner.queues:
            del self._places[place]
        self._length -= 1
        return cost, item

    def charge(self, place: str, who: str, cost: float) -> None:
        """Add to the cost of what this one was given before."""
        self._shares.charge(place, cost)
        inner = self._places.get(place)
        if inner is not None:
            inner.shares.charge(who, cost)

    def validate(self) -> None:
        """Check all invariants; raise `AssertionError`."""
        self._shares.validate()
        assert len(self._shares) == len(self._places)
        for inner in self._places.values():
            inner.shares.validate()
            assert len(inner.shares) == len(inner.queues)
            assert all(inner.queues.values())
        assert self._length == sum(len(queue) for inner in self._places.values() for queue in inner.queues.values())


class FairSemaphore:
    """`async with` it: at most `count` are inside at once. Who waits comes in by turns of `acting_for`."""

    def __init__(self, count: int) -> None:
        self._free = count
        self._queue: FairQueue[asyncio.Future[None]] = FairQueue()

    async def __aenter__(self) -> None:
        if self._free > 0:
            self._free -= 1
            return
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        place, who = acting_for.get()
        self._queue.push(place, who, 1.0, turn)
        try:
            await turn
        except asyncio.CancelledError:
            if not turn.cancelled():
                self._leave()  # it had come in already
            raise

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._leave()

    def _leave(self) -> None:
        while len(self._queue):
            _, turn = self._queue.pop()
            if not turn.done():
                turn.set_result(None)
                return
        self._free += 1
