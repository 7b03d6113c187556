"""Results on their way to the Scheduler: each is sent until it is accepted or refused, this process's and those that
earlier ones left."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from typing import Any, Final

from orchestrator.errors import OrchestratorError
from orchestrator.protocol.client import ClientConnection
from orchestrator.worker import reports, task
from orchestrator.worker import supervisor_actions as act
from orchestrator.worker import supervisor_events as ev
from orchestrator.worker.account import WorkerAccount
from orchestrator.worker.notary import Notary
from orchestrator.worker.outbox import Entry, Outbox
from orchestrator.worker.outbox_store import StoreUnusable
from orchestrator.worker.scheduler_link.emissions import Emissions
from orchestrator.worker.scheduler_link.pace import AWAITED_EVERY_S, EVERY_S
from orchestrator.worker.scheduler_link.traffic import Traffic, pause

log = logging.getLogger(__name__)

_TRIES: Final = 12
_LEFTOVERS_AT_ONCE: Final = 200
#: What a slice took that is worth a write to the disk at once, instead of being computed again after a crash.
_DEAR_S: Final = 5.0
#: Results of that size go to the disk at once: their text need not stay in memory.
_LARGE_BYTES: Final = 256 * 1024

#: Answers that mean: the slice is not ours any more (or never was), so there is nothing to return.
_LEASE_IS_LOST: Final = frozenset({"ENOENT", "EPERM", "ELEASE", "ELATE", "EDUP"})
#: Answers of a job whose workers must agree: the result was compared with others, and is not paid.
_OUTVOTED: Final = {"wrong": "EWRONG", "unasked": "EUNASKED"}


class Deliveries:
    """`run` it for what earlier processes left. Outcomes go to `tell`; with a `notary`, each carries its receipt."""

    def __init__(
        self,
        submitter: ClientConnection,
        account: WorkerAccount,
        emissions: Emissions,
        traffic: Traffic,
        *,
        outbox: Outbox,
        notary: Notary | None,
        tell: Callable[[ev.Event], None],
    ) -> None:
        self._submitter = submitter
        self._account = account
        self._outbox = outbox
        self._notary = notary
        self._emissions = emissions
        self._tell = tell
        self._traffic = traffic
        self._sending: dict[int, Entry] = {}  # by the supervisor's key
        self._renewed: dict[int, task.Authorization] = {}  # by the entry's id
        self._leftovers = len(outbox.left)
        self.leftovers_settled = asyncio.Event()
        """Set once what earlier processes left is accepted or refused."""
        self.results = 0
        """Of this process, how many are not acknowledged yet."""

    @property
    def outstanding(self) -> int:
        """How many are not acknowledged yet, whoever computed them."""
        return self.results + self._leftovers

    def send(self, action: act.SendResult, body: Mapping[str, Any] | str) -> None:
        """Deliver a result; `ResultAccepted` or `ResultRefused` follows, however long it takes."""
        data = reports.result(action, self._account.worker_id, self._account.payment_address, body)
        size = reports.size_of(body)
        dear = action.metrics.wall_time_s >= _DEAR_S or size >= _LARGE_BYTES
        entry = self._outbox.add(data, size, soon=dear)
        self.results += 1
        self._sending[action.key] = entry
        if self._notary is None:  # what follows may wait long: the action, with its text, may go
            self._traffic.tasks.create_task(self._send(action.key, entry, action.awaited))
        else:
            self._traffic.tasks.create_task(self._send_with_receipt(self._notary, action, entry, data))

    def renew(self, action: act.RenewResult) -> None:
        """A result on its way may be reported under a newer authorization, should the older one not count any more."""
        entry = self._sending.get(action.key)
        if entry is not None:
            self._renewed[entry.id] = action.authorization

    async def _send_with_receipt(
        self, notary: Notary, action: act.SendResult, entry: Entry, data: Mapping[str, Any]
    ) -> None:
        self._outbox.renew(entry, {**data, "receipt": await notary.receipt(reports.delivery(action))})
        self._traffic.tasks.create_task(self._send(action.key, entry, action.awaited))

    async def _send(self, key: int, entry: Entry, awaited: bool) -> None:
        try:
            await self._emissions.told(entry.job, (entry.slice,))
            await self._traffic.pace.turn(AWAITED_EVERY_S if awaited else EVERY_S)
            try:
                answer = await self._deliver(entry)
            except OrchestratorError as error:
                lost = error.code in _LEASE_IS_LOST or error.code in _OUTVOTED.values()
                self._tell(ev.ResultRefused(key, error.code, error.message, lost=lost))
            else:
                self._tell(ev.ResultAccepted(key, answer))
        finally:
            self.results -= 1
            self._sending.pop(key, None)
            self._traffic.settled()

    async def _deliver(self, entry: Entry) -> Any:
        """The Scheduler's answer to a result. Raises its refusal, which is recorded."""
        try:
            while True:
                report = await self._report_of(entry)
                try:
                    answer = await self._traffic.insist(self._submitter, "result", report, tries=_TRIES)
                    _raise_if_unwanted(answer)
                except OrchestratorError as error:
                    renewed = self._renewed.pop(entry.id, None)
                    if renewed is None or error.code not in _LEASE_IS_LOST:
                        raise
                    self._outbox.renew(entry, {**report, "authorizationMessage": renewed})
                else:
                    break
        except OrchestratorError as error:
            self._traffic.counts["results refused"] += 1
            self._outbox.refused(entry, error.code, error.message)
            self._outbox.done(entry)
            raise
        self._traffic.counts["results"] += 1
        self._outbox.done(entry)
        self._renewed.pop(entry.id, None)
        return answer

    async def _report_of(self, entry: Entry) -> Mapping[str, Any]:
        attempt = 0
        while True:
            try:
                report = await self._outbox.take(entry)
            except StoreUnusable as error:
                log.warning("outbox_not_read", extra={"error": error.message})
                attempt += 1
                await pause(attempt)
            else:
                if report is None:
                    raise OrchestratorError("its text is gone from the disk", code="ESTORE")
                return report

    async def run(self) -> None:
        """Deliver what earlier processes did not get acknowledged, before anything is asked for."""
        queue = iter(self._outbox.left)

        async def deliver() -> None:
            for entry in queue:
                try:
                    await self._deliver(entry)
                    self._traffic.counts["results of earlier processes"] += 1
                except OrchestratorError:
                    pass  # it is recorded
                self._leftovers -= 1

        async with asyncio.TaskGroup() as group:
            for _ in range(min(_LEFTOVERS_AT_ONCE, self._leftovers)):
                group.create_task(deliver())
        if self._outbox.left:
            log.info("leftovers_settled", extra={"count": len(self._outbox.left)})
            self._outbox.left.clear()
        self.leftovers_settled.set()
        self._traffic.settled()


def _raise_if_unwanted(answer: Any) -> None:
    """A result that is not wanted any more, or not believed, is answered politely, as a success that pays nothing."""
    if not isinstance(answer, Mapping) or answer.get("accepted") is not False:
        return
    verdict = answer.get("verdict")
    if verdict == "late":
        raise OrchestratorError("the Scheduler does not want it any more: the lease or its job has ended", code="ELATE")
    if isinstance(verdict, str) and verdict in _OUTVOTED:
        code = _OUTVOTED[verdict]
        raise OrchestratorError(str(answer.get("reason") or verdict).removeprefix(f"{code}: ")[:200], code=code)
