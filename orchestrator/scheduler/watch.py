"""One client listening to one job: what it subscribed to, what is on its way, and when it may hear of the end.

Events with a row are sent until they are acknowledged. `status` and `nofunds` are made from the job's state when they
are sent, so that counts are always of now and a slow client gets fewer. `stop` is held back while the client may still
be deploying and then repeated: a client that is not ready for it acknowledges it all the same and would wait for ever
(observed with dcp-client 5.6.1).
"""

from __future__ import annotations

import asyncio
import collections
import dataclasses
import functools
import itertools
import json
import secrets
from collections.abc import Callable, Collection, Iterable
from typing import Any

from orchestrator.database import persistently
from orchestrator.jobs.words import RunStatus
from orchestrator.protocol.errors import Congested, ConnectionClosed, RemoteError
from orchestrator.protocol.server import ServerConnection
from orchestrator.scheduler import messages
from orchestrator.scheduler.blobs import BlobAway, size_of
from orchestrator.scheduler.catalog import Job
from orchestrator.scheduler.core import Core
from orchestrator.scheduler.store import events
from orchestrator.scheduler.store.events import Event
from orchestrator.scheduler.store.jobs import JobState
from orchestrator.task_groups import TaskGroup

PAGE = 500
"""events read from the database at once"""
MOST_QUEUED = 2000
"""events of a label that wait in memory; more stay in the database"""
IN_FLIGHT_SIZE = 8_000_000
"""characters of events on their way to one client"""
UNREADY_S = 10.0
"""a client that has not finished deploying by then hears of the end anyway"""
NOFUNDS_S = 1.0
"""least time between two nofunds events of a job: each pile of inputs changes the amount"""
CONGESTED_S = 0.1
LONGEST_REPEAT_S = 60.0
SILENT_S = 0.5
"""a client that answers nothing for so long is taken to be gone, when the Scheduler stops"""

_STATES = frozenset({"status", "nofunds", "stop"})
"""labels without rows: they are made from the job's state"""

_serials = itertools.count(1)
_PROCESS = secrets.token_hex(6)


def fresh_event_id() -> str:
    """Never used before, not by an earlier process either: clients drop ids that they have seen."""
    return f"{_PROCESS}-{next(_serials)}"


@dataclasses.dataclass(slots=True)
class Channel:
    """A subscribed label. Rows up to `cursor` were read."""

    label: str
    token: str
    cursor: int = 0
    queue: collections.deque[Event] = dataclasses.field(default_factory=collections.deque)
    behind: bool = True
    """the database may hold rows after the cursor"""
    missed: bool = False
    """an event came while rows were being read"""
    in_flight: int = 0

    @property
    def drained(self) -> bool:
        return not self.behind and not self.queue and self.in_flight == 0


