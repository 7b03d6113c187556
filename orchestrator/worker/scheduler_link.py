"""The worker's end of the Scheduler: asks for work, and delivers what the supervisor decided until it is acknowledged.

Results and returned slices are kept until the Scheduler has answered, across lost transports and lost sessions; results
also across the worker's own death (see `outbox`). The Scheduler takes each once, so sending again is safe. Requests
that are made at the same time share one signed message (see `protocol`). `status` is self-clocking: one request is
under way, and what comes up meanwhile shares the next.
"""

from __future__ import annotations

import asyncio
import collections
import contextlib
import dataclasses
import logging
import random
import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import Any, Final

from orchestrator.errors import InvalidInput, OrchestratorError
from orchestrator.protocol import js_json, signing
from orchestrator.protocol.client import ClientConnection, DcpClient
from orchestrator.protocol.errors import Congested, ConnectionClosed, PeerChanged, RemoteError
from orchestrator.wallet.keys import PrivateKey
from orchestrator.worker import reports, task
from orchestrator.worker import supervisor_actions as act
from orchestrator.worker import supervisor_events as ev
from orchestrator.worker.lost_answers import LostAnswers
from orchestrator.worker.notary import Notary
from orchestrator.worker.outbox import Entry, Outbox
from orchestrator.worker.outbox_store import StoreUnusable
from orchestrator.worker.owned_tasks import OwnedTasks
from orchestrator.worker.pace import Pace
from orchestrator.worker.trusting import KeyChange

log = logging.getLogger(__name__)

_PACKAGES_TIMEOUT_S: Final = 180.0
_GOODBYE_PAUSE_S: Final = 0.3
_RETRY_FIRST_S: Final = 0.1
_RETRY_MOST_S: Final = 30.0
_REMOTE_TRIES: Final = 4
_RESULT_TRIES: Final = 12
_LEFTOVERS_S: Final = 120.0
_LEFTOVERS_AT_ONCE: Final = 200
#: Results that come up within this time share a signed message: those that nobody waits for, and awaited ones.
_RESULTS_EVERY_S: Final = 1.0
_AWAITED_EVERY_S: Final = 0.1
#: What a slice took that is worth a write to the disk at once, instead of being computed again after a crash.
_DEAR_S: Final = 5.0
#: Results of that size go to the disk at once: their text need not stay in memory.
_LARGE_BYTES: Final = 256 * 1024
_MOST_EMITS: Final = 10_000
_MOST_STATUS_ENTRIES: Final = 500
_SEEN_EVENTS: Final = 1000
_MOST_COMMANDS: Final = 60
_COMMANDS_WITHIN_S: Final = 60.0
_COMMANDS: Final = frozenset({"kill", "remove", "announce", "restart", "reload", "addPriorityJob", "removePriorityJob"})

#: Answers that mean: the slice is not ours any more (or never was), so there is nothing to return.
_LEASE_IS_LOST: Final = frozenset({"ENOENT", "EPERM", "ELEASE", "ELATE", "EDUP"})
#: The Scheduler's own trouble: the same report may be taken in a moment.
_TRY_AGAIN: Final = frozenset({"EINTERNAL", "EBUSY", "ETIMEDOUT", "EEXPIRED", "ETIMETRAVEL", "ENETWORK"})


@dataclasses.dataclass(frozen=True)
class WorkerAccount:
    """Who the worker is: its key, its id (22 letters and digits, the same ever after), who is paid for its work."""

    identity: PrivateKey
    worker_id: str
    payment_address: str


