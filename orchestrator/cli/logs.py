"""The log of a command: lines for people, or one JSON object per line, on stderr."""

from __future__ import annotations

import dataclasses
import json
import logging
import sys
from typing import Any

LEVELS = ("debug", "info", "warning", "error")


def configure(level: str, output: str = "text") -> None:
    """Log to stderr. `level` holds for our own loggers; libraries say what is a warning or worse."""
    handler = logging.StreamHandler(sys.stderr)
    handler.addFilter(Repetitions())
    handler.setFormatter(_JsonLines() if output == "json" else _TextLines("%(asctime)s %(levelname)s %(message)s"))
    ours = logging.getLevelName(level.upper())
    logging.basicConfig(level=max(ours, logging.WARNING), handlers=[handler], force=True)
    logging.getLogger("orchestrator").setLevel(ours)


class Repetitions(logging.Filter):
    """Lets the same event of the same job through a few times in a while, and says with the next how many it left out.

    Errors always pass, and so does what is asked for with the level debug.
    """

    def __init__(self, most: int = 5, within_s: float = 10.0) -> None:
        super().__init__()
        self._most = most
        self._within_s = within_s
        self._seen: dict[tuple[str, str, str], _Burst] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        """Called by any thread, one at a time (the handler's lock is held while a record is written, not here)."""
        if record.levelno >= logging.ERROR or record.levelno < logging.INFO:
            return True
        key = (record.name, str(record.msg), str(getattr(record, "job", "")))
        burst = self._seen.get(key)
        if burst is None:
            if len(self._seen) >= _MOST_BURSTS:
                del self._seen[next(iter(self._seen))]
            burst = self._seen.setdefault(key, _Burst(record.created))
        if not 0 <= record.created - burst.began < self._within_s:
            if burst.left_out:
                record.suppressed = burst.left_out
            burst.began, burst.passed, burst.left_out = record.created, 0, 0
        if burst.passed >= self._most:
            burst.left_out += 1
            return False
        burst.passed += 1
        return True


@dataclasses.dataclass(slots=True)
class _Burst:
    began: float
    passed: int = 0
    left_out: int = 0


_MOST_BURSTS = 1000
_PLAIN = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


def _extra(record: logging.LogRecord) -> dict[str, Any]:
    return {name: value for name, value in vars(record).items() if name not in _PLAIN}


def event_of(record: logging.LogRecord) -> dict[str, str]:
    """`event`, and `message` where a sentence came with a tag (`action`) that is the event."""
    message = record.getMessage()
    action = getattr(record, "action", None)
    return {"event": message} if action is None else {"event": str(action).replace("-", "_"), "message": message}


def _word(value: Any) -> str:
    """The value so that it cannot be taken for two, nor for a line of its own."""
    text = str(value)
    return text if text.isprintable() and not set(text) & set(' ="') and text else json.dumps(text, ensure_ascii=False)


class _TextLines(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        text = super().format(record)
        return " ".join([text, *(f"{name}={_word(value)}" for name, value in _extra(record).items())])


class _JsonLines(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        line = {"time": record.created, "level": record.levelname.lower(), **event_of(record)}
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps({**line, **_extra(record)}, default=str)