class Watch:
    """`run()` delivers until the client unsubscribes or its connection ends."""

    def __init__(
        self,
        core: Core,
        job: Job,
        state: JobState,
        connection: ServerConnection,
        *,
        acknowledged: Callable[[Event], None],
        is_acknowledged: Callable[[int], bool],
        answered_at: Callable[[], float],
    ) -> None:
        self.job = job
        self.connection = connection
        self.channels: dict[str, Channel] = {}
        self.notes = 0
        """how often the job's state was told"""
        self._core = core
        self._state = state
        self._acknowledged = acknowledged
        self._is_acknowledged = is_acknowledged
        self._answered_at = answered_at
        self._wake = asyncio.Event()
        self._closed = False
        self._paused = False
        self._answer = asyncio.Event()
        self._in_flight = 0
        self._in_flight_size = 0
        self._pause_until = 0.0
        self._subscribed_at = 0.0
        self._status_dirty = False
        self._status_in_flight = False
        self._status_at = float("-inf")
        self._last_status: dict[str, Any] | None = None
        self._nofunds_in_flight = False
        self._nofunds_at = float("-inf")
        self._last_nofunds: tuple[int | None, dict[str, Any]] | None = None
        self._stops = 0
        self._next_stop_at = 0.0

    def subscribe(self, label: str) -> str:
        """The label's token; the same one when it is subscribed already."""
        self._subscribed_at = asyncio.get_running_loop().time()
        channel = self.channels.get(label)
        if channel is None:
            channel = self.channels[label] = Channel(label, secrets.token_urlsafe(12))
            channel.behind = label not in _STATES
            self._status_dirty |= label == "status"
        self._wake.set()
        return channel.token

    def unsubscribe(self, label: str) -> None:
        self.channels.pop(label, None)
        if not self.channels:
            self.close()

    def close(self) -> None:
        self._closed = True
        self._answer.set()
        self._wake.set()

    @property
    def closed(self) -> bool:
        return self._closed

    async def drain(self) -> None:
        """Send nothing new, and wait until the client has answered to everything that was sent, or is silent."""
        self._paused = True
        self._wake.set()
        while not self._is_idle:
            self._answer.clear()
            try:
                async with asyncio.timeout(SILENT_S):
                    await self._answer.wait()
            except TimeoutError:
                return

    @property
    def _is_idle(self) -> bool:
        sending = (
            self._in_flight
            or self._status_in_flight
            or self._nofunds_in_flight
            or any(one.in_flight for one in self.channels.values())
        )
        return self._closed or not sending

    def push(self, fresh: Iterable[Event]) -> None:
        """Events that were just committed, in the order of their ids."""
        for event in fresh:
            channel = self.channels.get(event.label)
            if channel is None:
                continue
            if channel.behind or len(channel.queue) >= MOST_QUEUED:
                channel.behind = channel.missed = True
            elif event.id > channel.cursor:
                channel.queue.append(event)
                channel.cursor = event.id
        self._wake.set()

    def look(self, labels: Collection[str] | None) -> None:
        """The database has events that were not pushed: of these labels, or of any."""
        for channel in self.channels.values():
            if channel.label not in ("status", "stop") and (labels is None or channel.label in labels):
                channel.behind = channel.missed = True
        self._wake.set()

    def note(self, state: JobState) -> None:
        """The job changed. Whoever committed first may tell of it last: what was before an end does not undo it."""
        self.notes += 1
        if self._state.ended_at is not None and state.ended_at is None:
            return
        self._state = state
        self._status_dirty = True
        self._wake.set()

    async def run(self) -> None:
        try:
            async with TaskGroup() as group:
                while not self._closed:
                    self._wake.clear()
                    await self._read()
                    pause = self._dispatch(group)
                    await self._sleep(pause)
                raise _Over
        except* _Over:
            pass

    async def _sleep(self, pause: float | None) -> None:
        try:
            async with asyncio.timeout(pause):
                await self._wake.wait()
        except TimeoutError:
            pass

    async def _read(self) -> None:
        """Bring rows that were not pushed, a page at a time."""
        for channel in list(self.channels.values()):
            if not channel.behind or channel.queue or self._is_full:
                continue
            channel.missed = False
            rows = await persistently(functools.partial(self._page, channel))
            if rows:
                channel.cursor = rows[-1].id
                channel.queue.extend(row for row in rows if not self._is_acknowledged(row.id))
            channel.behind = len(rows) == PAGE or channel.missed

    async def _page(self, channel: Channel) -> list[Event]:
        async with self._core.database.snapshot() as tx:
            return await events.queued(tx, self.job.key, channel.label, channel.cursor, PAGE)

    @property
    def _is_full(self) -> bool:
        return self._in_flight >= self._core.settings.event_window or self._in_flight_size >= IN_FLIGHT_SIZE

    def _dispatch(self, group: TaskGroup) -> float | None:
        """Start sending what may be sent now; seconds until something else may, None when only a wake-up helps."""
        now = asyncio.get_running_loop().time()
        if self._paused:
            return None
        if now < self._pause_until:
            return self._pause_until - now
        for channel in self.channels.values():
            while channel.queue and not self._is_full:
                event = channel.queue.popleft()
                self._start(channel, event)
                group.create_task(self._deliver(channel, event))
        if any(channel.behind and not channel.queue for channel in self.channels.values()) and not self._is_full:
            return 0.0
        pauses = (self._status(group, now), self._nofunds(group, now), self._stop(group, now))
        return min((pause for pause in pauses if pause is not None), default=None)

    def _start(self, channel: Channel, event: Event) -> None:
        channel.in_flight += 1
        self._in_flight += 1
        self._in_flight_size += _size(event)

    async def _deliver(self, channel: Channel, event: Event) -> None:
        again = event
        try:
            heard = await self._send(channel.token, f"e{event.id}", await self._content(event))
        except BlobAway as error:
            # Later, perhaps; a value that is gone for good is told as one that is not there.
            again = event if error.retryable else dataclasses.replace(event, uri=None)
            heard = False
        self._answer.set()
        channel.in_flight -= 1
        self._in_flight -= 1
        self._in_flight_size -= _size(event)
        if heard:
            self._acknowledged(event)
        elif not self._closed:
            channel.queue.appendleft(again)
            self._pause_until = asyncio.get_running_loop().time() + CONGESTED_S
        if not channel.queue or self._in_flight < self._core.settings.event_window // 2:
            self._wake.set()

    async def _content(self, event: Event) -> dict[str, Any]:
        if event.label == "result":
            return messages.result_event(
                self.job.id,
                event.number or 0,
                await self._core.blobs.resolve(self.job.id, event.uri or messages.DEV_NULL),
            )
        content: dict[str, Any] = json.loads(event.body or "{}")
        return content | {"eventName": event.label}

    async def _send(self, token: str, event_id: str, content: dict[str, Any]) -> bool:
        """True when the client has heard of it. An error answer counts: it says that the client knows the event
        already, or has no use for it."""
        request = {"token": token, "event": {"eventId": event_id, "data": content}}
        try:
            await self.connection.request("event", request)
        except RemoteError:
            return True
        except Congested:
            return False
        except ConnectionClosed:
            self.close()
            return False
        return True

    def _status(self, group: TaskGroup, now: float) -> float | None:
        channel = self.channels.get("status")
        if channel is None or not self._status_dirty or self._status_in_flight:
            return None
        content = messages.status_event(self.job, self._state)
        if content == self._last_status:
            self._status_dirty = False
            return None
        wait = self._status_at + self._core.settings.status_interval_s - now
        if wait > 0 and self._state.ended_at is None:
            return wait
        self._status_dirty = False
        self._status_in_flight = True
        self._status_at = now
        self._last_status = content
        group.create_task(self._deliver_status(channel, content))
        return None

    async def _deliver_status(self, channel: Channel, content: dict[str, Any]) -> None:
        if not await self._send(channel.token, fresh_event_id(), content):
            self._status_dirty, self._last_status = True, None
            self._pause_until = asyncio.get_running_loop().time() + CONGESTED_S
        self._status_in_flight = False
        self._answer.set()
        self._wake.set()

    def _nofunds(self, group: TaskGroup, now: float) -> float | None:
        """Tell that the job waits for funds: once for each amount that is lacking, and again after money came that was
        not enough. A slice that comes back and goes out again is nothing new."""
        channel = self.channels.get("nofunds")
        if channel is None or self._nofunds_in_flight or self._state.status is not RunStatus.PAUSED:
            return None
        content = messages.nofunds_event(self.job, self._state)
        if (self._state.funded, content) == self._last_nofunds:
            return None
        wait = self._nofunds_at + NOFUNDS_S - now
        if wait > 0:
            return wait
        self._nofunds_in_flight = True
        self._nofunds_at = now
        self._last_nofunds = (self._state.funded, content)
        group.create_task(self._deliver_nofunds(channel, content))
        return None

    async def _deliver_nofunds(self, channel: Channel, content: dict[str, Any]) -> None:
        if not await self._send(channel.token, fresh_event_id(), content):
            self._last_nofunds = None
            self._pause_until = asyncio.get_running_loop().time() + CONGESTED_S
        self._nofunds_in_flight = False
        self._answer.set()
        self._wake.set()

    def _stop(self, group: TaskGroup, now: float) -> float | None:
        """Tell of the end once everything else was heard."""
        channel = self.channels.get("stop")
        if channel is None or self._state.ended_at is None or channel.in_flight:
            return None
        waiting = self._status_in_flight or ("status" in self.channels and self._status_dirty)
        if waiting or not all(one.drained for label, one in self.channels.items() if label not in _STATES):
            return None
        wait = max(self._settled_at(), self._next_stop_at) - now
        if wait > 0:
            return wait
        self._stops += 1
        repeat = self._core.settings.stop_repeat_s
        self._next_stop_at = now + min(repeat * 2 ** max(0, self._stops - 3), LONGEST_REPEAT_S)
        channel.in_flight += 1
        group.create_task(self._deliver_stop(channel))
        return None

    def _settled_at(self) -> float:
        """From when on the client can be taken to have its handler for `stop` in place."""
        settings = self._core.settings
        settled = max(self._answered_at(), self._subscribed_at) + settings.stop_settle_s
        if self._state.admitted and self._state.closed:
            return settled
        return max(settled, self._subscribed_at + UNREADY_S)

    async def _deliver_stop(self, channel: Channel) -> None:
        await self._send(channel.token, fresh_event_id(), messages.stop_event(self.job, self._state))
        self._answer.set()
        channel.in_flight -= 1
        self._wake.set()

    def statistics(self) -> dict[str, Any]:
        return {
            "job": self.job.id,
            "labels": sorted(self.channels),
            "queued": sum(len(channel.queue) for channel in self.channels.values()),
            "in_flight": self._in_flight,
            "stops": self._stops,
        }


class _Over(Exception):
    """Ends the task group of a watch, sends included."""


def _size(event: Event) -> int:
    return 200 + size_of(event.uri or "") + len(event.body or "")
