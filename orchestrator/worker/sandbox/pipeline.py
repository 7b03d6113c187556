"""The slices in a sandbox: those it was given, in order, the first of them running, and those that wait to be given.

Everything on a slice's path happens here, in callbacks of the attached stream: answers are metered by one reading of
the container's counters, and their events queued. Nothing awaits or calls Docker, but to end a slice that takes too
long.
"""

from __future__ import annotations

import asyncio
import collections
import itertools
from collections.abc import Callable, Sequence
from typing import Final

from orchestrator.jobs.words import SliceMetrics
from orchestrator.worker import evaluator_messages as said
from orchestrator.worker import line_protocol as lines
from orchestrator.worker import sandbox_events as ev
from orchestrator.worker.docker_runtime import DockerRuntime, RuntimeUnavailable
from orchestrator.worker.limits import SliceLimits
from orchestrator.worker.metering import Answer
from orchestrator.worker.sandbox.event_queue import EventQueue
from orchestrator.worker.sandbox.meter import SandboxMeter
from orchestrator.worker.sandbox.running_slice import RunningSlice
from orchestrator.worker.sandbox_events import DeathCause, DeathKind

#: A timer that comes so late, an Engine that answers so slowly: then the sandbox could not be heard.
_DEAF_S: Final = 1.0

_Answered = tuple[RunningSlice, said.Completed | said.Failed | said.Rejected]


