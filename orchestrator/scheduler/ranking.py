"""Pure: items in order of a rank that changes."""

from __future__ import annotations

import heapq
import itertools
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

    def _drop_stale(self) -> None:
        """What has been put elsewhere since leaves the front."""
        heap, ranks = self._heap, self._ranks
        while heap and ranks.get(heap[0][2]) != heap[0][0]:
            heapq.heappop(heap)

    def ordered(self) -> Iterator[Item]:
        """The items, lowest rank first, for as long as nothing is changed. Each costs as much as were taken before it
        make necessary, however many there are."""
        self._drop_stale()
        heap, ranks = self._heap, self._ranks
        size = len(heap)
        # The next one is always a child of one that was passed.
        frontier = [(heap[0], 0)] if size else []
        told: set[Item] = set()
        while frontier:
            (rank, _, item), index = heapq.heappop(frontier)
            if ranks.get(item) == rank and item not in told:
                told.add(item)
                yield item
            for child in (2 * index + 1, 2 * index + 2):
                if child < size:
                    heapq.heappush(frontier, (heap[child], child))

    def first(self, many: int) -> list[Item]:
        """The items with the lowest ranks, lowest first."""
        return list(itertools.islice(self.ordered(), many))

    def lowest(self) -> Item | None:
        self._drop_stale()
        return self._heap[0][2] if self._heap else None

    def __len__(self) -> int:
        return len(self._ranks)

    def __contains__(self, item: object) -> bool:
        return item in self._ranks

    def __iter__(self) -> Iterator[Item]:
        return iter(self._ranks)
