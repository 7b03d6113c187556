"""The last lines of the log, and those to come, for whoever asks over the control socket."""

from __future__ import annotations

import asyncio
import collections
import logging
from collections.abc import AsyncGenerator
from types import TracebackType
from typing import Any, Final, Self

_PLAIN: Final = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}
_KEPT: Final = 500
_LONGEST: Final = 2000
_READER_LAGS: Final = 1000


def line_of(record: logging.LogRecord) -> dict[str, Any]:
    """A record as JSON-able fields: time, level, event, and what came as `extra`. Long texts are cut."""
    line: dict[str, Any] = {
        "time": record.created,
        "level": record.levelname.lower(),
        "event": record.getMessage()[:_LONGEST],
    }
    for name, value in vars(record).items():
        if name not in _PLAIN:
            plain = value is None or isinstance(value, bool | int | float)
            line[name] = value if plain else str(value)[:_LONGEST]
    if record.exc_info and record.exc_info[0] is not None:
        line["exception"] = f"{record.exc_info[0].__name__}: {record.exc_info[1]}"[:_LONGEST]
    return line


class LogTail(logging.Handler):
    """`with` it, in the event loop: it listens to a logger. A reader that is too slow loses the oldest lines."""

    def __init__(self, logger: str = "orchestrator", kept: int = _KEPT) -> None:
        super().__init__()
        self._logger = logging.getLogger(logger)
        self._loop = asyncio.get_running_loop()
        self._recent: collections.deque[dict[str, Any]] = collections.deque(maxlen=kept)
        self._readers: set[_Reader] = set()

    def __enter__(self) -> Self:
        self._logger.addHandler(self)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._logger.removeHandler(self)
        for reader in self._readers:
            reader.end()

    def emit(self, record: logging.LogRecord) -> None:
        """Called by any thread."""
        try:
            line = line_of(record)
            self._loop.call_soon_threadsafe(self._take, line)
        except Exception:  # logging must never hurt; a closed loop is one way
            self.handleError(record)

    def handleError(self, record: logging.LogRecord) -> None:
        """Nobody can be told: the other handlers have the record."""

    def _take(self, line: dict[str, Any]) -> None:
        self._recent.append(line)
        for reader in self._readers:
            reader.take(line)

    def recent(self, count: int) -> list[dict[str, Any]]:
        """The last `count` lines, oldest first."""
        return list(self._recent)[-count:] if count > 0 else []

    async def follow(self, recent: int, heartbeat_s: float) -> AsyncGenerator[dict[str, Any] | None]:
        """The last `recent` lines, then each as it comes; None when none came for `heartbeat_s`. Ends with the tail."""
        reader = _Reader(self.recent(recent))
        self._readers.add(reader)
        try:
            while not reader.ended or reader.lines:
                if reader.lines:
                    yield reader.lines.popleft()
                    continue
                reader.wake.clear()
                try:
                    async with asyncio.timeout(heartbeat_s):
                        await reader.wake.wait()
                except TimeoutError:
                    yield None
        finally:
            self._readers.discard(reader)


class _Reader:
    def __init__(self, lines: list[dict[str, Any]]) -> None:
        self.lines = collections.deque(lines, maxlen=_READER_LAGS)
        self.wake = asyncio.Event()
        self.ended = False

    def take(self, line: dict[str, Any]) -> None:
        self.lines.append(line)
        self.wake.set()

    def end(self) -> None:
        self.ended = True
        self.wake.set()