@dataclasses.dataclass(frozen=True)
class Offer:
    """What the worker tells the Scheduler about itself with every request. `groups` are (join key, join hash).

    With `public_fallback`, work of the public group is asked for only after these groups had none.
    """

    cores: int = 1
    job_ids: tuple[str, ...] = ()
    groups: tuple[tuple[str, str], ...] = ()
    public_group: bool = True
    public_fallback: bool = False
    minimum_wage: Mapping[str, float] = dataclasses.field(
        default_factory=lambda: {"CPU": 0.0, "GPU": 0.0, "in": 0.0, "out": 0.0}
    )
    send_begin: bool = True
    isolation: Mapping[str, str] | None = None
    """How strong the walls of its sandboxes are: level, OCI runtime, digest of the image."""


def service_url(config: Mapping[str, Any], *path: str) -> str:
    """The location of a service in a Scheduler's configuration. Raises `InvalidInput` naming what is missing."""
    node: Any = config
    for name in (*path, "location"):
        node = node.get(name) if isinstance(node, Mapping) else None
    if not isinstance(node, str):
        raise InvalidInput(f"the Scheduler's configuration has no {'.'.join(path)}.location")
    return node


def check_services(config: Mapping[str, Any]) -> None:
    """Raises `InvalidInput` when a configuration lacks a service that a worker needs."""
    for name in ("taskDistributor", "resultSubmitter", "eventRouter"):
        service_url(config, "scheduler", "services", name)
    service_url(config, "packageManager")


