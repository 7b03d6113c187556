"""Opens the database of a Scheduler that starts: PostgreSQL may come up later than we do."""

from __future__ import annotations

import logging

import tenacity

from orchestrator.database import Database, DatabaseAway, retried

log = logging.getLogger(__name__)

_LONGEST_PAUSE_S = 5.0
# A server that is there and says no will not say yes later, unless it is on its way up or down, or busy.
_PASSES = ("starting up", "shutting down", "recovery", "too many", "connection slots", "not accepting")


async def opened(url: str, *, migrate: bool, wait_s: float) -> Database:
    """The database, once it answers. Raises `DatabaseAway` when it does not within `wait_s` seconds, and at once when
    the server refuses us (no such user, no such database)."""
    attempts = tenacity.AsyncRetrying(
        retry=tenacity.retry_if_exception(_may_pass),
        wait=tenacity.wait_random_exponential(multiplier=0.2, max=_LONGEST_PAUSE_S),
        stop=tenacity.stop_after_delay(wait_s),
        before_sleep=_tell,
        reraise=True,
    )
    async for attempt in attempts:
        with attempt:
            database = await Database.open(url, migrate=migrate)
            try:
                await retried(database.ping)
            except BaseException:
                await database.close()
                raise
    return database


def _may_pass(error: BaseException) -> bool:
    if not isinstance(error, DatabaseAway):
        return False
    return "FATAL" not in error.message or any(words in error.message for words in _PASSES)


def _tell(state: tenacity.RetryCallState) -> None:
    error = state.outcome.exception() if state.outcome is not None else None
    log.warning(
        "waiting for the database, %d s so far: %s", state.seconds_since_start, error, extra={"action": "database-away"}
    )
