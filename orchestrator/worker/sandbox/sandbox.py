"""The whole of a sandbox: started, assigned, given slices, heard, and ended."""

from __future__ import annotations

import asyncio
import collections
import contextlib
import enum
import logging
import secrets
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from orchestrator import kvin
from orchestrator.worker import evaluator_messages as said
from orchestrator.worker import line_protocol as lines
from orchestrator.worker import sandbox_events as ev
from orchestrator.worker.docker_runtime import (
    STDERR,
    Container,
    ContainerGone,
    ContainerRefused,
    DockerRuntime,
    RuntimeUnavailable,
)
from orchestrator.worker.limits import KIB, OutputLimits, SandboxLimits, SliceLimits, StartLimits
from orchestrator.worker.metering import MeterTotals, Phase, Reconciliation, Usage
from orchestrator.worker.sandbox import ending, requests
from orchestrator.worker.sandbox.ending import Ending
from orchestrator.worker.sandbox.event_queue import EventQueue
from orchestrator.worker.sandbox.meter import SandboxMeter
from orchestrator.worker.sandbox.pipeline import Pipeline
from orchestrator.worker.sandbox_events import DeathCause, DeathKind, SandboxDied, SandboxRefused

log = logging.getLogger(__name__)

_STDERR_KEPT: Final = 8 * KIB
_NOTES_KEPT: Final = 20
#: A runtime of several processes (gVisor) may lose one to the kernel and hang.
_OOM_PATIENCE_S: Final = 1.0


class State(enum.StrEnum):
    STARTING = "starting"
    READY = "ready"
    ASSIGNING = "assigning"
    WORKING = "working"
    ENDING = "ending"
    ENDED = "ended"


@dataclass(frozen=True)
class SandboxSettings:
    limits: SandboxLimits | None = None
    """None takes the runtime's."""
    output: OutputLimits = field(default_factory=OutputLimits)
    start: StartLimits = field(default_factory=StartLimits)


