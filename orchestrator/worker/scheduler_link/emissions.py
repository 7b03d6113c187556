"""Events of slices (console, progress, errors) on their way to the owners of jobs."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Mapping, Sequence
from typing import Any, Final

from orchestrator.errors import OrchestratorError
from orchestrator.protocol.client import ClientConnection
from orchestrator.worker import reports
from orchestrator.worker import supervisor_actions as act
from orchestrator.worker.scheduler_link.traffic import Traffic

log = logging.getLogger(__name__)

_MOST: Final = 10_000


class Emissions:
    """Each is sent at once, and again until it is acknowledged."""

    def __init__(
        self,
        router: ClientConnection,
        worker_id: str,
        traffic: Traffic,
    ) -> None:
        self._router = router
        self._worker_id = worker_id
        self._traffic = traffic
        self._of_slices: dict[tuple[str, int], set[asyncio.Task[None]]] = {}
        self.outstanding = 0
        """How many are not acknowledged yet."""

    def emit(self, action: act.Emit) -> None:
        """Pass a slice's event on to the job's owner. Dropped when far too many wait (counted)."""
        if self.outstanding >= _MOST:
            self._traffic.counts["events dropped"] += 1
            return
        data = reports.work_emit(action, self._worker_id, round(time.time() * 1000))
        self.outstanding += 1
        place = (action.job_id, action.number)
        emission = self._traffic.tasks.create_task(self._emit(data))
        self._of_slices.setdefault(place, set()).add(emission)
        emission.add_done_callback(lambda done: self._emitted(place, done))

    async def _emit(self, data: Mapping[str, Any]) -> None:
        try:
            await self._traffic.insist(self._router, "workEmit", data)
            self._traffic.counts["events"] += 1
        except OrchestratorError as error:
            self._traffic.counts["events refused"] += 1
            log.info(
                "event_refused", extra={"job": data["job"], "name_of_event": data["eventName"], "error": str(error)}
            )

    def _emitted(self, place: tuple[str, int], emission: asyncio.Task[None]) -> None:
        self.outstanding -= 1
        waiting = self._of_slices.get(place)
        if waiting is not None:
            waiting.discard(emission)
            if not waiting:
                del self._of_slices[place]
        self._traffic.settled()

    def any_of(self, job_id: str, numbers: Sequence[int]) -> bool:
        """Whether events of these slices are on their way."""
        return any((job_id, number) in self._of_slices for number in numbers)

    async def told(self, job_id: str, numbers: Sequence[int]) -> None:
        """Wait until the events of these slices have arrived: what ends a slice may end its job, and with it the chance
        to be heard."""
        waiting = [emission for number in numbers for emission in self._of_slices.get((job_id, number), ())]
        if waiting:
            await asyncio.wait(waiting)
