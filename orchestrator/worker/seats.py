"""Sandboxes at work: taken from the pool, assigned to jobs, and what they report turned into events."""

from __future__ import annotations

import asyncio
import base64
import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from orchestrator import telemetry
from orchestrator.errors import OrchestratorError
from orchestrator.task_groups import TaskGroup
from orchestrator.worker import sandbox_events as sb
from orchestrator.worker import supervisor_events as ev
from orchestrator.worker.artifacts import Artifacts, Modules
from orchestrator.worker.fetching.fetcher import Errand, Fetcher
from orchestrator.worker.limits import SliceLimits
from orchestrator.worker.metering import Usage
from orchestrator.worker.owned_tasks import OwnedTasks
from orchestrator.worker.pool import SandboxPool
from orchestrator.worker.sandbox import Sandbox

log = logging.getLogger(__name__)

_DEATHS: dict[sb.DeathKind, ev.Death] = {
    sb.DeathKind.OOM: ev.Death.OUT_OF_MEMORY,
    sb.DeathKind.FLOOD: ev.Death.FLOOD,
    sb.DeathKind.EXIT: ev.Death.EXIT,
    sb.DeathKind.KILLED: ev.Death.KILLED,
    sb.DeathKind.PROTOCOL: ev.Death.PROTOCOL,
    sb.DeathKind.DAEMON_LOST: ev.Death.RUNTIME_LOST,
}
_DEADLINES = {"ENOPROGRESS": ev.Death.NO_PROGRESS, "ESLICETOOSLOW": ev.Death.TOO_SLOW}
_MOST_RETRIES = 10
_GUEST_FETCHES_AT_ONCE = 4
#: Fetches of one sandbox that wait for their turn; a browser would let a page wait, too, but not without end.
_MOST_GUEST_FETCHES = 256


def death_of(cause: sb.DeathCause) -> ev.Death:
    """The cause as the supervisor distinguishes it."""
    if cause.kind is sb.DeathKind.DEADLINE:
        return _DEADLINES.get(cause.code, ev.Death.PROTOCOL)
    return _DEATHS[cause.kind]


class _Seat:
    """One sandbox at work, from the wish for it to its removal."""

    def __init__(self, number: int, job_id: str, artifacts: Artifacts, errand: Errand) -> None:
        self.number = number
        self.job_id = job_id
        self.artifacts = artifacts
        self.errand = errand
        self.fetching = 0
        self.fetches = asyncio.Semaphore(_GUEST_FETCHES_AT_ONCE)
        self.sandbox: Sandbox | None = None  # once the job is assigned
        self.task: asyncio.Task[None] | None = None
        self.ended: sb.SandboxEnded | None = None
        self.closing = False


class Seats:
    """`tasks` are the owner's. Events go to `tell`, in batches, from the event loop."""

    def __init__(
        self,
        pool: SandboxPool,
        fetcher: Fetcher,
        tasks: OwnedTasks,
        tell: Callable[[Sequence[ev.Event]], None],
        limits: SliceLimits,
        *,
        assign_s: float | None = None,
    ) -> None:
        self._pool = pool
        self._fetcher = fetcher
        self._tasks = tasks
        self._tell = tell
        self._limits = limits
        self._assign_s = assign_s
        self._seats: dict[int, _Seat] = {}

    def limit(self, limits: SliceLimits, assign_s: float) -> None:
        """For jobs that are assigned from now on."""
        self._limits, self._assign_s = limits, assign_s

    def open(self, number: int, job_id: str, artifacts: Artifacts, errand: Errand) -> None:
        seat = self._seats[number] = _Seat(number, job_id, artifacts, errand)
        seat.task = self._tasks.create_task(self._occupy(seat), name=f"sandbox-{number}")

    def submit(self, number: int, slices: Sequence[tuple[int, str]]) -> None:
        seat = self._seats.get(number)
        if seat is not None and seat.sandbox is not None:
            for key, uri in slices:
                seat.sandbox.submit(key, uri)

    def close(self, number: int, reason: str) -> None:
        seat = self._seats.pop(number, None)
        if seat is None or seat.task is None:
            return
        log.debug("sandbox_closed", extra={"sandbox": number, "job": seat.job_id, "reason": reason})
        seat.closing = True
        seat.task.cancel()

    def usage(self) -> dict[int, Usage]:
        """What the sandboxes at work have used, by number: CPU time in all, memory of this moment."""
        return {seat.number: seat.sandbox.glance() for seat in self._seats.values() if seat.sandbox is not None}

    # -- one seat --------------------------------------------------------------------------------------------------

    async def _occupy(self, seat: _Seat) -> None:
        sandbox: Sandbox | None = None
        try:
            sandbox = await self._pool.take()
            async with OwnedTasks() as errands, TaskGroup() as group:
                group.create_task(self._read(seat, sandbox, errands))
                await self._assign(seat, sandbox)
        finally:
            self._seats.pop(seat.number, None)
            if sandbox is not None:
                await sandbox.kill()

    async def _assign(self, seat: _Seat, sandbox: Sandbox) -> None:
        try:
            await sandbox.assign(seat.artifacts.assignment, self._limits, self._assign_s)
        except sb.SandboxRefused as refused:
            self._tell([ev.SandboxRefusedJob(seat.number, refused.error)])
        except sb.SandboxDied as died:
            self._tell([ev.SandboxEnded(seat.number, death_of(died.cause), died.cause.detail)])
        else:
            seat.sandbox = sandbox
            self._tell([ev.SandboxOpened(seat.number)])
            if seat.ended is not None:
                self._tell([self._ended(seat, seat.ended)])

    async def _read(self, seat: _Seat, sandbox: Sandbox, errands: OwnedTasks) -> None:
        """Turn the sandbox's events into the supervisor's, until it ends. `errands` are its fetches: they end then."""
        async for batch in sandbox.batches():
            events: list[ev.Event] = []
            for event in batch:
                match event:
                    case sb.FetchRequested():
                        self._begin_fetch(seat, sandbox, event, errands)
                    case sb.ModulesRequested():
                        _answer_modules(sandbox, event, seat.artifacts.modules)
                    case sb.SandboxEnded():
                        telemetry.sandboxes_ended.add(1, {"cause": str(event.cause.kind)})
                        seat.ended = event
                        if seat.sandbox is not None:
                            events.append(self._ended(seat, event))
                    case _:
                        events.append(_translated(seat.number, event))
            if events and not seat.closing:
                _count(events)
                self._tell(events)

    def _ended(self, seat: _Seat, event: sb.SandboxEnded) -> ev.SandboxEnded:
        log.info("sandbox_ended", extra={"sandbox": seat.number, "job": seat.job_id, "cause": str(event.cause)})
        return ev.SandboxEnded(seat.number, death_of(event.cause), event.cause.detail, event.running_metrics)

    def _begin_fetch(self, seat: _Seat, sandbox: Sandbox, event: sb.FetchRequested, errands: OwnedTasks) -> None:
        if seat.fetching >= _MOST_GUEST_FETCHES:
            message = f"more than {_MOST_GUEST_FETCHES} fetches wait for an answer"
            sandbox.answer_fetch(event.request_id, None, {"name": "TypeError", "message": message, "code": "EBUSY"})
            return
        seat.fetching += 1
        errands.create_task(self._fetch_for(seat, sandbox, event))

    async def _fetch_for(self, seat: _Seat, sandbox: Sandbox, event: sb.FetchRequested) -> None:
        """A `fetch` of the work function: done here, under the owner's rules; the sandbox has no network."""
        try:
            async with seat.fetches:
                fetched = await self._fetcher.for_guest(event.data, seat.errand)
        except OrchestratorError as error:
            failure = {"name": "TypeError", "message": error.message, "code": error.code}
            sandbox.answer_fetch(event.request_id, None, failure)
            return
        finally:
            seat.fetching -= 1
        response = {
            "url": fetched.url,
            "status": fetched.status,
            "statusText": fetched.reason,
            "headersEntries": [list(pair) for pair in fetched.headers],
            "bodyBase64": base64.b64encode(fetched.body).decode(),
        }
        sandbox.answer_fetch(event.request_id, response)