class Sandbox:
    """Made by `Sandbox.start`; bound to one job by `assign`; ended by itself, by a limit, or by `kill`.

    `events` ends with `SandboxEnded`. However it ends, its container and cgroup are removed by a task of the runtime's,
    whoever is cancelled meanwhile.
    """

    def __init__(self, runtime: DockerRuntime, settings: SandboxSettings | None = None) -> None:
        self.id = secrets.token_hex(8)
        self.settings = settings or SandboxSettings()
        self.state = State.STARTING
        self.description: said.Described | None = None
        self.story: list[tuple[float, str]] = []
        self.stderr = b""
        """The last bytes it wrote to standard error. Untrusted text."""
        self.notes: collections.deque[said.Noted] = collections.deque(maxlen=_NOTES_KEPT)
        self.books: Reconciliation | None = None
        """Once it has ended: its slices and overhead against what the kernel charged."""
        self._runtime = runtime
        self._loop = asyncio.get_running_loop()
        self._container: Container | None = None
        self._reader = lines.OutputReader(self.settings.output, kvin.unmarshal)
        self._stderr_bytes = 0
        self._stderr_frames = lines.Bucket(self.settings.output.frames_per_s, self.settings.output.frames_burst)
        self._meter = SandboxMeter()
        self._events = EventQueue(self._hush, self._hear)
        self._pipeline = Pipeline(
            self.id,
            runtime,
            self._meter,
            self._events,
            alive=lambda: self.alive,
            end=self._begin_end,
            on_other=self._on_message,
        )
        self._reply: asyncio.Future[said.Message] | None = None
        self._cause: DeathCause | None = None
        self._closed = asyncio.Event()
        self._end_listeners: list[Callable[[Sandbox], None]] = []

    # -- start and assignment

    @classmethod
    async def start(
        cls,
        runtime: DockerRuntime,
        settings: SandboxSettings | None = None,
        *,
        entrypoint: Sequence[str] | None = None,
        image: str | None = None,
    ) -> Sandbox:
        """A started sandbox that has described itself.

        Raises SandboxDied, RuntimeUnavailable, ContainerRefused; then, and when cancelled, nothing of it stays.
        """
        sandbox = cls(runtime, settings)
        await sandbox._start(entrypoint, image)
        return sandbox

    async def _start(self, entrypoint: Sequence[str] | None, image: str | None) -> None:
        self._tell("create")
        self._container = await self._runtime.launch(
            self.id, self, limits=self.settings.limits, entrypoint=entrypoint, image=image
        )
        self._meter.attach(self._container)
        self._tell("started")
        self._container.on_oom = self._on_oom
        if self.state is State.ENDING:  # it broke a rule before launch had returned
            self._finish_later()
        try:
            reply = await self._ask(requests.DESCRIBE, self.settings.start.describe_s, "ESTARTTIMEOUT")
        except BaseException:
            self._begin_end(DeathCause(DeathKind.KILLED, "its start was given up"))
            raise
        assert isinstance(reply, said.Described)
        self.description = reply
        if reply.pipeline_depth == 0:
            cause = DeathCause(DeathKind.PROTOCOL, "the evaluator does not offer pipelining", code="ENOPIPELINE")
            self._begin_end(cause)
            raise SandboxDied(cause)
        self._meter.enter(Phase.IDLE)
        self._pipeline.open(self._container.stream.write, reply.pipeline_depth)
        self.state = State.READY
        self._tell("ready")

    async def assign(
        self, assignment: ev.Assignment, limits: SliceLimits | None = None, timeout_s: float | None = None
    ) -> None:
        """Bind it to a job. `limits` hold for every slice that does not bring its own; `timeout_s` for this alone.

        Raises SandboxRefused (with the job's error; the sandbox is then being removed) or SandboxDied. When
        cancelled, the sandbox is in no useful state: kill it.
        """
        if self.state is not State.READY:
            raise SandboxDied(self._cause or DeathCause(DeathKind.KILLED, f"it is {self.state}"))
        self.state = State.ASSIGNING
        self._meter.enter(Phase.ASSIGN)
        self._pipeline.limits = limits or self._pipeline.limits
        reply = await self._ask(
            requests.assign(assignment), timeout_s or self.settings.start.assign_s, "EASSIGNTIMEOUT"
        )
        if isinstance(reply, said.Refused):
            self._begin_end(DeathCause(DeathKind.KILLED, "it refused the job", code="EASSIGN"))
            raise SandboxRefused(reply.error)
        self._meter.enter(Phase.IDLE)
        self.state = State.WORKING
        self._tell(f"assigned to job {assignment.job_id}")

    async def _ask(self, text: bytes, timeout_s: float, code: str) -> said.Message:
        """Send a request before any slice and wait for its reply."""
        if self._cause is not None or self._container is None:
            raise SandboxDied(self._cause or DeathCause(DeathKind.KILLED, "it has no container"))
        self._reply = self._loop.create_future()
        self._container.stream.write(text)
        try:
            async with asyncio.timeout(timeout_s):
                return await self._reply
        except TimeoutError:
            cause = DeathCause(DeathKind.DEADLINE, f"no answer within {timeout_s:g} s while {self.state}", code=code)
            self._begin_end(cause)
            raise SandboxDied(cause) from None
        finally:
            self._reply = None

    # -- slices

    @property
    def pipeline_depth(self) -> int:
        return self.description.pipeline_depth if self.description is not None else 0

    @property
    def in_flight(self) -> int:
        return len(self._pipeline)

    @property
    def alive(self) -> bool:
        return self._cause is None and self.state not in (State.ENDING, State.ENDED)

    def submit(self, slice_key: int, datum_uri: str, limits: SliceLimits | None = None) -> None:
        """Queue a slice. Answers come as events, in the order of submission. Submitting to an ended sandbox is allowed:

        the key is among `SandboxEnded.unfinished` if that event has not been queued yet, and is otherwise ignored.
        """
        self._pipeline.submit(slice_key, datum_uri, limits)

    def answer_fetch(
        self, request_id: Any, data: Mapping[str, Any] | None, error: Mapping[str, Any] | None = None
    ) -> None:
        """Reply to FetchRequested: `data` {url, status, statusText, headersEntries, bodyBase64}, or {message, code}.

        What comes in this way is input of the slice that runs.
        """
        line = requests.fetched(request_id, data) if error is None else requests.not_fetched(request_id, error)
        if self._write(line):
            self._pipeline.charge_input(len(line))

    def answer_modules(self, request_id: Any, group: Mapping[str, Any] | None, error: str = "") -> None:
        """Reply to ModulesRequested: `group` {package: {file: source}}, or None and what went wrong."""
        if group is not None:
            self._write(requests.modules(request_id, group))
        else:
            self._write(requests.no_modules(request_id, error))

    def _write(self, line: bytes) -> bool:
        """Whether it was written: not when it has ended."""
        if self._container is None or not self.alive:
            return False
        self._container.stream.write(line)
        return True

    # -- output (called by the attached stream)

    def output(self, stream: int, data: bytes, frames: int) -> None:
        if self._cause is not None:
            return
        now = self._loop.time()
        try:
            if stream == STDERR:
                self._on_stderr(data, frames, now)
            else:
                self._pipeline.take(self._reader.feed(data, frames, now), now)
        except said.Violation as violation:
            self._begin_end(DeathCause(DeathKind(violation.kind), violation.detail))

    def _on_stderr(self, data: bytes, frames: int, now: float) -> None:
        self.stderr = (self.stderr + data)[-_STDERR_KEPT:]
        self._stderr_bytes += len(data)
        limit = self.settings.output.stderr_bytes
        if self._stderr_bytes > limit:
            raise said.Violation("flood", f"more than {limit} bytes on standard error")
        if not self._stderr_frames.take(frames, now):
            raise said.Violation("flood", "too many small writes to standard error")

    def _on_message(self, message: said.Message) -> None:
        """What concerns no slice."""
        if isinstance(message, said.Noted):
            self.notes.append(message)
        elif isinstance(message, (said.Described, said.Assigned, said.Refused)):
            self._on_reply(message)
        elif isinstance(message, said.ModulesAsked):
            self._events.put(ev.ModulesRequested(message.request_id, message.names))

    def _on_reply(self, message: said.Described | said.Assigned | said.Refused) -> None:
        expected = said.Described if self.state is State.STARTING else (said.Assigned, said.Refused)
        if self._reply is not None and not self._reply.done() and isinstance(message, expected):
            self._reply.set_result(message)
        elif isinstance(message, said.Refused):
            name, text = message.error.get("name"), message.error.get("message")
            self._begin_end(DeathCause(DeathKind.EXIT, f"the evaluator gave up: {name}: {text}"))
        else:
            raise said.Violation("protocol", f"{type(message).__name__} that nobody asked for")

    # -- events

    def batches(self) -> AsyncIterator[list[ev.SandboxEvent]]:
        """Events as they come, all that are there at once. Ends after SandboxEnded. For one consumer."""
        return self._events.batches()

    def events(self) -> AsyncIterator[ev.SandboxEvent]:
        """Events one by one, in order. Ends after SandboxEnded. For one consumer, instead of `batches`."""
        return self._events.one_by_one()

    def _hush(self) -> bool:
        if self._container is None:
            return False
        self._container.stream.pause()
        return True

    def _hear(self, after_s: float) -> None:
        # The guest could not be heard while we did not read: its clock stood still.
        self._pipeline.excuse(after_s)
        if self._container is not None:
            self._container.stream.resume()

    # -- the end

    async def kill(self, cause: DeathCause | None = None) -> None:
        """End it and wait until its container is removed. Idempotent; the first cause stays.

        Cancelling only stops the waiting. Never raises when Docker is away: the reaper removes the container later.
        """
        self._begin_end(cause or DeathCause(DeathKind.KILLED, "no longer needed"))
        await self._closed.wait()

    def on_end(self, listener: Callable[[Sandbox], None]) -> None:
        """Call `listener` as soon as the sandbox is of no more use (before its container is removed)."""
        if self.alive:
            self._end_listeners.append(listener)
        else:
            listener(self)

    @property
    def cause(self) -> DeathCause | None:
        return self._cause

    def _on_oom(self) -> None:
        """The kernel has killed a process of it. Mostly that is its end; if not, it is one all the same."""
        out = DeathCause(DeathKind.OOM, "out of memory: the kernel killed a part of it at its limit")
        self._loop.call_later(_OOM_PATIENCE_S, self._begin_end, out)

    def ended(self) -> None:
        """The attached stream ended from the other side."""
        self._begin_end(None)

    def _begin_end(self, cause: DeathCause | None) -> None:
        """`cause` None: it ended by itself, and Docker will say how."""
        if self.state in (State.ENDING, State.ENDED):
            return
        self.state = State.ENDING
        self._ours = cause is not None
        self._cause = cause or DeathCause(DeathKind.EXIT, "its output ended")
        self._tell(f"ending: {self._cause}")
        self._pipeline.disarm()
        if self._container is None:
            # Launch is under way, and `_start` sees to the rest.
            if self._reply is not None and not self._reply.done():
                self._reply.set_exception(SandboxDied(self._cause))
            return
        self._container.stream.abort()
        self._finish_later()

    def _finish_later(self) -> None:
        for listener in self._end_listeners:
            listener(self)
        self._end_listeners.clear()
        if not self._runtime.spawn(self._finish(), f"sandbox-end-{self.id}"):
            cause = self._cause or DeathCause(DeathKind.KILLED, "the worker is stopping")
            self._conclude(Ending(cause, exited=False))
            self._close()

    async def _finish(self) -> None:
        """Learn how it ended, say so, and remove it. Every failure leaves the removal to the reaper."""
        assert self._container is not None and self._cause is not None
        container = self._container
        end = Ending(self._cause, exited=False)
        try:
            if self._ours:
                end = await ending.end_ours(container, self._cause)
            else:
                end = await ending.end_theirs(container, self.stderr)
        except (RuntimeUnavailable, ContainerRefused) as exc:
            if not self._ours:
                end = Ending(DeathCause(DeathKind.DAEMON_LOST, exc.message), exited=False)
        except ContainerGone:
            if not self._ours:
                end = Ending(DeathCause(DeathKind.KILLED, "its container was removed from outside"), exited=False)
        finally:
            self._conclude(end)
            try:
                with contextlib.suppress(RuntimeUnavailable, ContainerGone, ContainerRefused):
                    if not await container.remove():
                        log.error("sandbox_left_processes", extra={"container": self.id})
                        self._tell("processes are left in its cgroup")
            finally:
                self._close()

    def _conclude(self, end: Ending) -> None:
        """Record the cause, fail what was asked, and queue the last event."""
        self._cause = end.cause
        self._tell(f"ended: {end.cause}")
        if self._reply is not None and not self._reply.done():
            self._reply.set_exception(SandboxDied(end.cause))
        unfinished, metrics = self._pipeline.abandon()
        self._events.end(ev.SandboxEnded(end.cause, unfinished, metrics))
        self.books = self._meter.close(self.id, self._runtime.accounts, exited=end.exited)

    def _close(self) -> None:
        self.state = State.ENDED
        self._tell("removed")
        self._closed.set()

    # -- asking it

    def totals(self) -> MeterTotals:
        """What the kernel charged to its container so far, and how much of it to slices."""
        return self._meter.totals()

    def glance(self) -> Usage:
        """CPU time so far and memory in use now, for a watcher; zeros before it has a container."""
        return self._meter.glance()

    def statistics(self) -> dict[str, Any]:
        return {
            "id": self.id,
            "state": str(self.state),
            "in_flight": self.in_flight,
            "bytes_out": self._reader.total_bytes,
            "lines_out": self._reader.total_lines,
            "frames_out": self._reader.total_frames,
            "stderr_bytes": self._stderr_bytes,
            "bytes_in": self._container.stream.bytes_in if self._container is not None else 0,
            "unsent": self._container.stream.unsent() if self._container is not None else 0,
            "cause": str(self._cause) if self._cause is not None else None,
        }

    def _tell(self, what: str) -> None:
        self.story.append((self._loop.time(), what))
