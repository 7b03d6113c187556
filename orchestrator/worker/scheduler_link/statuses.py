"""Word of slices that have begun, and of slices that are given back.

It is self-clocking: one request is under way, and what comes up meanwhile shares the next.
"""

from __future__ import annotations

import asyncio
import collections
import logging
from collections.abc import Sequence
from typing import Any, Final

from orchestrator.errors import OrchestratorError
from orchestrator.protocol.client import ClientConnection
from orchestrator.protocol.errors import Congested, ConnectionClosed
from orchestrator.worker import reports
from orchestrator.worker import supervisor_actions as act
from orchestrator.worker.scheduler_link import pace
from orchestrator.worker.scheduler_link.emissions import Emissions
from orchestrator.worker.scheduler_link.traffic import Traffic, pause

log = logging.getLogger(__name__)

_MOST_ENTRIES: Final = 500


class Statuses:
    """`run` it. Returns are kept until they are acknowledged, and lost with the process."""

    def __init__(
        self,
        submitter: ClientConnection,
        worker_id: str,
        emissions: Emissions,
        traffic: Traffic,
    ) -> None:
        self._submitter = submitter
        self._worker_id = worker_id
        self._emissions = emissions
        self._traffic = traffic
        self._returns: collections.deque[dict[str, Any]] = collections.deque()
        self._begins: collections.deque[dict[str, Any]] = collections.deque()
        self._later = 0
        self._busy = False
        self._due = asyncio.Event()
        self.send_begin = True
        """Whether the Scheduler wants to hear of slices that have begun."""

    @property
    def outstanding(self) -> int:
        """How much is not acknowledged yet."""
        return self.returns + len(self._begins) + int(self._busy)

    @property
    def returns(self) -> int:
        """How many words of returned slices wait to be sent."""
        return len(self._returns) + self._later

    def begin(self, action: act.Begin) -> None:
        """Tell that slices have begun. Of no consequence when it is lost."""
        if not self.send_begin:
            return
        last = self._begins[-1] if self._begins else None
        if last is not None and last["job"] == action.job_id and last["authorizationMessage"] is action.authorization:
            last["sliceNumbers"].extend(action.numbers)
        else:
            if len(self._begins) >= _MOST_ENTRIES:
                self._begins.popleft()
            self._begins.append(reports.status_entry(action.job_id, action.numbers, action.authorization, "begin"))
        self._due.set()

    def give_back(self, action: act.ReturnSlices) -> None:
        """Give slices back, after what is still to be told of them."""
        log.info(
            "slices_returned",
            extra={"job": action.job_id, "count": len(action.numbers), "reason": str(action.reason)[:200]},
        )
        entry = reports.status_entry(action.job_id, action.numbers, action.authorization, "return", action.reason)
        if self._emissions.any_of(action.job_id, action.numbers):
            self._traffic.tasks.create_task(self._give_back_later(action, entry))
        else:
            self._returns.append(entry)
            self._due.set()

    async def _give_back_later(self, action: act.ReturnSlices, entry: dict[str, Any]) -> None:
        self._later += 1
        try:
            await self._emissions.told(action.job_id, action.numbers)
        finally:
            self._later -= 1
            self._returns.append(entry)
            self._due.set()

    async def run(self) -> None:
        """Send what is due, until cancelled."""
        attempt = 0
        while True:
            await self._due.wait()
            await self._traffic.pace.turn(pace.AWAITED_EVERY_S if self._returns else pace.EVERY_S)
            self._due.clear()
            while self._returns or self._begins:
                returns = [self._returns.popleft() for _ in range(min(len(self._returns), _MOST_ENTRIES))]
                begins, self._begins = list(self._begins), collections.deque()
                self._busy = True
                if await self._send([*begins, *returns]):
                    attempt = 0
                else:
                    self._returns.extendleft(reversed(returns))
                    attempt += 1
                    await pause(attempt)
                self._busy = False
            self._traffic.settled()

    async def _send(self, entries: Sequence[dict[str, Any]]) -> bool:
        """False when the Scheduler could not be asked; an entry that it refuses is dropped, and spoils no other."""
        try:
            await self._submitter.request("status", {"worker": self._worker_id, "slices": list(entries)})
        except (ConnectionClosed, Congested):
            return False
        except OrchestratorError as error:
            if len(entries) > 1:
                for entry in entries:
                    if not await self._send([entry]):
                        return False
            else:
                self._traffic.counts["status refused"] += 1
                level = logging.DEBUG if entries[0]["status"] == "begin" else logging.WARNING
                log.log(level, "status_refused", extra={"job": entries[0]["job"], "error": str(error)})
        return True
