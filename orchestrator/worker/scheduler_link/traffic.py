"""What all words to the Scheduler share: who carries them, how they are counted and paced, and who insists."""

from __future__ import annotations

import asyncio
import collections
import random
from collections.abc import Callable, Mapping
from typing import Any, Final

from orchestrator.protocol.client import ClientConnection
from orchestrator.protocol.errors import Congested, ConnectionClosed, RemoteError
from orchestrator.worker.owned_tasks import OwnedTasks
from orchestrator.worker.scheduler_link.pace import Pace

_RETRY_FIRST_S: Final = 0.1
_RETRY_MOST_S: Final = 30.0
_REMOTE_TRIES: Final = 4

TRY_AGAIN: Final = frozenset({"EINTERNAL", "EBUSY", "ETIMEDOUT", "EEXPIRED", "ETIMETRAVEL", "ENETWORK"})
"""The Scheduler's own trouble: the same report may be taken in a moment."""


class Traffic:
    """`settled` is called when something has arrived; `tasks` belong to the owner, and all traffic ends with them."""

    def __init__(self, tasks: OwnedTasks, settled: Callable[[], None]) -> None:
        self.tasks = tasks
        self.settled = settled
        self.counts: collections.Counter[str] = collections.Counter()
        self.pace = Pace()

    async def insist(
        self, connection: ClientConnection, operation: str, data: Mapping[str, Any], *, tries: int = _REMOTE_TRIES
    ) -> Any:
        """Ask until there is an answer, however long the service is away.

        Raises the service's refusal (`RemoteError`) once it is not just its own trouble, or was that so many times.
        """
        attempt = refusals = 0
        while True:
            try:
                return await connection.request(operation, data)
            except RemoteError as error:
                refusals += 1
                if error.code not in TRY_AGAIN or refusals >= tries:
                    raise
            except (ConnectionClosed, Congested):
                self.counts["sent again"] += 1
            attempt += 1
            await pause(attempt)


async def pause(attempt: int) -> None:
    """Exponential back-off with full jitter, from the first attempt (1) on."""
    longest = min(_RETRY_FIRST_S * 2.0 ** min(attempt - 1, 20), _RETRY_MOST_S)
    await asyncio.sleep(random.uniform(0.0, longest))  # noqa: S311  (jitter, no secret)
