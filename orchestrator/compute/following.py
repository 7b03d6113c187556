"""Hears of one job until it has ended: events as they come, and in the end the results that did not come as events."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any

from orchestrator.errors import Fault, OrchestratorError
from orchestrator.jobs import values, words
from orchestrator.protocol.client import ClientConnection, DcpClient
from orchestrator.protocol.errors import ConnectionClosed
from orchestrator.task_groups import TaskGroup

_LABELS = ("result", "status", "console", "error", "noprogress", "custom")
_FETCHED_AT_ONCE = 1000


class JobFailed(OrchestratorError):
    """The Scheduler stopped the job before it was finished. `code` is the Scheduler's."""

    code = "ECANCELLED"
    fault = Fault.JOB


@dataclasses.dataclass(frozen=True, slots=True)
class JobEvent:
    """What the Scheduler tells a job's owner. `data` is as on the wire; `value` is the decoded result of `result`.

    Each result is told once, also one that was fetched in the end. The first event of a job with redundancy is
    `confidence`: what that costs.
    """

    label: str
    data: Mapping[str, Any]
    value: Any = None


def services_of(config: Mapping[str, Any]) -> dict[str, str]:
    """Where the Scheduler's services are, by name; `config` is what it tells (`fetch_config`)."""
    return {name: entry["location"] for name, entry in config["scheduler"]["services"].items()}


class Following:
    """Inside `async with` the events of a job are heard, also of one that was deployed long ago or has ended.

    `on_event` is called for each. The client's identity must be the job's owner or payment account: others hear events
    and are given no results that they did not hear of.
    """

    def __init__(
        self,
        client: DcpClient,
        config: Mapping[str, Any],
        job_id: str,
        on_event: Callable[[JobEvent], None] = lambda _event: None,
    ) -> None:
        self.job_id = job_id
        self.results: dict[int, Any] = {}
        """by slice"""
        self._on_event = on_event
        self._identity = client.identity
        self._stopped: asyncio.Future[Mapping[str, Any]] = asyncio.get_running_loop().create_future()
        services = services_of(config)
        self._router = client.connect(services["eventRouter"], on_word=self._handle)
        self.result_service = client.connect(services["resultSubmitter"])
        self._session_ended = asyncio.Event()
        self._router.on_session_end(lambda _error: self._session_ended.set())

    async def __aenter__(self) -> Following:
        """Raises RemoteError with the code ENOENT when there is no such job."""
        try:
            await self._subscribe()
        except BaseException:
            await self._close()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self._close()

    async def _close(self) -> None:
        await self._router.close()
        await self.result_service.close()

    async def end(self) -> list[Any]:
        """Wait for the job's end and return its results in slice order; None for a slice that has none.

        Raises JobFailed when the Scheduler has cancelled the job.
        """
        try:
            async with TaskGroup() as group:
                resubscribing = group.create_task(self._subscribe_again())
                stop = await self._stopped
                resubscribing.cancel()
        except* OrchestratorError as group:  # what the caller is to catch comes alone
            raise group.exceptions[0] from None
        if stop.get("runStatus") != words.RunStatus.FINISHED:
            raise JobFailed(f"job {self.job_id} was stopped: {stop.get('reason')}", code=stop.get("code"))
        count = int(stop.get("sliceCount", len(self.results)))
        await self._fetch_missing(count)
        return [self.results.get(number) for number in range(1, count + 1)]

    async def _subscribe(self) -> None:
        await self._router.request(
            "subscribeMany",
            {
                "reliableEvents": ["stop", "nofunds"],
                "optionalEvents": list(_LABELS),
                "options": {"filter": {"job": self.job_id}},
            },
        )

    async def _subscribe_again(self) -> None:
        """A Scheduler that was restarted has forgotten the session, and with it who wants to hear."""
        while True:
            await self._session_ended.wait()
            self._session_ended.clear()
            with contextlib.suppress(ConnectionClosed):
                await self._subscribe()

    def _handle(self, operation: str, data: Any) -> str:
        if operation == "event":
            self._hear(data["event"]["data"])
        return "success"

    def _hear(self, data: Mapping[str, Any]) -> None:
        label = data["eventName"]
        if label == "result":
            self._take(int(data["sliceNumber"]), data, data["result"]["result"])
            return
        self._on_event(JobEvent(label, data))
        if label == "stop" and not self._stopped.done():
            self._stopped.set_result(data)

    def _take(self, number: int, data: Mapping[str, Any], uri: str) -> None:
        if number not in self.results:  # else it was sent again, because our acknowledgement was lost
            self.results[number] = value = decode(uri)
            self._on_event(JobEvent("result", data, value))

    async def _fetch_missing(self, count: int) -> None:
        missing = [number for number in range(1, count + 1) if number not in self.results]
        for start in range(0, len(missing), _FETCHED_AT_ONCE):
            wanted = missing[start : start + _FETCHED_AT_ONCE]
            for number, uri in await fetch(self.result_service, self.job_id, self._identity.address, wanted):
                self._take(number, {"eventName": "result", "job": self.job_id, "sliceNumber": number}, uri)


async def fetch(results: ClientConnection, job_id: str, owner: str, numbers: list[int]) -> list[tuple[int, str]]:
    """(slice, URI) of those results that are there; none at all for somebody who is not the job's `owner`."""
    wish = {"job": job_id, "owner": owner, "range": numbers}
    found = await results.request("fetchResult", wish)
    return [(int(entry["slice"]), values.decode_uri_component(entry["value"])) for entry in found if entry]


def decode(uri: str) -> Any:
    """The value behind a result URI. URLs are left as they are."""
    return values.value_of_uri(uri) if uri.startswith("data:") else uri
