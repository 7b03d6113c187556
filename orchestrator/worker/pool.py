"""Sandboxes started ahead of need: starting one costs 100–200 ms and 0.2 core-seconds, handing one out nothing.

How many are kept ready and how fast they are made is decided in `pool_sizing`; here they are made, handed out, renewed
and counted.
"""

from __future__ import annotations

import asyncio
import collections
import contextlib
import dataclasses
import logging
import math
import os
import random
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Final

from orchestrator import telemetry
from orchestrator.errors import OrchestratorError
from orchestrator.task_groups import TaskGroup
from orchestrator.worker import pool_sizing as sizing
from orchestrator.worker.docker_runtime import DockerRuntime, RuntimeUnavailable
from orchestrator.worker.evaluator_messages import Described
from orchestrator.worker.limits import StartLimits
from orchestrator.worker.metering import Usage
from orchestrator.worker.sandbox import Sandbox, SandboxSettings
from orchestrator.worker.sandbox_events import DeathCause, DeathKind

log = logging.getLogger(__name__)

_jitter: Final = random.Random()  # noqa: S311  (spreads retries; no secret)
_BACKOFF_FIRST_S: Final = 0.25
_BACKOFF_MOST_S: Final = 30.0
_LATENCIES_KEPT: Final = 1024
#: How often the pool looks whether it has too many, or too old ones.
_LOOK_EVERY_S: Final = 5.0
_MEMORY_AGE_S: Final = 1.0


@dataclass(frozen=True)
class PoolSettings:
    """`capacity` sandboxes may be in use at once; `warm` more are kept ready, or as many as the rule says (None).

    The rule keeps `warm_least` to `warm_most`, by what recent hand-outs needed. Above two creates at once each only
    takes longer (observed: the Engine makes ten containers a second, whatever is asked at once). Starts ahead of need
    wait while slices keep every core busy, for a minute at most; while slices run they take at most `refill_cpu_share`
    of the cores, and what is idle. One that waited for `warm_max_age_s` is replaced.
    """

    capacity: int = field(default_factory=lambda: os.cpu_count() or 1)
    warm: int | None = 1
    creates_at_once: int = 2
    sandbox: SandboxSettings = field(default_factory=SandboxSettings)
    warm_least: int = 1
    warm_most: int = 16
    refill_cpu_share: float = 0.25
    warm_max_age_s: float = 6 * 3600.0
    reserve_bytes: int = 512 << 20
    cores: int = field(default_factory=lambda: os.cpu_count() or 1)


