"""One sandbox: a container of the evaluator, from its start over the job it is bound to, to its recorded end.

Everything on a slice's path happens in callbacks of the attached stream: bytes become messages, answers are metered by
one reading of the container's counters, and the events are queued for the owner. Nothing there awaits or calls Docker.
"""

from __future__ import annotations

import asyncio
import collections
import contextlib
import enum
import itertools
import logging
import secrets
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final

from orchestrator import kvin, telemetry
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
from orchestrator.worker.docker_runtime.container import FALSE_EXIT, ContainerState
from orchestrator.worker.limits import KIB, OutputLimits, SandboxLimits, SliceLimits, StartLimits
from orchestrator.worker.metering import Answer, MeterTotals, Phase, Reconciliation, SliceMeter, Usage, reconcile
from orchestrator.worker.sandbox_events import DeathCause, DeathKind, SandboxDied, SandboxRefused

log = logging.getLogger(__name__)

_STDERR_KEPT: Final = 8 * KIB
_NOTES_KEPT: Final = 20
#: Above this many queued events nobody has taken, the stream is not read until half are gone.
_EVENTS_HIGH: Final = 10_000
_EXIT_PATIENCE_S: Final = 3.0
#: A runtime of several processes (gVisor) may lose one to the kernel and hang.
_OOM_PATIENCE_S: Final = 1.0
#: A timer that comes so late, an Engine that answers so slowly: then the sandbox could not be heard.
_DEAF_S: Final = 1.0
#: More than this is never added to a slice's time, whatever the machine does.
_MOST_GRACE_S: Final = 3600.0
#: SIGILL, SIGTRAP, SIGABRT, SIGSEGV: how V8 ends when it gives up, by what the seccomp profile leaves it.
_CRASH_CODES: Final = (132, 133, 134, 139)


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


class _Slice:
    """A slice in flight."""

    __slots__ = ("bytes_in", "grace_s", "identifier", "key", "limits", "line", "progress_at", "started_at")

    def __init__(self, identifier: int, key: int, line: bytes, limits: SliceLimits) -> None:
        self.identifier = identifier
        self.key = key
        self.line = line
        self.bytes_in = len(line)
        self.limits = limits
        self.started_at = 0.0
        self.progress_at = 0.0
        self.grace_s = 0.0

    def excuse(self, seconds: float) -> bool:
        """Its clock stood still so long, because nobody could hear it; False when it has been excused for too long."""
        if self.grace_s > _MOST_GRACE_S:
            return False
        self.grace_s += seconds
        self.started_at += seconds
        self.progress_at += seconds
        return True

    def due(self) -> float:
        """When the first of its time limits runs out."""
        limits = self.limits
        due = float("inf")
        if limits.slice_timeout_s is not None:
            due = self.started_at + limits.slice_timeout_s
        if limits.progress_timeout_s is not None:
            due = min(due, self.progress_at + limits.progress_timeout_s)
        return due

    def overdue_s(self, now: float) -> float:
        return max(now - self.due(), 0.0)


