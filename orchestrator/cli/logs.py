"""The log of a command: lines for people, or one JSON object per line, on stderr."""

from __future__ import annotations

import json
import logging
import sys
from typing import Any

LEVELS = ("debug", "info", "warning", "error")


def configure(level: str, output: str = "text") -> None:
    """Log to stderr. `level` holds for our own loggers; libraries say what is a warning or worse."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_JsonLines() if output == "json" else _TextLines("%(asctime)s %(levelname)s %(message)s"))
    ours = logging.getLevelName(level.upper())
    logging.basicConfig(level=max(ours, logging.WARNING), handlers=[handler], force=True)
    logging.getLogger("orchestrator").setLevel(ours)


_PLAIN = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


def _extra(record: logging.LogRecord) -> dict[str, Any]:
    return {name: value for name, value in vars(record).items() if name not in _PLAIN}


class _TextLines(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        text = super().format(record)
        return " ".join([text, *(f"{name}={value}" for name, value in _extra(record).items())])


class _JsonLines(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        line = {"time": record.created, "level": record.levelname.lower(), "event": record.getMessage()}
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps({**line, **_extra(record)}, default=str)