class Pipeline:
    """Slices wait until it is opened.

    `alive()` says whether the sandbox is of any use, `end(cause)` ends it, `on_other` takes messages that concern no
    slice.
    """

    def __init__(
        self,
        sandbox_id: str,
        runtime: DockerRuntime,
        meter: SandboxMeter,
        events: EventQueue,
        *,
        alive: Callable[[], bool],
        end: Callable[[DeathCause], None],
        on_other: Callable[[said.Message], None],
    ) -> None:
        self._sandbox_id = sandbox_id
        self._runtime = runtime
        self._meter = meter
        self._events = events
        self._alive = alive
        self._end = end
        self._on_other = on_other
        self._loop = asyncio.get_running_loop()
        self._write: Callable[[bytes], None] = lambda _line: None
        self._ids = itertools.count(1)
        self._running: collections.deque[RunningSlice] = collections.deque()
        self._waiting: collections.deque[RunningSlice] = collections.deque()
        self._head_bytes_out = 0
        self._timer: asyncio.TimerHandle | None = None
        self.depth = 0
        """How many slices the evaluator takes at once."""
        self.limits = SliceLimits()
        """Of slices that do not bring their own."""

    def __len__(self) -> int:
        return len(self._running) + len(self._waiting)

    def open(self, write: Callable[[bytes], None], depth: int) -> None:
        self._write, self.depth = write, depth

    # -- in

    def submit(self, key: int, datum_uri: str, limits: SliceLimits | None) -> None:
        identifier = next(self._ids)
        item = RunningSlice(identifier, key, lines.main_line(identifier, datum_uri), limits or self.limits)
        if self._waiting or len(self._running) >= self.depth or not self._alive():
            self._waiting.append(item)
        else:
            self._send(item)

    def _send(self, item: RunningSlice) -> None:
        if not self._running:
            # What was used while idle is nobody's slice.
            self._meter.begin()
            self._begin(item, self._loop.time())
        self._running.append(item)
        self._write(item.line)
        item.line = b""

    def _begin(self, item: RunningSlice, now: float) -> None:
        item.started_at = item.progress_at = now
        self._head_bytes_out = 0
        due = item.due()
        if self._timer is None:
            self._arm(due)
        elif due < self._timer.when():
            self._timer.cancel()
            self._arm(due)

    def _refill(self) -> None:
        while self._waiting and len(self._running) < self.depth and self._alive():
            self._send(self._waiting.popleft())

    def charge_input(self, size: int) -> None:
        """The running slice was given so many more bytes."""
        if self._running:
            self._running[0].bytes_in += size

    # -- out

    def take(self, messages: Sequence[tuple[said.Message | None, int]], now: float) -> None:
        """Messages that arrived together, with the lengths of their lines. Raises `Violation`."""
        answered: list[_Answered] = []
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
                        self._begin(self._running[0], now)
                else:
                    if answered and not isinstance(message, said.Noted):
                        # Keep the order of events: what follows an answer comes after it.
                        self._report(answered, answers, now)
                        answered, answers = [], []
                    self._on_message(message, now)
        finally:
            if answered:
                self._report(answered, answers, now)
        self._refill()

    def _finish_head(self, message: said.Completed | said.Failed | said.Rejected) -> RunningSlice:
        if not self._running:
            raise said.Violation("protocol", f"an answer for slice {message.id} while none was running")
        item = self._running[0]
        if message.id != item.identifier:
            raise said.Violation("protocol", f"an answer for slice {message.id} while {item.identifier} was running")
        return self._running.popleft()

    def _report(self, answered: Sequence[_Answered], answers: Sequence[Answer], now: float) -> None:
        """Meter the answers that arrived together with one reading, and queue their events."""
        for (item, message), metrics in zip(answered, self._meter.answered(answers, now), strict=True):
            event: ev.SandboxEvent
            if isinstance(message, said.Completed):
                result = ev.ResultText(message.string, message.method, message.mime)
                event = ev.SliceCompleted(item.key, result, metrics, message.progressed)
            elif isinstance(message, said.Failed):
                event = ev.SliceFailed(item.key, message.error, metrics, message.progressed, message.bad_datum)
            else:
                event = ev.SliceRejected(item.key, message.reason, message.retries, metrics)
            self._events.put(event)

    def _on_message(self, message: said.Message, now: float) -> None:
        if not isinstance(message, (said.Progressed, said.ConsoleWritten, said.Emitted, said.FetchAsked)):
            self._on_other(message)
            return
        # Between the running slice's begin and answer; from a left-over of an earlier slice it is dropped.
        if not self._running or message.id not in (None, self._running[0].identifier):
            return
        item = self._running[0]
        if isinstance(message, said.Progressed):
            item.progress_at = now
            self._events.put(ev.Progress(item.key, message.fraction))
        elif isinstance(message, said.ConsoleWritten):
            self._events.put(ev.Console(item.key, message.level, message.message, message.same))
        elif isinstance(message, said.Emitted):
            self._events.put(ev.CustomEvent(item.key, message.name, message.data))
        else:
            self._events.put(ev.FetchRequested(item.key, message.request_id, message.data))

    # -- time limits

    def _arm(self, due: float) -> None:
        # One timer, armed for the running slice and looked at again when it fires: a slice costs no timer of its own.
        if due != float("inf"):
            self._timer = self._loop.call_at(due, self._on_timer)

    def disarm(self) -> None:
        """The sandbox ends: nothing is overdue any more."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def excuse(self, seconds: float) -> None:
        """The sandbox could not be heard for so long: the running slice's clock stood still."""
        if self._running:
            self._running[0].excuse(seconds)

    def _on_timer(self) -> None:
        late = self._loop.time() - self._timer.when() if self._timer is not None else 0.0
        self._timer = None
        if not self._running or not self._alive():
            return
        item, now = self._running[0], self._loop.time()
        if self._events.hushed:
            self._arm(now + 1.0)
        elif now < item.due() or (late > _DEAF_S and item.excuse(late)):
            self._arm(item.due())
        elif not self._runtime.spawn(self._end_overdue(item), f"sandbox-overdue-{self._sandbox_id}"):
            self._end(item.overdue(now))

    async def _end_overdue(self, item: RunningSlice) -> None:
        """End it for its overdue slice, unless the Engine, which passes its words on, has been silent, too."""
        asked = self._loop.time()
        try:
            await self._runtime.answers()
        except RuntimeUnavailable as exc:
            if self._is_head(item):
                self._end(DeathCause(DeathKind.DAEMON_LOST, exc.message))
            return
        waited = self._loop.time() - asked
        if not self._is_head(item):
            return  # it was answered meanwhile; the next slice has a timer of its own
        if waited > _DEAF_S and item.excuse(item.overdue_s(asked) + waited):
            self._arm(item.due())
        else:
            self._end(item.overdue(asked))

    def _is_head(self, item: RunningSlice) -> bool:
        return self._alive() and bool(self._running) and self._running[0] is item

    # -- the end

    def abandon(self) -> tuple[tuple[int, ...], SliceMetrics | None]:
        """The keys of the slices that get no answer, in order, and what the running one had used."""
        unfinished = tuple(item.key for item in (*self._running, *self._waiting))
        metrics = None
        if self._running:
            metrics = self._meter.unanswered(self._running[0].bytes_in, self._head_bytes_out)
        else:
            self._meter.mark()
        self._running.clear()
        self._waiting.clear()
        return unfinished, metrics
