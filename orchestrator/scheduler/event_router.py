"""The eventRouter service: clients subscribe to jobs, workers emit events, and events find their subscribers."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import functools
import json
import logging
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from orchestrator import kvin
from orchestrator.database import DatabaseAway, persistently, retried
from orchestrator.errors import InvalidInput, NotFound, NotPermitted, OrchestratorError
from orchestrator.protocol.server import BatchService, Request, ServerConnection
from orchestrator.scheduler.catalog import Job
from orchestrator.scheduler.core import Core, Operations, fields
from orchestrator.scheduler.dialects import command_payload
from orchestrator.scheduler.group_commit import GroupCommit
from orchestrator.scheduler.lease_book import read_claim
from orchestrator.scheduler.plain_json import plain_data
from orchestrator.scheduler.settlement import Outcome
from orchestrator.scheduler.store import events, jobs
from orchestrator.scheduler.store.events import Event
from orchestrator.scheduler.store.jobs import JobState
from orchestrator.scheduler.watch import Watch, fresh_event_id
from orchestrator.scheduler.watermark import Watermark
from orchestrator.task_groups import TaskGroup

log = logging.getLogger(__name__)

EMITTED = frozenset({"console", "error", "noprogress", "custom"})
MAX_EVENT = 1_000_000
"""characters of one emitted event"""
REFRESHED_AT_ONCE = 500
"""jobs whose state is read in one statement"""
ACKNOWLEDGE_S = 2.0
"""how long acknowledgements are gathered before their rows go"""
_UNDEFINED = {"_serializeVerId": "v9", "what": {"undefined": True}}


@dataclasses.dataclass(frozen=True, slots=True)
class _Listener:
    """A worker that wants to hear commands (`schedmsg::command`, `schedmsg::broadcast`)."""

    connection: ServerConnection
    tokens: Mapping[str, str]
    targets: frozenset[str]


class EventRouter(BatchService):
    """`run()` must be running while requests are handled."""

    def __init__(self, core: Core) -> None:
        self._core = core
        self._watches: dict[int, dict[ServerConnection, Watch]] = {}
        self._listeners: dict[ServerConnection, _Listener] = {}
        self._answered: dict[int, float] = {}
        self._acknowledged: set[int] = set()
        self._counts: dict[tuple[int, str], int] = {}
        self._commits = GroupCommit(self._apply)
        self._stale: dict[int, set[str] | None] = {}
        """jobs that changed, here or at another process, and the labels of their new events; None: any"""
        self._changed = asyncio.Event()
        self._missed = False
        self._watermark = Watermark()
        """which events were there when lost notifications were looked for"""
        if core.cluster is not None:
            core.cluster.hear("job", self._jobs_changed)
            core.cluster.hear("answered", self._answered_elsewhere)
            core.cluster.hear("command", self._commanded_elsewhere)
            core.cluster.on_missed(self._all_changed)
        self._group: TaskGroup | None = None
        self._operations = Operations(
            {
                "subscribeMany": self.subscribe_many,
                "subscribe": self.subscribe,
                "unsubscribe": self.unsubscribe,
            }
        )

    async def run(self) -> None:
        async with TaskGroup() as group:
            self._group = group
            group.create_task(self._commits.run())
            group.create_task(self._forget_acknowledged())
            if self._core.cluster is not None:
                group.create_task(self._refresh())

    async def drain(self, within: float) -> None:
        """Before the sockets are closed: let clients answer to the events that they were sent. The process of an
        official client ends when its session is lost with such answers under way (observed with dcp-client 5.6.1)."""
        watches = [watch for group in self._watches.values() for watch in group.values()]
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(within):
                await asyncio.gather(*(watch.drain() for watch in watches))
        with contextlib.suppress(DatabaseAway):
            await retried(self._forget)

    async def handle_batch(self, requests: Sequence[Request]) -> Sequence[Any | OrchestratorError]:
        answers: list[Any] = [None] * len(requests)
        emitted = [i for i, request in enumerate(requests) if request.operation == "workEmit"]
        for index, answer in zip(emitted, await self._emit([requests[i] for i in emitted]), strict=True):
            answers[index] = answer
        for index, request in enumerate(requests):
            if request.operation != "workEmit":
                try:
                    answers[index] = await self._operations.handle(request)
                except OrchestratorError as error:
                    answers[index] = error
        return answers

    # --- subscriptions

    async def subscribe_many(self, request: Request) -> dict[str, Any]:
        """Subscribe labels of one job (or, for a worker, to commands). Repeating it gives the same tokens.

        Whoever knows a job's id may listen to it: a client that changes its identity between making and deploying a
        job asks with another one than the owner's (observed with dcp-client 5.6.1).
        """
        data = fields(request)
        if data.get("schedmsgEvents"):
            return {"tokens": self._listen(request, _labels(data, "schedmsgEvents"))}
        labels = _labels(data, "reliableEvents") + _labels(data, "optionalEvents")
        watch = await self._watch(request, data.get("options"))
        return {"tokens": [{"event": label, "token": watch.subscribe(label.lower())} for label in labels]}

    async def subscribe(self, request: Request) -> dict[str, Any]:
        """Subscribe one label."""
        data = fields(request)
        label = data.get("label")
        if not isinstance(label, str):
            raise InvalidInput("label must be text")
        if label.startswith("schedmsg::"):
            return {"token": self._listen(request, [label])[0]["token"]}
        options = data.get("options")
        if label.startswith("job::") and isinstance(options, Mapping) and isinstance(options.get("filter"), Mapping):
            label = str(options["filter"].get("eventName", label.removeprefix("job::")))
        watch = await self._watch(request, options)
        return {"token": watch.subscribe(label.lower())}

    async def unsubscribe(self, request: Request) -> dict[str, Any]:
        """Drop a subscription by its token. One that is not there is dropped already."""
        data = fields(request)
        token = data.get("token")
        token = token.get("token") if isinstance(token, Mapping) else token
        listener = self._listeners.get(request.connection)
        if listener is not None and token in listener.tokens.values():
            del self._listeners[request.connection]
        for watches in list(self._watches.values()):
            watch = watches.get(request.connection)
            if watch is not None:
                for label in [label for label, channel in watch.channels.items() if channel.token == token]:
                    watch.unsubscribe(label)
        return {"success": True}

    async def _watch(self, request: Request, options: Any) -> Watch:
        wanted = options.get("filter") if isinstance(options, Mapping) else None
        job_id = wanted.get("job") if isinstance(wanted, Mapping) else None
        async with self._core.database.snapshot() as tx:
            job = await self._core.catalog.get(tx, job_id)
            state = (await jobs.states(tx, [job.key]))[job.key]
        watches = self._watches.setdefault(job.key, {})
        watch = watches.get(request.connection)
        if watch is not None and not watch.closed:
            return watch
        watch = Watch(
            self._core,
            job,
            state,
            request.connection,
            acknowledged=self._acknowledge,
            is_acknowledged=self._acknowledged.__contains__,
            answered_at=lambda: self._answered.get(job.key, float("-inf")),
        )
        watches[request.connection] = watch
        # The state was read before the watch could hear of changes: look again when it starts.
        self._spawn(self._run(watch))
        fresh = watch
        request.connection.on_close(lambda _: fresh.close())
        return watch

    async def _run(self, watch: Watch) -> None:
        try:
            heard = watch.notes
            states = await persistently(functools.partial(self._states, [watch.job.key]))
            if watch.notes == heard:
                watch.note(states[watch.job.key])
            await watch.run()
        finally:
            watches = self._watches.get(watch.job.key, {})
            if watches.get(watch.connection) is watch:
                del watches[watch.connection]
            if not watches:
                self._watches.pop(watch.job.key, None)
                self._answered.pop(watch.job.key, None)

    def _listen(self, request: Request, labels: Sequence[str]) -> list[dict[str, str]]:
        options = fields(request).get("options")
        wanted = options.get("filter") if isinstance(options, Mapping) else None
        terms = wanted.get("$or") if isinstance(wanted, Mapping) else None
        targets = {
            term["target"]
            for term in (terms if isinstance(terms, list) else [wanted])
            if isinstance(term, Mapping) and isinstance(term.get("target"), str)
        }
        before = self._listeners.get(request.connection)
        tokens = dict(before.tokens) if before is not None else {}
        for label in labels:
            tokens.setdefault(label, fresh_event_id())
        known = before.targets if before is not None else frozenset()
        self._listeners[request.connection] = _Listener(request.connection, tokens, known | targets)
        if before is None:
            request.connection.on_close(lambda _: self._deafen(request.connection))
        return [{"event": label, "token": tokens[label]} for label in labels]

    def _deafen(self, connection: ServerConnection) -> None:
        self._listeners.pop(connection, None)

    # --- what others tell

    def publish(self, outcome: Outcome) -> None:
        """A transaction was committed."""
        if self._core.cluster is not None:
            self._spread(outcome.states, outcome.events)
            return
        for key, state in outcome.states.items():
            for watch in self._watches.get(key, {}).values():
                watch.note(state)
        self._push(outcome.events)

    def _push(self, fresh: Sequence[Event]) -> None:
        if self._core.cluster is not None:
            self._spread((), fresh)
            return
        by_job: dict[int, list[Event]] = {}
        for event in fresh:
            by_job.setdefault(event.job, []).append(event)
        for key, batch in by_job.items():
            for watch in self._watches.get(key, {}).values():
                watch.push(batch)

    # --- several processes. What a watch is told then always comes from the database, in the order of commits: what
    # one process has committed may be older than what another one has, when it comes to tell of it.

    def _spread(self, states: Iterable[int], fresh: Sequence[Event]) -> None:
        changed: list[tuple[int, str]] = [(key, "") for key in states]
        changed += dict.fromkeys((event.job, event.label) for event in fresh)
        assert self._core.cluster is not None
        for key, label in changed:
            self._core.cluster.tell("job", key, label)
        self._jobs_changed(changed)

    def _jobs_changed(self, items: Iterable[Sequence[Any]]) -> None:
        for key, label in items:
            if key in self._watches:
                labels = self._stale.setdefault(key, set())
                if labels is not None:
                    labels.add(label)
        if self._stale:
            self._changed.set()

    def _all_changed(self) -> None:
        """Notifications may have been lost."""
        self._missed = True
        self._changed.set()

    async def _look_for_missed(self) -> None:
        """Every watched job is to be read again, and those queues that got events since this was done last."""
        self._missed = False
        async with self._core.database.snapshot() as tx:
            newest = await events.newest(tx)
        async with self._core.database.snapshot() as tx:
            moment, after = await events.moment(tx), self._watermark.passed
            queues = await events.queues_since(tx, after) if newest > after else []
        self._watermark.looked(newest, moment)
        self._jobs_changed((key, "") for key in list(self._watches))
        self._jobs_changed(queues)

    async def _refresh(self) -> None:
        """Let watches look at what changed: their job's state first, then the events that were there with it."""
        while True:
            await self._changed.wait()
            self._changed.clear()
            if self._missed:
                await persistently(self._look_for_missed)
            stale, self._stale = self._stale, {}
            watched = [key for key in stale if key in self._watches]
            for start in range(0, len(watched), REFRESHED_AT_ONCE):
                keys = watched[start : start + REFRESHED_AT_ONCE]
                states = await persistently(functools.partial(self._states, keys))
                for key in keys:
                    state = states.get(key)
                    for watch in list(self._watches.get(key, {}).values()):
                        if state is not None:
                            watch.note(state)
                        # The end is told when all else was: then nothing may be left unseen.
                        ended = state is None or state.ended_at is not None
                        watch.look(None if ended else stale[key])

    async def _states(self, keys: Sequence[int]) -> dict[int, JobState]:
        async with self._core.database.snapshot() as tx:
            return await jobs.states(tx, keys)

    def _answered_elsewhere(self, items: Sequence[Any]) -> None:
        for (key,) in items:
            if key in self._watches:
                self._answered[key] = asyncio.get_running_loop().time()

    def _commanded_elsewhere(self, items: Sequence[Any]) -> None:
        for worker, command, payload in items:
            self._command({worker}, command, json.loads(payload))

    def answered(self, job: Job) -> None:
        """The owner is being answered to a step of deploying the job."""
        if self._core.cluster is not None:
            self._core.cluster.tell("answered", job.key)
        self._answered[job.key] = asyncio.get_running_loop().time()
        while len(self._answered) > 10_000:
            self._answered.pop(next(iter(self._answered)))

    def watched(self) -> frozenset[int]:
        """Keys of the jobs to which somebody listens here."""
        return frozenset(key for key, watches in self._watches.items() if watches)

    def command(self, workers: set[str], command: str, payload: Mapping[str, Any]) -> None:
        """Tell workers to do something. Best effort: one that does not hear it finds out with its next report."""
        if self._core.cluster is not None:
            text = json.dumps(payload)
            for worker in workers:
                self._core.cluster.tell("command", worker, command, text)
        self._command(workers, command, payload)

    def _command(self, workers: set[str], command: str, payload: Mapping[str, Any]) -> None:
        for listener in self._listeners.values():
            token = listener.tokens.get("schedmsg::command")
            if token is not None and listener.targets & workers:
                said = command_payload(listener.connection.dialect, payload)
                data = {"eventName": "schedmsg::command", "command": command, "payload": said}
                self._spawn(self._tell(listener.connection, token, data))

    async def _tell(self, connection: ServerConnection, token: str, data: Mapping[str, Any]) -> None:
        try:
            await connection.request("event", {"token": token, "event": {"eventId": fresh_event_id(), "data": data}})
        except OrchestratorError as error:
            log.info("a worker did not take a command: %s", error, extra={"action": "command-unheard"})

    def _spawn(self, work: Any) -> None:
        if self._group is None:
            raise RuntimeError("the event router is not running")
        self._group.create_task(work)

    # --- acknowledgements

    def _acknowledge(self, event: Event) -> None:
        self._acknowledged.add(event.id)
        key = (event.job, event.label)
        if key in self._counts:
            self._counts[key] -= 1

    async def _forget_acknowledged(self) -> None:
        """Rows that were heard go in groups: the flush of a transaction costs more than its rows."""
        while True:
            await asyncio.sleep(ACKNOWLEDGE_S)
            await persistently(self._forget)

    async def _forget(self) -> None:
        heard = list(self._acknowledged)
        if heard:
            async with self._core.database.transaction() as tx:
                await events.delete(tx, heard)
            self._acknowledged.difference_update(heard)

    # --- what workers emit

    async def _emit(self, requests: Sequence[Request]) -> list[Any]:
        """Queue events of slices. Those beyond `max_queued_events` unheard ones of a label are dropped."""
        if not requests:
            return []
        await self._load(requests)
        outcomes: list[Any] = []
        emitted: list[Event] = []
        for request in requests:
            try:
                emitted.append(self._event(request))
                outcomes.append({"success": True})
            except OrchestratorError as error:
                outcomes.append(error)
        await self._commits.submit(emitted)
        return outcomes

    async def _load(self, requests: Sequence[Request]) -> None:
        leases, job_ids = set(), set()
        for request in requests:
            if isinstance(request.data, Mapping):
                try:
                    leases.add(read_claim(request.data.get("authorizationMessage")).lease)
                except InvalidInput:
                    continue
                job_ids.add(request.data.get("job"))
        leases = self._core.leases.missing(leases)
        job_ids = {one for one in job_ids if isinstance(one, str) and self._core.catalog.cached(one) is None}
        if leases or job_ids:
            async with self._core.database.snapshot() as tx:
                await self._core.leases.load(tx, leases)
                for job_id in job_ids:
                    await self._core.catalog.find(tx, job_id)

    def _event(self, request: Request) -> Event:
        data = fields(request)
        label = str(data.get("eventName")).lower()
        payload = data.get("payload")
        if label not in EMITTED or not isinstance(payload, Mapping):
            raise InvalidInput(
                f"workEmit takes {', '.join(sorted(EMITTED))} with an object as payload, not {label!r:.40}"
            )
        job_id = data.get("job")
        job = self._core.catalog.cached(job_id) if isinstance(job_id, str) else None
        if job is None:
            raise NotFound(f"there is no job {job_id!r:.40}")
        lease = self._core.leases.check(read_claim(data.get("authorizationMessage")), request.peer)
        if lease is None or job.key not in lease.jobs:
            raise NotPermitted("the authorizationMessage does not cover this job")
        number = data.get("slice")
        if isinstance(number, bool) or not isinstance(number, int) or number < 1:
            raise InvalidInput("slice must be a slice number")
        content = {**payload, "job": job.id, "sliceNumber": number, "worker": lease.worker}
        if label == "console":
            content["message"] = _console_message(payload.get("message"))
        if label == "custom":
            content["data"] = plain_data(payload.get("data"))
        body = json.dumps(content, separators=(",", ":"))
        if len(body) > MAX_EVENT:
            raise InvalidInput(f"the event has {len(body)} characters, more than {MAX_EVENT}")
        return Event(job.key, label, number, body)

    async def _apply(self, emitted: Sequence[Event]) -> None:
        if self._core.cluster is not None:
            self._counts.clear()  # others queue and acknowledge, too
        async with self._core.database.transaction() as tx:
            kept = []
            for event in emitted:
                key = (event.job, event.label)
                if key not in self._counts:
                    if len(self._counts) > 10_000:
                        self._counts.clear()
                    self._counts[key] = await events.count(tx, *key)
                if self._counts[key] < self._core.settings.max_queued_events:
                    self._counts[key] += 1
                    kept.append(event)
            errors = {event.job: _error_text(event) for event in emitted if event.label == "error"}
            for job, text in sorted(errors.items()):
                await jobs.note_error(tx, job, text)
            fresh = await events.append(tx, kept)
        self._push(fresh)

    def statistics(self) -> dict[str, Any]:
        watches = [watch.statistics() for group in self._watches.values() for watch in group.values()]
        return {"watches": watches, "listeners": len(self._listeners)}


def _labels(data: Mapping[str, Any], name: str) -> list[str]:
    labels = data.get(name) or []
    if not isinstance(labels, list) or len(labels) > 50 or not all(isinstance(label, str) for label in labels):
        raise InvalidInput(f"{name} must be a list of event labels")
    return labels


def _console_message(message: Any) -> Any:
    """The marshalled arguments. A client unmarshals them whatever they are, so they must be there and be sound."""
    if message is None:
        return _UNDEFINED
    try:
        kvin.unmarshal(message, strict=True)
    except kvin.KvinError as error:
        raise InvalidInput(f"console payload.message cannot be decoded: {error.message}") from None
    return message


def _error_text(event: Event) -> str:
    content = json.loads(event.body or "{}")
    return f"{content.get('name', 'Error')}: {content.get('message', '')}"[:500]
