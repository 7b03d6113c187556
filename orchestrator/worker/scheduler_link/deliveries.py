"""Results on their way to the Scheduler: each is sent until it is accepted or refused, this process's and those that
earlier ones left."""

from __future__ import annotations

import asyncio
import dataclasses
import logging
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final

from orchestrator.errors import OrchestratorError
from orchestrator.jobs import piles
from orchestrator.protocol.client import ClientConnection
from orchestrator.task_groups import TaskGroup
from orchestrator.worker import reports, task
from orchestrator.worker import supervisor_actions as act
from orchestrator.worker import supervisor_events as ev
from orchestrator.worker.account import WorkerAccount
from orchestrator.worker.notary import Notary
from orchestrator.worker.outbox import Entry, Outbox
from orchestrator.worker.outbox_store import StoreUnusable
from orchestrator.worker.scheduler_link import pace
from orchestrator.worker.scheduler_link.emissions import Emissions
from orchestrator.worker.scheduler_link.traffic import TRY_AGAIN, Traffic, pause

log = logging.getLogger(__name__)

_TRIES: Final = 12
_LEFTOVERS_AT_ONCE: Final = 200
#: What a slice took that is worth a write to the disk at once, instead of being computed again after a crash.
_DEAR_S: Final = 5.0
#: Results of that size go to the disk at once: their text need not stay in memory.
_LARGE_BYTES: Final = 256 * 1024
#: Of a pile: what the frame of a result counts for is said once there, so it has a third of that.
_PILE_BYTES: Final = 750_000

#: Answers that mean: the slice is not ours any more (or never was), so there is nothing to return.
_LEASE_IS_LOST: Final = frozenset({"ENOENT", "EPERM", "ELEASE", "ELATE", "EDUP"})
#: Answers of a job whose workers must agree: the result was compared with others, and is not paid.
_OUTVOTED: Final = {"wrong": "EWRONG", "unasked": "EUNASKED"}


@dataclasses.dataclass(slots=True, eq=False)
class _Parcel:
    """A result on its way. `key` is the supervisor's."""

    key: int
    entry: Entry
    authorization: task.Authorization
    patience_s: float


_Unsigned = tuple[_Parcel, act.SendResult, Mapping[str, Any]]


