"""Pure: what was fetched, as long as it is fresh and there is room. Least recently used goes first.

Keys are made by the caller and hold everything on which the answer depends. A hit is no permission.
"""

from __future__ import annotations

import collections
import dataclasses
from typing import Any, Final

USUAL_AGE_S: Final = 600.0
MOST_AGE_S: Final = 3600.0


@dataclasses.dataclass(frozen=True, slots=True)
class _Entry:
    content: str
    until: float


class Cache:
    """`max_bytes` bounds the contents' ASCII text; one that is larger than a quarter of it is not kept."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._entries: collections.OrderedDict[tuple[str, ...], _Entry] = collections.OrderedDict()
        self._size = 0

    def get(self, key: tuple[str, ...], now: float) -> str | None:
        entry = self._entries.get(key)
        if entry is None:
            return None
        if entry.until <= now:
            self._drop(key)
            return None
        self._entries.move_to_end(key)
        return entry.content

    def put(self, key: tuple[str, ...], content: str, until: float) -> None:
        self._drop(key)
        size = len(content)
        if size * 4 > self._max_bytes:
            return
        self._entries[key] = _Entry(content, until)
        self._size += size
        while self._size > self._max_bytes:
            self._drop(next(iter(self._entries)))

    def _drop(self, key: tuple[str, ...]) -> None:
        entry = self._entries.pop(key, None)
        if entry is not None:
            self._size -= len(entry.content)

    def statistics(self) -> dict[str, Any]:
        return {"cached": len(self._entries), "cached_size": self._size}


def age_s(cache_control: str) -> float:
    """How long an answer with this `Cache-Control` may be kept, seconds; 0 for not at all."""
    age = USUAL_AGE_S
    for directive in cache_control.lower().split(","):
        name, _, value = directive.strip().partition("=")
        if name in ("no-store", "no-cache"):
            return 0.0
        if name == "max-age" and value.strip('"').isdigit():
            age = min(float(value.strip('"')[:12]), MOST_AGE_S)
    return age
