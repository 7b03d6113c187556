"""Which database is below the Schedulers that tests start as processes: SQLite, or the tests' PostgreSQL."""

from __future__ import annotations

import asyncio
import contextlib
import pathlib
from collections.abc import Iterator, Mapping, Sequence

from orchestrator.database import sqlite_url
from tests.postgres import PostgresServer

_SETTING = "DCP_ORCHESTRATOR_SCHEDULER_DATABASE_URL"
_server: PostgresServer | None = None
_urls: dict[str, str] = {}
"""by the Scheduler's state folder: one that is started again finds its rows"""


@contextlib.contextmanager
def on_postgres(server: PostgresServer) -> Iterator[None]:
    """Every Scheduler that is started inside has a database of its own at `server`, unless the test names another."""
    global _server
    before, _server = _server, server
    try:
        yield
    finally:
        _server = before


async def environment(arguments: Sequence[str]) -> Mapping[str, str]:
    """What a command of ours is started with, so that it finds its database."""
    if _server is None or arguments[0] not in ("scheduler", "local") or "--state" not in arguments:
        return {}
    state = arguments[arguments.index("--state") + 1]
    if state not in _urls:
        _urls[state] = await asyncio.to_thread(_server.create)
    return {_SETTING: _urls[state]}


def url_of(state: pathlib.Path) -> str:
    """The database of the Scheduler that was started with this state folder."""
    return _urls.get(str(state), sqlite_url(state / "scheduler.sqlite"))
