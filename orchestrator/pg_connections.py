"""Pooled connections to PostgreSQL: how they are set up, and whether one still lives.

That is asked without a round trip where it can be. A server that ends a connection says so on it: while nobody uses it,
there is nothing else to read. Only a connection that was idle for long, whose network may have gone without a word, is
asked.
"""

from __future__ import annotations

import select
import time
from typing import Any

import sqlalchemy
from sqlalchemy.ext.asyncio import AsyncEngine

ASKED_AFTER_S = 1.0
# A plan that was made while a table was nearly empty reads all of it, and would be kept until the statistics are new.
_SET_UP = "SET plan_cache_mode = force_custom_plan"
_LAST_USED = "last used"


def watch(engine: AsyncEngine) -> None:
    """Set up each connection of the engine's pool, and look at it before it is used again; one that is dead is
    replaced."""
    dialect = engine.dialect

    def set_up(connection: Any, _: Any) -> None:
        cursor = connection.cursor()
        cursor.execute(_SET_UP)
        cursor.close()
        connection.commit()

    def before_use(connection: Any, record: Any, _: Any) -> None:
        last_used = record.info.get(_LAST_USED)
        if last_used is None:  # it is new
            return
        if time.monotonic() - last_used < ASKED_AFTER_S and not _has_word(connection.driver_connection):
            return
        try:
            alive = dialect.do_ping(connection)
        except dialect.loaded_dbapi.Error as error:
            if not dialect.is_disconnect(error, connection, None):
                raise
            alive = False
        if not alive:
            raise sqlalchemy.exc.InvalidatePoolError

    def after_use(_: Any, record: Any) -> None:
        record.info[_LAST_USED] = time.monotonic()

    sqlalchemy.event.listen(engine.sync_engine, "connect", set_up)
    sqlalchemy.event.listen(engine.sync_engine, "checkout", before_use)
    sqlalchemy.event.listen(engine.sync_engine, "checkin", after_use)


def _has_word(connection: Any) -> bool:
    """Something waits to be read, or the connection is known to be closed."""
    if connection.closed:
        return True
    poll = select.poll()
    poll.register(connection.fileno(), select.POLLIN)
    return bool(poll.poll(0))