def _overdue(item: _Slice, now: float) -> DeathCause:
    slice_limit, progress_limit = item.limits.slice_timeout_s, item.limits.progress_timeout_s
    if slice_limit is not None and now >= item.started_at + slice_limit:
        return DeathCause(DeathKind.DEADLINE, f"a slice took more than {slice_limit:g} s", code="ESLICETOOSLOW")
    return DeathCause(DeathKind.DEADLINE, f"no progress for {progress_limit:g} s", code="ENOPROGRESS")


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
        self._runtime = runtime
        self._loop = asyncio.get_running_loop()
        self._container: Container | None = None
        self._reader = lines.OutputReader(self.settings.output, kvin.unmarshal)
        self._stderr_bytes = 0
        self._stderr_frames = lines.Bucket(self.settings.output.frames_per_s, self.settings.output.frames_burst)
        self._meter = SliceMeter()
        self._phase = Phase.START
        self._paid_ns = 0
        self._exited = False
        self.books: Reconciliation | None = None
        """Once it has ended: its slices and overhead against what the kernel charged."""
        self._ids = itertools.count(1)
        self._running: collections.deque[_Slice] = collections.deque()
        self._waiting: collections.deque[_Slice] = collections.deque()
        self._head_bytes_out = 0
        self._slice_limits = SliceLimits()
        self._events: collections.deque[ev.SandboxEvent] = collections.deque()
        self._wake = asyncio.Event()
        self._reply: asyncio.Future[said.Message] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._paused_at: float | None = None
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
        self._tell("started")
        self._container.on_oom = self._on_oom
        if self.state is State.ENDING:  # it broke a rule before launch had returned
            self._finish_later()
        try:
            reply = await self._ask(
                lines.request_line({"request": "describe"}), self.settings.start.describe_s, "ESTARTTIMEOUT"
            )
        except BaseException:
            self._begin_end(DeathCause(DeathKind.KILLED, "its start was given up"))
            raise
        assert isinstance(reply, said.Described)
        self.description = reply
        if reply.pipeline_depth == 0:
            cause = DeathCause(DeathKind.PROTOCOL, "the evaluator does not offer pipelining", code="ENOPIPELINE")
            self._begin_end(cause)
            raise SandboxDied(cause)
        self._mark()
        self._phase = Phase.IDLE
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
        self._mark()
        self._phase = Phase.ASSIGN
        self._slice_limits = limits or self._slice_limits
        worktime = {"name": assignment.worktime_name, "version": assignment.worktime_version}
        requirements = {"request": "applyRequirements", **assignment.requirements, "worktime": worktime["name"]}
        job = {
            "id": assignment.job_id,
            "workFunction": assignment.work_function,
            "argumentUris": list(assignment.argument_uris),
            "useStrict": assignment.use_strict,
            "public": dict(assignment.public),
            "requirePath": list(assignment.require_path),
            "modulePath": list(assignment.module_path),
            "dependencies": list(assignment.dependencies),
            "worktime": worktime,
        }
        request = {"request": "assign", "job": job, "sandboxConfig": dict(assignment.sandbox_config)}
        # Both at once: the evaluator takes them in order, and one round trip is saved.
        text = lines.request_line(requirements) + lines.request_line(request)
        reply = await self._ask(text, timeout_s or self.settings.start.assign_s, "EASSIGNTIMEOUT")
        if isinstance(reply, said.Refused):
            self._begin_end(DeathCause(DeathKind.KILLED, "it refused the job", code="EASSIGN"))
            raise SandboxRefused(reply.error)
        self._mark()
        self._phase = Phase.IDLE
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
        return len(self._running) + len(self._waiting)

    @property
    def alive(self) -> bool:
        return self._cause is None and self.state not in (State.ENDING, State.ENDED)

    def submit(self, slice_key: int, datum_uri: str, limits: SliceLimits | None = None) -> None:
        """Queue a slice. Answers come as events, in the order of submission. Submitting to an ended sandbox is allowed:

        the key is among `SandboxEnded.unfinished` if that event has not been queued yet, and is otherwise ignored.
        """
        identifier = next(self._ids)
        item = _Slice(identifier, slice_key, lines.main_line(identifier, datum_uri), limits or self._slice_limits)
        if self._waiting or len(self._running) >= self.pipeline_depth or self._container is None or not self.alive:
            self._waiting.append(item)
        else:
            self._send(item)

    def _send(self, item: _Slice) -> None:
        assert self._container is not None
        if not self._running:
            # What was used while idle is nobody's slice.
            self._mark()
            self._begin_slice(item, self._loop.time())
        self._running.append(item)
        self._container.stream.write(item.line)
        item.line = b""

    def _begin_slice(self, item: _Slice, now: float) -> None:
        item.started_at = item.progress_at = now
        self._head_bytes_out = 0
        due = item.due()
        if self._timer is None:
            self._arm(due)
        elif due < self._timer.when():
            self._timer.cancel()
            self._arm(due)

    def answer_fetch(
        self, request_id: Any, data: Mapping[str, Any] | None, error: Mapping[str, Any] | None = None
    ) -> None:
        """Reply to FetchRequested: `data` {url, status, statusText, headersEntries, bodyBase64}, or {message, code}.

        What comes in this way is input of the slice that runs.
        """
        if error is None:
            size = self._write({"request": "fetchResponse", "fetchId": request_id, "data": data})
        else:
            size = self._write({"request": "fetchError", "fetchId": request_id, "error": dict(error)})
        if self._running:
            self._running[0].bytes_in += size

    def answer_modules(self, request_id: Any, group: Mapping[str, Any] | None, error: str = "") -> None:
        """Reply to ModulesRequested: `group` {package: {file: source}}, or None and what went wrong."""
        if group is not None:
            self._write({"request": "moduleGroup", "id": request_id, "data": group})
        else:
            self._write({"request": "moduleGroupError", "id": request_id, "message": error})

    def _write(self, message: Mapping[str, Any]) -> int:
        """How many bytes were written: none when it has ended."""
        if self._container is None or not self.alive:
            return 0
        line = lines.request_line(message)
        self._container.stream.write(line)
        return len(line)

    # -- output (called by the attached stream)

    def output(self, stream: int, data: bytes, frames: int) -> None:
        if self._cause is not None:
            return
        now = self._loop.time()
        try:
            if stream == STDERR:
                self._on_stderr(data, frames, now)
            else:
                self._dispatch(self._reader.feed(data, frames, now), now)
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

    def _dispatch(self, messages: Sequence[tuple[said.Message | None, int]], now: float) -> None:
        answered: list[tuple[_Slice, said.Completed | said.Failed | said.Rejected]] = []
        answers: list[Answer] = []
        try:
            for message, size in messages:
                self._head_bytes_out += size
                if message is None:
                    continue
                if isinstance(message, (said.Completed, said.Failed, said.Rejected)):
                    item = self._finish_head(message)
                    answered.append((item, message))
                    answers.append(Answer(item.bytes_in, self._head_bytes_out, message.measurement))
                    self._head_bytes_out = 0
                    if self._running:
                        self._begin_slice(self._running[0], now)
                else:
                    if answered and not isinstance(message, said.Noted):
                        # Keep the order of events: what follows an answer comes after it.
                        self._report(answered, answers, now)
                        answered, answers = [], []
                    self._on_message(message, now)
        finally:
            if answered:
                self._report(answered, answers, now)
        self._refill_pipeline()

    def _finish_head(self, message: said.Completed | said.Failed | said.Rejected) -> _Slice:
        if not self._running:
            raise said.Violation("protocol", f"an answer for slice {message.id} while none was running")
        item = self._running[0]
        if message.id != item.identifier:
            raise said.Violation("protocol", f"an answer for slice {message.id} while {item.identifier} was running")
        return self._running.popleft()

    def _report(
        self,
        answered: Sequence[tuple[_Slice, said.Completed | said.Failed | said.Rejected]],
        answers: Sequence[Answer],
        now: float,
    ) -> None:
        """Meter the answers that arrived together with one reading, and queue their events."""
        assert self._container is not None
        metered = self._meter.answered(answers, self._container.usage.read(now), now)
        for (item, message), metrics in zip(answered, metered, strict=True):
            self._paid_ns += round(metrics.cpu_time_s * 1e9)
            event: ev.SandboxEvent
            if isinstance(message, said.Completed):
                result = ev.ResultText(message.string, message.method, message.mime)
                event = ev.SliceCompleted(item.key, result, metrics, message.progressed)
            elif isinstance(message, said.Failed):
                event = ev.SliceFailed(item.key, message.error, metrics, message.progressed, message.bad_datum)
            else:
                event = ev.SliceRejected(item.key, message.reason, message.retries, metrics)
            self._queue(event)

    def _on_message(self, message: said.Message, now: float) -> None:
        if isinstance(message, said.Noted):
            self.notes.append(message)
        elif isinstance(message, (said.Described, said.Assigned, said.Refused)):
            self._on_reply(message)
        elif isinstance(message, said.ModulesAsked):
            self._queue(ev.ModulesRequested(message.request_id, message.names))
        elif isinstance(message, (said.Progressed, said.ConsoleWritten, said.Emitted, said.FetchAsked)):
            self._on_slice_message(message, now)

    def _on_reply(self, message: said.Described | said.Assigned | said.Refused) -> None:
        expected = said.Described if self.state is State.STARTING else (said.Assigned, said.Refused)
        if self._reply is not None and not self._reply.done() and isinstance(message, expected):
            self._reply.set_result(message)
        elif isinstance(message, said.Refused):
            name, text = message.error.get("name"), message.error.get("message")
            self._begin_end(DeathCause(DeathKind.EXIT, f"the evaluator gave up: {name}: {text}"))
        else:
            raise said.Violation("protocol", f"{type(message).__name__} that nobody asked for")

    def _on_slice_message(
        self, message: said.Progressed | said.ConsoleWritten | said.Emitted | said.FetchAsked, now: float
    ) -> None:
        """Between the running slice's begin and answer; from a left-over of an earlier slice it is dropped."""
        if not self._running or message.id not in (None, self._running[0].identifier):
            return
        item = self._running[0]
        if isinstance(message, said.Progressed):
            item.progress_at = now
            self._queue(ev.Progress(item.key, message.fraction))
        elif isinstance(message, said.ConsoleWritten):
            self._queue(ev.Console(item.key, message.level, message.message, message.same))
        elif isinstance(message, said.Emitted):
            self._queue(ev.CustomEvent(item.key, message.name, message.data))
        else:
            self._queue(ev.FetchRequested(item.key, message.request_id, message.data))

    def _refill_pipeline(self) -> None:
        depth = self.pipeline_depth
        while self._waiting and len(self._running) < depth and self.alive:
            self._send(self._waiting.popleft())

    def _mark(self) -> None:
        if self._container is not None:
            now = self._loop.time()
            self._meter.mark(self._container.usage.read(now), now, self._phase)

    # -- events

    def _queue(self, event: ev.SandboxEvent) -> None:
        self._events.append(event)
        self._wake.set()
        if len(self._events) > _EVENTS_HIGH and self._paused_at is None and self._container is not None:
            self._paused_at = self._loop.time()
            self._container.stream.pause()

    async def batches(self) -> AsyncIterator[list[ev.SandboxEvent]]:
        """Events as they come, all that are there at once. Ends after SandboxEnded. For one consumer."""
        ended = False
        while not ended:
            await self._some_events()
            batch = list(self._events)
            self._events.clear()
            self._unpause()
            ended = isinstance(batch[-1], ev.SandboxEnded)
            yield batch

    async def events(self) -> AsyncIterator[ev.SandboxEvent]:
        """Events one by one, in order. Ends after SandboxEnded. For one consumer, instead of `batches`."""
        ended = False
        while not ended:
            await self._some_events()
            event = self._events.popleft()
            self._unpause()
            ended = isinstance(event, ev.SandboxEnded)
            yield event

    async def _some_events(self) -> None:
        while not self._events:
            self._wake.clear()
            await self._wake.wait()

    def _unpause(self) -> None:
        if self._paused_at is None or len(self._events) > _EVENTS_HIGH // 2:
            return
        # The guest could not be heard while we did not read: its clock stood still.
        waited = self._loop.time() - self._paused_at
        self._paused_at = None
        if self._running:
            self._running[0].excuse(waited)
        if self._container is not None:
            self._container.stream.resume()

    # -- time limits

    def _arm(self, due: float) -> None:
        # One timer, armed for the running slice and looked at again when it fires: a slice costs no timer of its own.
        if due != float("inf"):
            self._timer = self._loop.call_at(due, self._on_timer)

    def _on_timer(self) -> None:
        late = self._loop.time() - self._timer.when() if self._timer is not None else 0.0
        self._timer = None
        if not self._running or not self.alive:
            return
        item, now = self._running[0], self._loop.time()
        if self._paused_at is not None:
            self._arm(now + 1.0)
        elif now < item.due() or (late > _DEAF_S and item.excuse(late)):
            self._arm(item.due())
        elif not self._runtime.spawn(self._end_overdue(item), f"sandbox-overdue-{self.id}"):
            self._begin_end(_overdue(item, now))

    async def _end_overdue(self, item: _Slice) -> None:
        """End it for its overdue slice, unless the Engine, which passes its words on, has been silent, too."""
        asked = self._loop.time()
        try:
            await self._runtime.answers()
        except RuntimeUnavailable as exc:
            if self._is_head(item):
                self._begin_end(DeathCause(DeathKind.DAEMON_LOST, exc.message))
            return
        waited = self._loop.time() - asked
        if not self._is_head(item):
            return  # it was answered meanwhile; the next slice has a timer of its own
        if waited > _DEAF_S and item.excuse(item.overdue_s(asked) + waited):
            self._arm(item.due())
        else:
            self._begin_end(_overdue(item, asked))

    def _is_head(self, item: _Slice) -> bool:
        return self.alive and bool(self._running) and self._running[0] is item

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
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
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
            self._conclude(self._cause or DeathCause(DeathKind.KILLED, "the worker is stopping"))
            self._close()

    async def _finish(self) -> None:
        """Learn how it ended, say so, and remove it. Every failure leaves the removal to the reaper."""
        assert self._container is not None and self._cause is not None
        container, cause = self._container, self._cause
        try:
            if self._ours:
                cause = await self._end_ours(container, cause)
            else:
                cause = await self._end_theirs(container)
        except (RuntimeUnavailable, ContainerRefused) as exc:
            cause = cause if self._ours else DeathCause(DeathKind.DAEMON_LOST, exc.message)
        except ContainerGone:
            cause = cause if self._ours else DeathCause(DeathKind.KILLED, "its container was removed from outside")
        finally:
            self._conclude(cause)
            try:
                with contextlib.suppress(RuntimeUnavailable, ContainerGone, ContainerRefused):
                    if not await container.remove():
                        log.error("sandbox_left_processes", extra={"container": self.id})
                        self._tell("processes are left in its cgroup")
            finally:
                self._close()

    async def _end_ours(self, container: Container, cause: DeathCause) -> DeathCause:
        await container.kill()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_EXIT_PATIENCE_S):
                await container.died.wait()
        state = await container.state()
        self._exited = not state.running
        return replace(cause, exit_code=state.exit_code, oom_killed=state.oom_killed)

    async def _end_theirs(self, container: Container) -> DeathCause:
        """Its stream ended: usually it exited, and the Engine's `die` event is a moment away."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_EXIT_PATIENCE_S):
                await container.died.wait()
        state = await container.state()
        if state.running:
            cause = DeathCause(DeathKind.PROTOCOL, "it closed its output and went on", code="ECLOSEDOUTPUT")
            return await self._end_ours(container, cause)
        self._exited = True
        return self._explain(state)

    def _explain(self, state: ContainerState) -> DeathCause:
        code = state.exit_code
        kind, detail = DeathKind.EXIT, "it exited by itself"
        if code == FALSE_EXIT:
            kind, detail = DeathKind.PROTOCOL, "it faked its own exit (trace-stop)"
        elif state.oom_killed:
            kind, detail = DeathKind.OOM, "out of memory: the kernel killed it at its limit"
        elif code in _CRASH_CODES and b"heap out of memory" in self.stderr:
            # V8's own word, which a job could forge: it would only be told that its memory ran out.
            kind, detail = DeathKind.OOM, "out of memory: its JavaScript heap reached the limit"
        elif code in _CRASH_CODES:
            detail = "the engine aborted or crashed"
        elif code == 137:
            kind, detail = DeathKind.KILLED, "it was killed from outside"
        elif state.error:
            detail = state.error[:500]
        return DeathCause(kind, detail, exit_code=code, oom_killed=state.oom_killed)

    def _conclude(self, cause: DeathCause) -> None:
        """Record the cause, fail what was asked, and queue the last event."""
        self._cause = cause
        self._tell(f"ended: {cause}")
        if self._reply is not None and not self._reply.done():
            self._reply.set_exception(SandboxDied(cause))
        unfinished = tuple(item.key for item in (*self._running, *self._waiting))
        metrics = None
        if self._running and self._container is not None:
            now = self._loop.time()
            usage = self._container.usage.read(now)
            metrics = self._meter.unanswered(self._running[0].bytes_in, self._head_bytes_out, usage, now)
        elif self._container is not None:
            self._mark()
        self._running.clear()
        self._waiting.clear()
        self._events.append(ev.SandboxEnded(cause, unfinished, metrics))
        self._wake.set()
        if self._container is not None:
            self._close_books(self._container)

    def _close_books(self, container: Container) -> None:
        """The last thing done with its figures: what was told of them against the kernel's own."""
        kernel_ns = container.usage.read(self._loop.time()).cpu_ns
        checked = self._exited and container.usage.exact
        self.books = reconcile(self._meter.totals(), self._paid_ns, kernel_ns, checked=checked)
        for phase, used_ns in self.books.overhead.items():
            telemetry.sandbox_overhead.add(used_ns / 1e9, {"phase": str(phase)})
        if not self._runtime.accounts.close(self.books):
            telemetry.metering_errors.add(1)
            log.error(
                "metering_mismatch",
                extra={
                    "sandbox": self.id,
                    "kernel_ns": self.books.kernel_ns,
                    "slices_ns": self.books.paid_ns,
                    "overhead_ns": self.books.overhead_ns,
                },
            )

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
        return self._container.usage.glance(self._loop.time()) if self._container is not None else Usage(0, 0)

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
