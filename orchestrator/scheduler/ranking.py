"""Pure: items in order of a rank that changes."""

from __future__ import annotations

import heapq
from collections.abc import Hashable, Iterator
from typing import Generic, TypeVar

Item = TypeVar("Item", bound=Hashable)


class Queue(Generic[Item]):
    """Items by a rank that changes. Changing one and looking at the first few cost O(log n)."""

    def __init__(self) -> None:
        self._ranks: dict[Item, float] = {}
        self._heap: list[tuple[float, int, Item]] = []
        self._serial = 0

    def put(self, item: Item, rank: float) -> None:
        if self._ranks.get(item) != rank:
            self._ranks[item] = rank
            self._push(item, rank)
            if len(self._heap) > 2 * len(self._ranks) + 16:
                self._heap = [(rank, number, item) for number, (item, rank) in enumerate(self._ranks.items())]
                self._serial = len(self._heap)
                heapq.heapify(self._heap)

    def _push(self, item: Item, rank: float) -> None:
        self._serial += 1
        heapq.heappush(self._heap, (rank, self._serial, item))

    def remove(self, item: Item) -> None:
        self._ranks.pop(item, None)

    def first(self, many: int) -> list[Item]:
        """The items with the lowest ranks, lowest first."""
        taken: list[tuple[float, int, Item]] = []
        found: dict[Item, None] = {}
        while self._heap and len(found) < many:
            entry = heapq.heappop(self._heap)
            rank, _, item = entry
            if item not in found and self._ranks.get(item) == rank:
                found[item] = None
                taken.append(entry)
        for entry in taken:
            heapq.heappush(self._heap, entry)
        return list(found)

    def __len__(self) -> int:
        return len(self._ranks)

    def __contains__(self, item: object) -> bool:
        return item in self._ranks

    def __iter__(self) -> Iterator[Item]:
        return iter(self._ranks)