class Deliveries:
    """`run` it for what earlier processes left. Outcomes go to `tell`; with a `notary`, each carries its receipt.

    Results that are there at the same time share receipts' signing, a message and, where the Scheduler takes `in_pile`
    of them in one, a request. Whatever goes wrong with a pile, its members are delivered one by one.
    """

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
        in_pile: int = 1,
    ) -> None:
        self._submitter = submitter
        self._account = account
        self._outbox = outbox
        self._notary = notary
        self._emissions = emissions
        self._tell = tell
        self._traffic = traffic
        self._in_pile = in_pile
        self._sending: dict[int, Entry] = {}  # by the supervisor's key
        self._renewed: dict[int, task.Authorization] = {}  # by the entry's id
        self._dear: list[_Unsigned] = []
        self._in_turn: list[_Unsigned] = []
        self._patience_in_turn = math.inf
        self._departing: list[_Parcel] = []
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
        # What follows may wait long: the action, with its text, goes as soon as its receipt is signed.
        unsigned = (_Parcel(action.key, entry, action.authorization, _patience(action)), action, data)
        if dear:  # its receipt goes to the disk with it
            self._dear.append(unsigned)
            if len(self._dear) == 1:
                self._traffic.tasks.create_task(self._sign_at_once())
            return
        self._in_turn.append(unsigned)
        patience_s = 0.0 if len(self._in_turn) >= pace.MOST else _patience(action)
        if patience_s < self._patience_in_turn:
            self._patience_in_turn = patience_s
            self._traffic.tasks.create_task(self._sign_in_turn(patience_s))

    def renew(self, action: act.RenewResult) -> None:
        """A result on its way may be reported under a newer authorization, should the older one not count any more."""
        entry = self._sending.get(action.key)
        if entry is not None:
            self._renewed[entry.id] = action.authorization

    async def _sign_at_once(self) -> None:
        """What came in this turn of the event loop is signed together, and then waits for others to leave with."""
        batch, self._dear = self._dear, []
        await self._sign(batch)
        for parcel, _action, _data in batch:
            self._traffic.tasks.create_task(self._wait_for_others(parcel))

    async def _sign_in_turn(self, patience_s: float) -> None:
        """Signed when it is to leave: a thread and the disk are asked once for all of a message."""
        await self._traffic.pace.turn(patience_s)
        batch, self._in_turn, self._patience_in_turn = self._in_turn, [], math.inf
        if batch:  # else another waited for the same turn
            await self._sign(batch)
            self._depart([parcel for parcel, _action, _data in batch])

    async def _sign(self, batch: Sequence[_Unsigned]) -> None:
        if self._notary is None:
            return
        signed = await self._notary.receipts_for([reports.delivery(action) for _parcel, action, _data in batch])
        for (parcel, _action, data), receipt in zip(batch, signed, strict=True):
            self._outbox.renew(parcel.entry, {**data, "receipt": receipt})

    async def _wait_for_others(self, parcel: _Parcel) -> None:
        await self._traffic.pace.turn(parcel.patience_s)
        self._departing.append(parcel)
        await asyncio.sleep(0)  # whoever waited for the same turn has come then
        parcels, self._departing = self._departing, []
        self._depart(parcels)

    def _depart(self, parcels: Sequence[_Parcel]) -> None:
        to_pile: list[_Parcel] = []
        for parcel in parcels:
            if self._in_pile == 1 or self._emissions.any_of(parcel.entry.job, (parcel.entry.slice,)):
                self._traffic.tasks.create_task(self._send(parcel))
            else:
                to_pile.append(parcel)
        self._pile_up(to_pile)

    # -- one by one ----------------------------------------------------------------------------------------------------

    async def _send(self, parcel: _Parcel) -> None:
        await self._emissions.told(parcel.entry.job, (parcel.entry.slice,))
        await self._send_now(parcel)

    async def _send_now(self, parcel: _Parcel) -> None:
        try:
            try:
                answer = await self._deliver(parcel.entry)
            except OrchestratorError as error:
                self._tell_refusal(parcel, error)
            else:
                self._tell(ev.ResultAccepted(parcel.key, answer))
        finally:
            self._forget(parcel)
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
            self._refused(entry, error)
            raise
        self._accepted(entry)
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

    # -- what came of it -----------------------------------------------------------------------------------------------

    def _accepted(self, entry: Entry) -> None:
        self._traffic.counts["results"] += 1
        self._outbox.done(entry)
        self._renewed.pop(entry.id, None)

    def _refused(self, entry: Entry, error: OrchestratorError) -> None:
        self._traffic.counts["results refused"] += 1
        self._outbox.refused(entry, error.code, error.message)
        self._outbox.done(entry)

    def _tell_refusal(self, parcel: _Parcel, error: OrchestratorError) -> None:
        lost = error.code in _LEASE_IS_LOST or error.code in _OUTVOTED.values()
        self._tell(ev.ResultRefused(parcel.key, error.code, error.message, lost=lost))

    def _forget(self, parcel: _Parcel) -> None:
        self.results -= 1
        self._sending.pop(parcel.key, None)

    # -- in piles ------------------------------------------------------------------------------------------------------

    def _pile_up(self, parcels: Sequence[_Parcel]) -> None:
        """Results of one lease go into one request; what has to wait for its turn, or lies on the disk, goes alone."""
        leases: dict[tuple[str, int], list[_Parcel]] = {}
        for parcel in parcels:
            if self._outbox.take_at_once(parcel.entry) is None:
                self._traffic.tasks.create_task(self._send_now(parcel))
            else:
                leases.setdefault((parcel.entry.job, id(parcel.authorization)), []).append(parcel)
        for group in leases.values():
            for pile in _cut(group, self._in_pile):
                self._traffic.tasks.create_task(self._send_pile(pile))

    async def _send_pile(self, parcels: Sequence[_Parcel]) -> None:
        reports_of_all = [parcel.entry.report or {} for parcel in parcels]
        try:
            data = piles.fold(reports_of_all)
            answer = await self._traffic.insist(self._submitter, piles.OPERATION, data, tries=_TRIES)
            answers = piles.unfold_answers(answer, len(parcels))
        except OrchestratorError as error:
            if error.code == "ENOSYS":
                self._in_pile = 1  # another Scheduler than the one that told its configuration
            log.info("pile_not_taken", extra={"count": len(parcels), "code": error.code, "error": error.message})
            for parcel in parcels:
                self._traffic.tasks.create_task(self._send_now(parcel))
            return
        for parcel, said in zip(parcels, answers, strict=True):
            self._hear(parcel, said)
        self._traffic.settled()

    def _hear(self, parcel: _Parcel, said: Any) -> None:
        """What the Scheduler said of a member of a pile."""
        try:
            if isinstance(said, OrchestratorError):
                raise said
            _raise_if_unwanted(said)
        except OrchestratorError as error:
            if error.code in TRY_AGAIN or (error.code in _LEASE_IS_LOST and parcel.entry.id in self._renewed):
                self._traffic.tasks.create_task(self._send_now(parcel))
                return
            self._refused(parcel.entry, error)
            self._tell_refusal(parcel, error)
        else:
            self._accepted(parcel.entry)
            self._tell(ev.ResultAccepted(parcel.key, said))
        self._forget(parcel)

    # -- what earlier processes left -----------------------------------------------------------------------------------

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

        async with TaskGroup() as group:
            for _ in range(min(_LEFTOVERS_AT_ONCE, self._leftovers)):
                group.create_task(deliver())
        if self._outbox.left:
            log.info("leftovers_settled", extra={"count": len(self._outbox.left)})
            self._outbox.left.clear()
        self.leftovers_settled.set()
        self._traffic.settled()


def _patience(action: act.SendResult) -> float:
    if action.estimation:
        return pace.ESTIMATION_EVERY_S
    return pace.AWAITED_EVERY_S if action.awaited else pace.EVERY_S


def _cut(parcels: Sequence[_Parcel], most: int) -> Iterator[Sequence[_Parcel]]:
    """Piles of at most so many, and of about `_PILE_BYTES`."""
    pile: list[_Parcel] = []
    size = 0
    for parcel in parcels:
        if pile and (len(pile) >= most or size + parcel.entry.size > _PILE_BYTES):
            yield pile
            pile, size = [], 0
        pile.append(parcel)
        size += parcel.entry.size
    yield pile


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