def _answer_modules(sandbox: Sandbox, event: sb.ModulesRequested, modules: Modules) -> None:
    """Everything that the package manager gave for the job's dependencies was fetched before; nothing else is."""
    if modules:
        sandbox.answer_modules(event.request_id, modules)
    else:
        sandbox.answer_modules(event.request_id, None, f"no module {', '.join(event.names)[:200]}")


def _translated(number: int, event: sb.SandboxEvent) -> ev.Event:
    match event:
        case sb.SliceCompleted(key, result, metrics, progressed):
            return ev.SliceCompleted(number, key, result, len(result.string), metrics, progressed)
        case sb.SliceFailed(key, error, metrics, _progressed, bad_datum):
            return ev.SliceFailed(number, key, error, metrics, bad_datum)
        case sb.SliceRejected(key, reason, retries, metrics):
            return ev.SliceRejected(number, key, _short(reason), _retries(retries), metrics)
        case sb.Progress(key, fraction):
            return ev.Progressed(number, key, fraction)
        case sb.Console(key, level, message, same):
            return ev.SliceSpoke(number, key, "console", {"level": level, "message": message, "same": same})
        case sb.CustomEvent(key, name, data):
            payload = {"eventName": "custom", "customEvent": name, "data": data}
            return ev.SliceSpoke(number, key, "custom", payload)
    raise AssertionError(f"{type(event).__name__} is not about a slice")


def _count(events: Sequence[ev.Event]) -> None:
    outcomes = {ev.SliceCompleted: "completed", ev.SliceFailed: "threw", ev.SliceRejected: "rejected"}
    totals: dict[str, int] = {}
    cpu_s = 0.0
    bytes_in = bytes_out = 0
    for event in events:
        if isinstance(event, ev.SliceCompleted | ev.SliceFailed | ev.SliceRejected):
            outcome = outcomes[type(event)]
            totals[outcome] = totals.get(outcome, 0) + 1
            cpu_s += event.metrics.cpu_time_s
            bytes_in += event.metrics.bytes_in
            bytes_out += event.metrics.bytes_out
            telemetry.slice_wall_time.record(event.metrics.wall_time_s)
            telemetry.slice_peak_memory.record(event.metrics.peak_memory_bytes)
    for outcome, total in totals.items():
        telemetry.slices_ended.add(total, {"outcome": outcome})
    if totals:
        telemetry.slice_cpu_time.add(cpu_s)
        telemetry.slice_bytes.add(bytes_in, {"direction": "in"})
        telemetry.slice_bytes.add(bytes_out, {"direction": "out"})


def _short(reason: Any) -> str:
    return "" if reason is None else str(reason)[:1000]


def _retries(retries: Any) -> int:
    return min(max(int(retries), 0), _MOST_RETRIES) if isinstance(retries, int) else 0


def described_worktimes(worktimes: Sequence[Mapping[str, str]], name: str) -> str:
    """The newest version of a worktime that sandboxes have."""
    versions = [one["version"] for one in worktimes if one["name"] == name]
    return max(versions, key=lambda version: [int(part) for part in version.split(".") if part.isdigit()], default="")