class SchedulerLink:
    """`async with` it, inside its `DcpClient`. Events for the supervisor go to `tell`, from the event loop.

    Leaving does not wait for answers (`flush` does): results that are unacknowledged then stay in the `outbox`, which
    must live longer; returns are lost with the process.
    """

    def __init__(
        self,
        client: DcpClient,
        config: Mapping[str, Any],
        account: WorkerAccount,
        offer: Offer,
        tell: Callable[[ev.Event], None],
        *,
        outbox: Outbox,
        notary: Notary | None = None,
        request_timeout_s: float = 180.0,
    ) -> None:
        """With a `notary`, every result carries a receipt of its."""
        services = ("scheduler", "services")
        self._client = client
        self._account = account
        self._offer = offer
        self._outbox = outbox
        self._tell = tell
        self._notary = notary
        self._request_timeout_s = request_timeout_s
        self._own_groups_had_none = False
        self._commanded: collections.deque[float] = collections.deque(maxlen=_MOST_COMMANDS)
        self.on_order: Callable[[str], None] = lambda _order: None
        """Told when the Scheduler says that the worker is to end: kill, disable or restart."""
        self.on_late_task: Callable[[task.Task], None] = lambda _task: None
        """Told what a request brought after all that had been given up."""
        self._distributor = client.connect(service_url(config, *services, "taskDistributor"))
        self._submitter = client.connect(service_url(config, *services, "resultSubmitter"))
        self._router = client.connect(service_url(config, *services, "eventRouter"), on_request=self._on_request)
        self._packages_url = service_url(config, "packageManager")
        self._packages: ClientConnection | None = None
        self._sequence = 0
        self._lost_answers = LostAnswers(secrets.token_urlsafe(6))
        self._starts_over = False
        self._work_answered = False
        self._capabilities = 0
        self._worktimes: Sequence[Mapping[str, str]] = ()
        self._results = 0
        self._sending: dict[int, Entry] = {}  # by the supervisor's key
        self._renewed: dict[int, task.Authorization] = {}  # by the entry's id
        self._leftovers = len(outbox.left)
        self._leftovers_settled = asyncio.Event()
        self._returns: collections.deque[dict[str, Any]] = collections.deque()
        self._begins: collections.deque[dict[str, Any]] = collections.deque()
        self._status_due = asyncio.Event()
        self._pace = Pace()
        self._status_busy = False
        self._emits: dict[tuple[str, int], set[asyncio.Task[None]]] = {}
        self._emitting = 0
        self._settled = asyncio.Event()
        self._session_ended = asyncio.Event()
        self._tokens: set[str] = set()
        self._seen: collections.OrderedDict[str, None] = collections.OrderedDict()
        self._tasks = OwnedTasks()
        self._complained: KeyChange | None = None
        self._counts: collections.Counter[str] = collections.Counter()
        self.requested_at: float | None = None
        """When the Scheduler last answered a request for work (`time.time()`)."""

    async def __aenter__(self) -> SchedulerLink:
        await self._tasks.__aenter__()
        self._router.on_session_end(lambda _error: self._session_ended.set())
        for connection in self._connections():
            connection.on_session_end(self._look_at_key)
        self._tasks.create_task(self._report_statuses(), name="report-statuses")
        self._tasks.create_task(self._listen(), name="listen-to-scheduler")
        self._tasks.create_task(self._deliver_leftovers(), name="deliver-leftovers")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self._tasks.__aexit__(kind, exc, traceback)

    # -- work ----------------------------------------------------------------------------------------------------------

    def describe(self, capabilities: int, worktimes: Sequence[Mapping[str, str]]) -> None:
        """What sandboxes can do, to be told with every request from now on."""
        self._capabilities, self._worktimes = capabilities, worktimes

    async def request_task(self, action: act.RequestTask) -> task.Task:
        """Ask for work. Raises `OrchestratorError` (network, Scheduler's refusal, malformed answer).

        When it is given up (no answer in time, or cancelled) and the answer comes later, `on_late_task` hears of its
        slices. What was leased in an answer that is lost with its session is given back by the requests that follow.
        """
        if action.first:  # it gives back all that is leased to this worker: results would be late after it
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_LEFTOVERS_S):
                    await self._leftovers_settled.wait()
        self._sequence += 1
        asking = self._tasks.create_task(self._ask_for_task(action, self._sequence), name="ask-for-task")
        try:
            async with asyncio.timeout(self._request_timeout_s):
                answer = await asyncio.shield(asking)
        except TimeoutError:
            asking.add_done_callback(self._task_came_late)
            raise OrchestratorError(
                f"the Scheduler did not answer within {self._request_timeout_s:g} s", code="ETIMEDOUT", retryable=True
            ) from None
        except asyncio.CancelledError:
            asking.add_done_callback(self._task_came_late)
            raise
        if isinstance(answer, OrchestratorError):
            raise answer
        if not action.beacon_only:
            self._own_groups_had_none = not answer.count and not self._own_groups_had_none
        return answer

    async def _ask_for_task(self, action: act.RequestTask, sequence: int) -> task.Task | OrchestratorError:
        """What came of it: it lives on when nobody waits any more, and then nobody catches what it raises."""
        name, lost = self._lost_answers.name(), self._lost_answers.to_tell(time.monotonic())
        # Lost, it may not have given back what earlier processes held; while nothing was answered, nothing else is out.
        starts = action.first or (self._starts_over and not self._work_answered and not action.beacon_only)
        try:
            if self._distributor.dcpsid is None:  # the proofs of group membership need the session's id
                await self._distributor.request("keepalive", round(time.time() * 1000))
            data = reports.task_request(
                action,
                worker_id=self._account.worker_id,
                payment_address=self._account.payment_address,
                cores=self._offer.cores,
                capabilities=self._capabilities,
                worktimes=self._worktimes,
                job_ids=self._offer.job_ids,
                minimum_wage=self._offer.minimum_wage,
                groups=reports.compute_groups(
                    self._offer.groups, self._asks_public_group(), self._distributor.dcpsid or ""
                ),
                sequence=sequence,
                return_all=self._return_all() if starts else None,
                isolation=self._offer.isolation,
                request_id=name,
                lost=lost,
            )
            answer = await self._distributor.request("requestTask@3", data)
            self.requested_at = time.time()
            self._work_answered = self._work_answered or not action.beacon_only
            self._lost_answers.told(lost)
            return task.parse(answer)
        except (ConnectionClosed, task.MalformedTask) as error:
            if not action.beacon_only:
                self._lost_answers.lost(name, time.monotonic())
            self._starts_over = self._starts_over or starts
            return error
        except OrchestratorError as error:
            return error

    @property
    def owes_word(self) -> bool:
        """Whether the Scheduler is still to hear of answers that were lost."""
        return self._lost_answers.untold

    def _task_came_late(self, asking: asyncio.Task[task.Task | OrchestratorError]) -> None:
        if asking.cancelled() or asking.exception() is not None:
            return  # the link ends, or has failed for all to see
        answer = asking.result()
        if isinstance(answer, OrchestratorError):
            log.info("late_answer", extra={"code": answer.code, "error": answer.message})
        elif answer.count or answer.malformed:
            log.warning("late_answer", extra={"slices": answer.count})
            self.on_late_task(answer)

    def _asks_public_group(self) -> bool:
        offer = self._offer
        waits = offer.public_fallback and bool(offer.groups) and not self._own_groups_had_none
        return offer.public_group and not waits

    def reoffer(self, offer: Offer) -> None:
        """Tell this from now on."""
        self._offer = offer

    def _return_all(self) -> str:
        """The signed statement that gives back everything this worker id held before."""
        return signing.seal(self._account.identity, js_json.dumps({"id": self._account.worker_id}))

    async def goodbye(self, timeout_s: float) -> None:
        """Tell the Scheduler that nothing is held any more; give up after so many seconds, however often it was tried.

        That is logged and does no harm: what is leased comes back at the next start, or when its lease ends. Not said
        while results are kept for the next start: it would make them late.
        """
        if self._outbox.kept:
            log.warning("results_kept", extra={"count": self._outbox.kept})
            return
        data = {
            "coreStats": {"worker": self._account.worker_id},
            "paymentAddress": self._account.payment_address,
            "fetchState": reports.RETURN_ALL,
            "returnAllSlices": self._return_all(),
        }
        attempt, trouble = 0, "no answer"
        try:
            async with asyncio.timeout(timeout_s):
                while True:
                    attempt += 1
                    try:
                        await self._distributor.request("requestTask@3", data)
                        return
                    except OrchestratorError as error:
                        trouble = str(error)
                        if isinstance(error, PeerChanged):
                            break
                    await asyncio.sleep(_GOODBYE_PAUSE_S)
        except TimeoutError:
            trouble = self._distributor.statistics()["trouble"] or trouble
        log.warning("goodbye_failed", extra={"attempt": attempt, "error": trouble})

    async def module_urls(self, modules: Sequence[str]) -> Mapping[str, Mapping[str, str]]:
        """{package: {file: URL}} from the package manager.

        Raises `OrchestratorError` ENOMODULE, EMODULETOOBIG, or EMODULEFETCH when it cannot be asked.
        """
        if self._packages is None:
            self._packages = self._client.connect(self._packages_url)
        try:
            async with asyncio.timeout(_PACKAGES_TIMEOUT_S):
                answer = await self._packages.request("fetchModuleURL", {"modules": list(modules)})
        except TimeoutError:
            raise _package_error("the package manager does not answer", "EMODULEFETCH") from None
        except (ConnectionClosed, Congested) as error:
            raise _package_error(f"the package manager cannot be asked: {error.message}", "EMODULEFETCH") from None
        except RemoteError as error:
            answer = {"code": error.code, "message": error.message}
        code = answer.get("code") if isinstance(answer, Mapping) else "ENOENT"
        if isinstance(code, str):
            known = {"ENOENT": "ENOMODULE", "DCPC-1024": "EMODULETOOBIG"}
            raise _package_error(f"modules {', '.join(modules)[:200]}: {code}", known.get(code, "EMODULEFETCH"))
        return {
            package: {name: url for name, url in files.items() if isinstance(url, str)}
            for package, files in answer.items()
            if isinstance(files, Mapping)
        }

    # -- results -------------------------------------------------------------------------------------------------------

    def send_result(self, action: act.SendResult, body: Mapping[str, Any] | str) -> None:
        """Deliver a result; `ResultAccepted` or `ResultRefused` follows, however long it takes."""
        data = reports.result(action, self._account.worker_id, self._account.payment_address, body)
        size = reports.size_of(body)
        dear = action.metrics.wall_time_s >= _DEAR_S or size >= _LARGE_BYTES
        entry = self._outbox.add(data, size, soon=dear)
        self._results += 1
        self._sending[action.key] = entry
        if self._notary is None:  # what follows may wait long: the action, with its text, may go
            self._tasks.create_task(self._send_result(action.key, entry, action.awaited))
        else:
            self._tasks.create_task(self._send_with_receipt(self._notary, action, entry, data))

    def renew_result(self, action: act.RenewResult) -> None:
        """A result on its way may be reported under a newer authorization, should the older one not count any more."""
        entry = self._sending.get(action.key)
        if entry is not None:
            self._renewed[entry.id] = action.authorization

    async def _send_with_receipt(
        self, notary: Notary, action: act.SendResult, entry: Entry, data: Mapping[str, Any]
    ) -> None:
        self._outbox.renew(entry, {**data, "receipt": await notary.receipt(reports.delivery(action))})
        self._tasks.create_task(self._send_result(action.key, entry, action.awaited))

    async def _send_result(self, key: int, entry: Entry, awaited: bool) -> None:
        try:
            await self._told(entry.job, (entry.slice,))
            await self._pace.turn(_AWAITED_EVERY_S if awaited else _RESULTS_EVERY_S)
            try:
                answer = await self._deliver(entry)
            except OrchestratorError as error:
                lost = error.code in _LEASE_IS_LOST
                self._tell(ev.ResultRefused(key, error.code, error.message, lost=lost))
            else:
                self._tell(ev.ResultAccepted(key, answer))
        finally:
            self._results -= 1
            self._sending.pop(key, None)
            self._check_settled()

    async def _deliver(self, entry: Entry) -> Any:
        """The Scheduler's answer to a result. Raises its refusal, which is recorded."""
        try:
            while True:
                report = await self._report_of(entry)
                try:
                    answer = await self._insist(self._submitter, "result", report, tries=_RESULT_TRIES)
                    _raise_if_late(answer)
                except OrchestratorError as error:
                    renewed = self._renewed.pop(entry.id, None)
                    if renewed is None or error.code not in _LEASE_IS_LOST:
                        raise
                    self._outbox.renew(entry, {**report, "authorizationMessage": renewed})
                else:
                    break
        except OrchestratorError as error:
            self._counts["results refused"] += 1
            self._outbox.refused(entry, error.code, error.message)
            self._outbox.done(entry)
            raise
        self._counts["results"] += 1
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
                await _pause(attempt)
            else:
                if report is None:
                    raise OrchestratorError("its text is gone from the disk", code="ESTORE")
                return report

    async def _deliver_leftovers(self) -> None:
        """What earlier processes did not get acknowledged, before anything is asked for."""
        queue = iter(self._outbox.left)

        async def deliver() -> None:
            for entry in queue:
                try:
                    await self._deliver(entry)
                    self._counts["results of earlier processes"] += 1
                except OrchestratorError:
                    pass  # it is recorded
                self._leftovers -= 1

        async with asyncio.TaskGroup() as group:
            for _ in range(min(_LEFTOVERS_AT_ONCE, self._leftovers)):
                group.create_task(deliver())
        if self._outbox.left:
            log.info("leftovers_settled", extra={"count": len(self._outbox.left)})
            self._outbox.left.clear()
        self._leftovers_settled.set()
        self._check_settled()

    async def _insist(
        self, connection: ClientConnection, operation: str, data: Mapping[str, Any], *, tries: int = _REMOTE_TRIES
    ) -> Any:
        """Ask until there is an answer; raises the Scheduler's refusal once it is not just its own trouble."""
        attempt = refusals = 0
        while True:
            try:
                return await connection.request(operation, data)
            except RemoteError as error:
                refusals += 1
                if error.code not in _TRY_AGAIN or refusals >= tries:
                    raise
            except (ConnectionClosed, Congested):
                self._counts["sent again"] += 1
            attempt += 1
            await _pause(attempt)

    # -- status --------------------------------------------------------------------------------------------------------

    def begin(self, action: act.Begin) -> None:
        """Tell that slices have begun. Of no consequence when it is lost."""
        if not self._offer.send_begin:
            return
        last = self._begins[-1] if self._begins else None
        if last is not None and last["job"] == action.job_id and last["authorizationMessage"] is action.authorization:
            last["sliceNumbers"].extend(action.numbers)
        else:
            if len(self._begins) >= _MOST_STATUS_ENTRIES:
                self._begins.popleft()
            self._begins.append(reports.status_entry(action.job_id, action.numbers, action.authorization, "begin"))
        self._status_due.set()

    def return_slices(self, action: act.ReturnSlices) -> None:
        """Give slices back, after what is still to be told of them."""
        log.info(
            "slices_returned",
            extra={"job": action.job_id, "count": len(action.numbers), "reason": str(action.reason)[:200]},
        )
        entry = reports.status_entry(action.job_id, action.numbers, action.authorization, "return", action.reason)
        if any((action.job_id, number) in self._emits for number in action.numbers):
            self._tasks.create_task(self._return_later(action, entry))
        else:
            self._returns.append(entry)
            self._status_due.set()

    async def _return_later(self, action: act.ReturnSlices, entry: dict[str, Any]) -> None:
        self._results += 1
        try:
            await self._told(action.job_id, action.numbers)
        finally:
            self._results -= 1
            self._returns.append(entry)
            self._status_due.set()

    async def _report_statuses(self) -> None:
        attempt = 0
        while True:
            await self._status_due.wait()
            await self._pace.turn(_AWAITED_EVERY_S if self._returns else _RESULTS_EVERY_S)
            self._status_due.clear()
            while self._returns or self._begins:
                returns = [self._returns.popleft() for _ in range(min(len(self._returns), _MOST_STATUS_ENTRIES))]
                begins, self._begins = list(self._begins), collections.deque()
                self._status_busy = True
                if await self._send_status([*begins, *returns]):
                    attempt = 0
                else:
                    self._returns.extendleft(reversed(returns))
                    attempt += 1
                    await _pause(attempt)
                self._status_busy = False
            self._check_settled()

    async def _send_status(self, entries: Sequence[dict[str, Any]]) -> bool:
        """False when the Scheduler could not be asked; an entry that it refuses is dropped, and spoils no other."""
        try:
            await self._submitter.request("status", {"worker": self._account.worker_id, "slices": list(entries)})
        except (ConnectionClosed, Congested):
            return False
        except OrchestratorError as error:
            if len(entries) > 1:
                for entry in entries:
                    if not await self._send_status([entry]):
                        return False
            else:
                self._counts["status refused"] += 1
                level = logging.DEBUG if entries[0]["status"] == "begin" else logging.WARNING
                log.log(level, "status_refused", extra={"job": entries[0]["job"], "error": str(error)})
        return True

    # -- events of slices ----------------------------------------------------------------------------------------------

    def emit(self, action: act.Emit) -> None:
        """Pass a slice's event on to the job's owner. Dropped when far too many wait (counted)."""
        if self._emitting >= _MOST_EMITS:
            self._counts["events dropped"] += 1
            return
        data = reports.work_emit(action, self._account.worker_id, round(time.time() * 1000))
        self._emitting += 1
        place = (action.job_id, action.number)
        emission = self._tasks.create_task(self._emit(data))
        self._emits.setdefault(place, set()).add(emission)
        emission.add_done_callback(lambda done: self._emitted(place, done))

    async def _emit(self, data: Mapping[str, Any]) -> None:
        try:
            await self._insist(self._router, "workEmit", data)
            self._counts["events"] += 1
        except OrchestratorError as error:
            self._counts["events refused"] += 1
            log.info(
                "event_refused", extra={"job": data["job"], "name_of_event": data["eventName"], "error": str(error)}
            )

    def _emitted(self, place: tuple[str, int], emission: asyncio.Task[None]) -> None:
        self._emitting -= 1
        waiting = self._emits.get(place)
        if waiting is not None:
            waiting.discard(emission)
            if not waiting:
                del self._emits[place]
        self._check_settled()

    async def _told(self, job_id: str, numbers: Sequence[int]) -> None:
        """Wait until the events of these slices have arrived: what ends a slice may end its job, and with it the chance
        to be heard."""
        waiting = [emission for number in numbers for emission in self._emits.get((job_id, number), ())]
        if waiting:
            await asyncio.wait(waiting)

    # -- what is outstanding -------------------------------------------------------------------------------------------

    @property
    def outstanding(self) -> int:
        """Results, returns and events that are not acknowledged yet."""
        busy = len(self._returns) + len(self._begins) + int(self._status_busy)
        return self._results + self._leftovers + self._emitting + busy

    def _check_settled(self) -> None:
        if not self.outstanding:
            self._settled.set()

    async def flush(self, timeout_s: float) -> bool:
        """Wait until everything is acknowledged; False when that took too long."""
        try:
            async with asyncio.timeout(timeout_s):
                while self.outstanding:
                    self._settled.clear()
                    await self._settled.wait()
        except TimeoutError:
            return False
        return True

    # -- the Scheduler speaks ------------------------------------------------------------------------------------------

    async def _listen(self) -> None:
        """Subscribe to the Scheduler's messages to workers, again in each new session."""
        attempt = 0
        while True:
            self._session_ended.clear()
            try:
                await self._router.request("keepalive", round(time.time() * 1000))
                worker = {"target": self._account.worker_id}
                mine = [{"target": self._router.peer}, worker, {"broadcast": True}]
                answer = await self._router.request(
                    "subscribeMany",
                    {
                        "schedmsgEvents": ["schedmsg::broadcast", "schedmsg::command"],
                        "options": {"filter": {"$or": mine}},
                    },
                )
                self._tokens = _tokens(answer)
                attempt = 0
            except RemoteError as error:
                log.info("schedmsg_unavailable", extra={"error": str(error)})
            except (ConnectionClosed, Congested):
                attempt += 1
                await _pause(attempt)
                continue
            await self._session_ended.wait()

    async def _on_request(self, operation: str, data: Any) -> Any:
        if operation != "event" or not isinstance(data, Mapping) or data.get("token") not in self._tokens:
            raise InvalidInput(f"{operation}: not an event that was subscribed to")
        event = data.get("event")
        event = event if isinstance(event, Mapping) else {}
        event_id, body = event.get("eventId"), event.get("data")
        if isinstance(event_id, str):
            if event_id in self._seen:
                raise InvalidInput(f"event {event_id[:40]} was delivered before", code="EDUP")
            self._seen[event_id] = None
            if len(self._seen) > _SEEN_EVENTS:
                self._seen.popitem(last=False)
        if isinstance(body, Mapping):
            payload = body.get("payload")
            self._command(body.get("command"), payload if isinstance(payload, Mapping) else {})
        return "success"

    def _command(self, command: Any, payload: Mapping[str, Any]) -> None:
        now = time.monotonic()
        while self._commanded and now - self._commanded[0] >= _COMMANDS_WITHIN_S:
            self._commanded.popleft()
        if len(self._commanded) >= _MOST_COMMANDS and command != "kill":
            self._counts["commands too many"] += 1
            return
        self._commanded.append(now)
        known = command if command in _COMMANDS else "unknown"
        self._counts[f"command {known}"] += 1
        job_id = payload.get("jobId")
        match command:
            case "kill":
                temporary = bool(payload.get("temporary"))
                log.warning("scheduler_says_kill", extra={"temporary": temporary})
                self.on_order("kill" if temporary else "disable")
            case "restart" | "reload":
                log.warning("scheduler_says_restart", extra={"command": command})
                self.on_order("restart")
            case "addPriorityJob" | "removePriorityJob" if isinstance(job_id, str):
                first = command == "addPriorityJob"
                self._tell(ev.PriorityChanged(job_id[:128], first, first and payload.get("immediate") is True))
            case "remove" if isinstance(job_id, str):
                self._tell(ev.JobRemoved(job_id))
            case "announce":
                log.info("scheduler_says", extra={"text": str(payload.get("message"))[:2000]})
            case _:
                log.info("scheduler_command_ignored", extra={"command": str(command)[:100]})

    @property
    def outbox(self) -> Outbox:
        """To be asked, not to be used."""
        return self._outbox

    def _connections(self) -> tuple[ClientConnection, ...]:
        return (self._distributor, self._submitter, self._router)

    @property
    def key_change(self) -> KeyChange | None:
        """That another key answers than did before, which nobody has accepted."""
        for connection in self._connections():
            if connection.peer_changed is not None:
                return KeyChange(url=connection.url, **connection.peer_changed.info)
        return None

    def _look_at_key(self, error: ConnectionClosed) -> None:
        change = self.key_change
        if not isinstance(error, PeerChanged) or change is None:
            return
        known, self._complained = self._complained, change
        if known is None or (known.before, known.now) != (change.before, change.now):
            log.error(
                "scheduler_key_changed",
                extra={
                    "url": change.url,
                    "before": change.before,
                    "now": change.now,
                    "error": change.what,
                    "remedy": change.remedy,
                },
            )

    def accept_keys(self, keys: frozenset[str]) -> None:
        """A Scheduler that has one of these addresses is believed, whichever it had before."""
        self._client.accepted = keys
        for connection in self._connections():
            connection.wake()

    @property
    def trouble(self) -> str:
        """Why the Scheduler cannot be reached at the moment; "" when it can, or when nothing failed yet."""
        each = (one.statistics()["trouble"] for one in (self._distributor, self._submitter))
        return next((trouble for trouble in each if trouble), "")

    def statistics(self) -> dict[str, Any]:
        return {
            "outstanding": self.outstanding,
            "results": self._results,
            "returns": len(self._returns),
            "events": self._emitting,
            "requested_at": self.requested_at,
            "counts": dict(self._counts),
            "outbox": self._outbox.statistics(),
            "connections": [one.statistics() for one in self._connections()],
        }


def _package_error(message: str, code: str) -> OrchestratorError:
    return OrchestratorError(message, code=code, info={"cause": "package-manager"})


def _raise_if_late(answer: Any) -> None:
    """A result that is not wanted any more is answered politely, as a success that pays nothing."""
    if isinstance(answer, Mapping) and answer.get("accepted") is False and answer.get("verdict") == "late":
        raise OrchestratorError("the Scheduler does not want it any more: the lease or its job has ended", code="ELATE")


def _tokens(answer: Any) -> set[str]:
    entries = answer.get("tokens") if isinstance(answer, Mapping) else None
    tokens = (
        entry.get("token") for entry in (entries if isinstance(entries, list) else ()) if isinstance(entry, Mapping)
    )
    return {token for token in tokens if isinstance(token, str)}


async def _pause(attempt: int) -> None:
    """Exponential back-off with full jitter."""
    longest = min(_RETRY_FIRST_S * 2.0 ** min(attempt - 1, 20), _RETRY_MOST_S)
    await asyncio.sleep(random.uniform(0.0, longest))  # noqa: S311  (jitter, no secret)