class SandboxPool:
    """`async with` it, inside its runtime. Leaving kills every sandbox, in use or not."""

    def __init__(self, runtime: DockerRuntime, settings: PoolSettings | None = None) -> None:
        self.settings = settings or PoolSettings()
        self.failure: OrchestratorError | None = None
        """Why the last start failed; None after one that worked."""
        self._runtime = runtime
        self._tasks = TaskGroup()
        self._ready: collections.deque[Sandbox] = collections.deque()
        self._in_use: set[Sandbox] = set()
        self._starting = 0
        self._waiters: collections.deque[asyncio.Future[Sandbox]] = collections.deque()
        self._changed = asyncio.Event()
        self._not_before = 0.0
        self._failures_in_row = 0
        self._described: asyncio.Future[Described] = asyncio.get_running_loop().create_future()
        self._listeners: list[Callable[[OrchestratorError | None], None]] = []
        self._latencies: collections.deque[float] = collections.deque(maxlen=_LATENCIES_KEPT)
        self._start_times: collections.deque[float] = collections.deque(maxlen=_LATENCIES_KEPT)
        self._ready_since: dict[Sandbox, float] = {}
        self._burst = sizing.Burst()
        self._costs = sizing.StartCosts()
        self._budget = sizing.RefillBudget()
        self._deferral = sizing.Deferral()
        self._memory: sizing.Memory | None = None
        self._memory_at = -math.inf
        self._looked_at = time.monotonic()
        self._held_back = 0
        self._deferred = 0
        self._dropped: collections.Counter[str] = collections.Counter()
        self._hits = 0
        self._taken = 0
        self._started = 0
        self._failed = 0
        self._ended_cpu_ns = 0
        self._deaths: collections.Counter[str] = collections.Counter()
        self._waiting_for_engine: set[asyncio.Task[Any]] = set()
        self._closing = False
        self._resting = False

    async def __aenter__(self) -> SandboxPool:
        await self._tasks.__aenter__()
        self._runtime.on_loss(self._try_at_once)
        self._refill_task = self._tasks.create_task(self._refill(), name="pool-refill")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._closing = True
        self._refill_task.cancel()
        for task in self._waiting_for_engine:
            task.cancel()
        for waiter in self._waiters:
            waiter.cancel()
        try:
            await self._tasks.__aexit__(kind, exc, traceback)
        except BaseExceptionGroup as group:
            # The body's own exception needs no wrapping when nothing else went wrong.
            if group.exceptions != (exc,):
                raise
        finally:
            self._described.cancel()
            cause = DeathCause(DeathKind.KILLED, "the worker is stopping")
            async with TaskGroup() as kills:
                for sandbox in (*self._ready, *self._in_use):
                    kills.create_task(sandbox.kill(cause))

    @property
    def capacity(self) -> int:
        """How many sandboxes may be in use at once."""
        return self.settings.capacity

    @property
    def ready(self) -> int:
        return len(self._ready)

    async def describe(self) -> Described:
        """What the evaluator says it can do, once the first sandbox has started."""
        return await asyncio.shield(self._described)

    def limit(self, start: StartLimits) -> None:
        """For sandboxes that are started from now on."""
        self.settings = dataclasses.replace(
            self.settings, sandbox=dataclasses.replace(self.settings.sandbox, start=start)
        )

    def rest(self, resting: bool) -> None:
        """Keep none ready while resting, and give up those that are: the memory is wanted. `take` works as ever."""
        if resting is self._resting:
            return
        self._resting = resting
        while resting and self._ready and not self._waiters:
            self._drop_ready("the worker is paused")
        self._changed.set()

    def on_availability(self, listener: Callable[[OrchestratorError | None], None]) -> None:
        """Call `listener(failure)` when starts begin to fail, or fail for the Engine's absence instead of by refusal,

        and `listener(None)` when one works again.
        """
        self._listeners.append(listener)

    async def take(self) -> Sandbox:
        """A ready sandbox, for one job; at once when one is warm. It counts as in use until it ends: kill it when done.

        Waits while `capacity` are in use, and while Docker is unavailable (`failure` says why). Cancelling takes none.
        """
        asked = time.perf_counter()
        self._taken += 1
        hit = bool(self._ready) and len(self._in_use) < self.capacity and not self._waiters
        if hit:
            sandbox = self._hand_out(self._pop_ready())
            self._hits += 1
        else:
            waiter: asyncio.Future[Sandbox] = asyncio.get_running_loop().create_future()
            self._waiters.append(waiter)
            self._changed.set()
            try:
                sandbox = await waiter
            except asyncio.CancelledError:
                if waiter.done() and not waiter.cancelled():
                    self._give_back(waiter.result())
                with contextlib.suppress(ValueError):
                    self._waiters.remove(waiter)
                raise
        took = time.perf_counter() - asked
        self._latencies.append(took)
        telemetry.sandbox_hand_out_time.record(took, {"hit": hit})
        return sandbox

    def _pop_ready(self) -> Sandbox:
        """The oldest, so that none grows old while others come and go."""
        sandbox = self._ready.popleft()
        del self._ready_since[sandbox]
        return sandbox

    def _hand_out(self, sandbox: Sandbox) -> Sandbox:
        self._in_use.add(sandbox)
        self._burst.handed_out(time.monotonic(), self._costs.wall_s, self._most_starts_per_s())
        self._changed.set()
        return sandbox

    def _give_back(self, sandbox: Sandbox) -> None:
        """It was handed to a taker who no longer wanted it, and has seen no job."""
        self._in_use.discard(sandbox)
        if sandbox.alive:
            self._put_ready(sandbox)
            self._serve()

    def _put_ready(self, sandbox: Sandbox) -> None:
        self._ready.append(sandbox)
        self._ready_since[sandbox] = time.monotonic()

    def _serve(self) -> None:
        while self._waiters and self._ready and len(self._in_use) < self.capacity:
            waiter = self._waiters.popleft()
            if not waiter.done():
                waiter.set_result(self._hand_out(self._pop_ready()))

    # -- refill

    @property
    def target(self) -> int:
        """How many should be ready now."""
        if self._resting:
            return 0
        settings = self.settings
        limits = settings.sandbox.limits or self._runtime.settings.limits
        rules = sizing.SizingRules(
            settings.warm, settings.warm_least, settings.warm_most, limits.memory_bytes, settings.reserve_bytes
        )
        now = time.monotonic()
        if now - self._memory_at >= _MEMORY_AGE_S:
            self._memory, self._memory_at = self._runtime.memory(), now
        idle = len(self._ready) + self._starting
        return sizing.target(rules, self._burst.peak(now), self._memory, len(self._in_use), idle)

    def _most_starts_per_s(self) -> float:
        """What the pool can make while slices run."""
        settings = self.settings
        by_hands = settings.creates_at_once / self._costs.wall_s
        return min(by_hands, settings.refill_cpu_share * settings.cores / self._costs.core_s)

    async def _refill(self) -> None:
        while True:
            self._serve()
            self._changed.clear()
            wait = self._not_before - time.monotonic()
            if wait <= 0:
                wait = min(self._start_some(), _LOOK_EVERY_S)
            self._look_after_ready()
            self._tell_sizes()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(wait):
                    await self._changed.wait()

    def _start_some(self) -> float:
        """Start what is needed now. Seconds until one more may be started, if only that is missing."""
        cost, cores = self._costs.core_s, self.settings.cores
        busy = sum(1 for sandbox in self._in_use if sandbox.in_flight)
        rate = sizing.refill_rate(cores, self.settings.refill_cpu_share, busy)
        hands = self.settings.creates_at_once - self._starting
        self._budget.advance(time.monotonic(), rate, cost * self.settings.creates_at_once)
        coming = len(self._ready) + self._starting
        awaited = min(len(self._waiters), max(self.capacity - len(self._in_use), 0))
        urgent = min(awaited - coming, hands)
        wanted = min(awaited + self.target - coming, hands)
        wait_s = self._defer_s(ahead=wanted > max(urgent, 0))
        for number in range(wanted):
            if number >= urgent and wait_s:
                self._deferred += 1
                return max(wait_s, 0.01)
            if number >= urgent and not self._budget.affords(cost):
                self._held_back += 1
                return max(self._budget.wait_s(cost, rate), 0.01)
            self._budget.spend(cost)
            self._starting += 1
            self._tasks.create_task(self._start_one(), name="pool-start")
        return math.inf

    def _defer_s(self, *, ahead: bool) -> float:
        """How long starts ahead of need, if there are any, should wait for a core that has nothing else to do."""
        if not ahead or not self._in_use:
            self._deferral.over()
            return 0.0
        return self._deferral.wait_s(time.monotonic(), self.usage().cpu_ns / 1e9, self.settings.cores)

    def _look_after_ready(self) -> None:
        """Give up one that is too old, or one too many, every now and then."""
        now = time.monotonic()
        if now - self._looked_at < _LOOK_EVERY_S or not self._ready or self._waiters:
            return
        self._looked_at = now
        if len(self._ready) > self.target:
            self._drop_ready("more than are needed")
        elif now - self._ready_since[self._ready[0]] >= self.settings.warm_max_age_s:
            self._drop_ready("unused for long")

    def _drop_ready(self, why: str) -> None:
        sandbox = self._pop_ready()
        self._dropped[why] += 1
        self._tasks.create_task(sandbox.kill(DeathCause(DeathKind.KILLED, why)), name="pool-drop")

    async def _start_one(self) -> None:
        began = time.perf_counter()
        try:
            sandbox = await Sandbox.start(self._runtime, self.settings.sandbox)
        except OrchestratorError as exc:
            await self._on_failure(exc)
        else:
            self._on_started(sandbox, time.perf_counter() - began)
        finally:
            self._starting -= 1
            self._changed.set()

    def _on_started(self, sandbox: Sandbox, seconds: float) -> None:
        self._started += 1
        self._start_times.append(seconds)
        self._costs.add(seconds)
        telemetry.sandbox_start_time.record(seconds)
        self._failures_in_row = 0
        self._set_failure(None)
        if not self._described.done() and sandbox.description is not None:
            self._described.set_result(sandbox.description)
        self._put_ready(sandbox)
        sandbox.on_end(self._on_end)

    async def _on_failure(self, exc: OrchestratorError) -> None:
        self._failed += 1
        self._failures_in_row += 1
        self._set_failure(exc)
        log.warning("sandbox_start_failed", extra={"code": exc.code, "error": exc.message})
        if isinstance(exc, RuntimeUnavailable):
            await self._wait_for_engine()
            return
        longest = min(_BACKOFF_FIRST_S * math.pow(2, min(self._failures_in_row - 1, 10)), _BACKOFF_MOST_S)
        self._not_before = time.monotonic() + longest * _jitter.uniform(0.5, 1.0)

    async def _wait_for_engine(self) -> None:
        """Until it is back. Whoever leaves the pool ends that."""
        task = asyncio.current_task()
        if self._closing or task is None:
            return
        self._waiting_for_engine.add(task)
        try:
            await self._runtime.wait_until_available()
        finally:
            self._waiting_for_engine.discard(task)

    def _try_at_once(self) -> None:
        """The Engine is gone: pauses that it was owed for refusals are over, so that this is noticed."""
        self._not_before, self._failures_in_row = 0.0, 0
        self._changed.set()

    def _set_failure(self, failure: OrchestratorError | None) -> None:
        # A refusal may turn into the loss of the Engine: that is news.
        changed = _kind_of(failure) != _kind_of(self.failure)
        self.failure = failure
        if changed:
            for listener in self._listeners:
                listener(failure)

    def _on_end(self, sandbox: Sandbox) -> None:
        cause = sandbox.cause
        self._ended_cpu_ns += sandbox.glance().cpu_ns
        self._deaths[str(cause.kind) if cause is not None else "unknown"] += 1
        self._in_use.discard(sandbox)
        if self._ready_since.pop(sandbox, None) is not None:
            self._ready.remove(sandbox)
        self._changed.set()

    # -- asking it

    def _tell_sizes(self) -> None:
        telemetry.pool_sandboxes.set(len(self._ready), {"state": "ready"})
        telemetry.pool_sandboxes.set(len(self._in_use), {"state": "in use"})
        telemetry.pool_sandboxes.set(self._starting, {"state": "starting"})

    def usage(self) -> Usage:
        """CPU time of all sandboxes that ever were, and the memory that those of now use."""
        each = [sandbox.glance() for sandbox in (*self._ready, *self._in_use)]
        cpu_ns = self._ended_cpu_ns + sum(one.cpu_ns for one in each)
        return Usage(cpu_ns, sum(one.peak_bytes for one in each))

    def statistics(self) -> dict[str, Any]:
        """Sizes now, counts since the start, and latencies in seconds (of the last thousand)."""
        return {
            "capacity": self.capacity,
            "warm": self.target,
            "ready": len(self._ready),
            "in_use": len(self._in_use),
            "starting": self._starting,
            "waiting": len(self._waiters),
            "started": self._started,
            "failed": self._failed,
            "taken": self._taken,
            "hits": self._hits,
            "hit_rate": self._hits / self._taken if self._taken else None,
            "hand_out_s": percentiles(self._latencies),
            "start_s": percentiles(self._start_times),
            "start_core_s": self._costs.core_s,
            "held_back": self._held_back,
            "deferred": self._deferred,
            "dropped": dict(self._dropped),
            "endings": dict(self._deaths),
            "failure": str(self.failure) if self.failure is not None else None,
        }


def _kind_of(failure: OrchestratorError | None) -> str:
    if failure is None:
        return ""
    return "engine" if isinstance(failure, RuntimeUnavailable) else "start"


def percentiles(values: collections.deque[float]) -> dict[str, float] | None:
    """p50, p95, p99 and the count; None without values."""
    if not values:
        return None
    ordered = sorted(values)

    def at(part: float) -> float:
        return ordered[min(int(part * len(ordered)), len(ordered) - 1)]

    return {"p50": at(0.5), "p95": at(0.95), "p99": at(0.99), "count": float(len(ordered))}
