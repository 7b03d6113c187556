"""What the Scheduler says to its workers unasked: orders to end, jobs to prefer or to drop, announcements."""

from __future__ import annotations

import asyncio
import collections
import logging
import time
from collections.abc import Callable, Mapping
from typing import Any, Final

from orchestrator.errors import InvalidInput
from orchestrator.protocol.client import DcpClient
from orchestrator.protocol.errors import Congested, ConnectionClosed, RemoteError
from orchestrator.worker import supervisor_events as ev
from orchestrator.worker.scheduler_link.traffic import pause

log = logging.getLogger(__name__)

_SEEN_EVENTS: Final = 1000
_MOST_COMMANDS: Final = 60
_COMMANDS_WITHIN_S: Final = 60.0
_COMMANDS: Final = frozenset({"kill", "remove", "announce", "restart", "reload", "addPriorityJob", "removePriorityJob"})


class Orders:
    """`run` it. What concerns jobs goes to `tell`; commands are counted, and too many within a minute are ignored."""

    def __init__(
        self,
        client: DcpClient,
        router_url: str,
        worker_id: str,
        tell: Callable[[ev.Event], None],
        counts: collections.Counter[str],
    ) -> None:
        self.router = client.connect(router_url, on_request=self._on_request)
        """The connection to the event router, which serves events of slices, too."""
        self._worker_id = worker_id
        self._tell = tell
        self._counts = counts
        self._session_ended = asyncio.Event()
        self._tokens: set[str] = set()
        self._seen: collections.OrderedDict[str, None] = collections.OrderedDict()
        self._commanded: collections.deque[float] = collections.deque(maxlen=_MOST_COMMANDS)
        self.on_order: Callable[[str], None] = lambda _order: None
        """Told when the Scheduler says that the worker is to end: kill, disable or restart."""
        self.router.on_session_end(lambda _error: self._session_ended.set())

    async def run(self) -> None:
        """Subscribe to the Scheduler's messages to workers, again in each new session, until cancelled."""
        attempt = 0
        while True:
            self._session_ended.clear()
            try:
                await self._subscribe()
                attempt = 0
            except RemoteError as error:
                log.info("schedmsg_unavailable", extra={"error": str(error)})
            except (ConnectionClosed, Congested):
                attempt += 1
                await pause(attempt)
                continue
            await self._session_ended.wait()

    async def _subscribe(self) -> None:
        await self.router.request("keepalive", round(time.time() * 1000))
        mine = [{"target": self.router.peer}, {"target": self._worker_id}, {"broadcast": True}]
        answer = await self.router.request(
            "subscribeMany",
            {
                "schedmsgEvents": ["schedmsg::broadcast", "schedmsg::command"],
                "options": {"filter": {"$or": mine}},
            },
        )
        self._tokens = _tokens(answer)

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
            self._obey(body.get("command"), payload if isinstance(payload, Mapping) else {})
        return "success"

    def _obey(self, command: Any, payload: Mapping[str, Any]) -> None:
        if self._too_many() and command != "kill":
            self._counts["commands too many"] += 1
            return
        self._commanded.append(time.monotonic())
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

    def _too_many(self) -> bool:
        now = time.monotonic()
        while self._commanded and now - self._commanded[0] >= _COMMANDS_WITHIN_S:
            self._commanded.popleft()
        return len(self._commanded) >= _MOST_COMMANDS


def _tokens(answer: Any) -> set[str]:
    entries = answer.get("tokens") if isinstance(answer, Mapping) else None
    tokens = (
        entry.get("token") for entry in (entries if isinstance(entries, list) else ()) if isinstance(entry, Mapping)
    )
    return {token for token in tokens if isinstance(token, str)}
