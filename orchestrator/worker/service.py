"""The Worker: wires the supervisor's decisions to the Scheduler, the fetcher and the sandboxes.

Read `_supervise` first: events in, `Supervisor.handle_all`, actions out. Everything else here starts the parts or stops
them in order; `Hands` carries the actions out.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from orchestrator.errors import OrchestratorError
from orchestrator.settings import WorkerSettings
from orchestrator.worker import (
    machine,
    offers,
    ordered_end,
    parts,
    published,
    reconfiguring,
    reports,
    sizes,
    trusting,
)
from orchestrator.worker import supervisor_events as ev
from orchestrator.worker.account import WorkerAccount, load_account
from orchestrator.worker.answers import Answers
from orchestrator.worker.control import ControlServer
from orchestrator.worker.control_socket import StateLock
from orchestrator.worker.demand import Patience
from orchestrator.worker.descriptors import Descriptors
from orchestrator.worker.desk import Policy
from orchestrator.worker.docker_runtime import DockerRuntime, RuntimeUnavailable
from orchestrator.worker.hands import Hands
from orchestrator.worker.observing import Observing
from orchestrator.worker.offers import Offer
from orchestrator.worker.origins import OriginRules, Purpose
from orchestrator.worker.outbox import MEMORY_BYTES
from orchestrator.worker.owned_tasks import OwnedTasks
from orchestrator.worker.pausing import GiveBack
from orchestrator.worker.pool import SandboxPool
from orchestrator.worker.reconfiguring import Changes
from orchestrator.worker.scheduler_link import discovery
from orchestrator.worker.scheduler_link.link import SchedulerLink
from orchestrator.worker.scheduler_link.services import service_url
from orchestrator.worker.seats import Seats
from orchestrator.worker.steering import Steering
from orchestrator.worker.supervisor import Supervisor

log = logging.getLogger(__name__)

_CONFIG_RETRY_S: Final = (0.25, 0.5, 1.0, 2.0, 5.0)
_HARD_STOP_PATIENCE_S: Final = 5.0
_FETCH_AGAIN_S: Final = 60.0


class Worker:
    """`await run()` until somebody calls `stop`; a second, hard `stop` gives back what is not finished.

    `run` raises `RuntimeUnavailable` when Docker cannot be used at start, or is silent for a minute (with the remedy),
    `InvalidInput` for settings that make no sense, `StateInUse` when another worker has the state folder. A Scheduler
    that cannot be reached is waited for; a Docker Engine that goes away later, too.
    When `run` is cancelled, sandboxes are removed and nothing is returned: the Scheduler hears of it at the next start.
    """

    def __init__(
        self,
        settings: WorkerSettings,
        *,
        on_ready: Callable[[], None] = lambda: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.settings = settings
        self._config: dict[str, Any] = {}  # the Scheduler's, once it is known
        self.capacity, self.most = sizes.sandboxes(settings)
        self.rules = OriginRules.parse(settings.scheduler_url, settings.allow_origin)
        self.ready = asyncio.Event()
        """Set once sandboxes can be had and the Scheduler's configuration is known."""
        self.supervisor = Supervisor(self._policy(settings))
        self.account: WorkerAccount | None = None
        self.exit_status = 0
        """What the process should end with; not 0 when the Scheduler ended it (see `ordered_end`)."""
        self._clock = clock
        self._events: list[ev.Event] = []
        self._wake = asyncio.Event()
        self._stop_wanted = asyncio.Event()
        self._stopping_hard = False
        self._stop_at: float | None = None  # when waiting for the Scheduler ends
        self._delivering: asyncio.Timeout | None = None  # the last of that waiting
        self._answers = Answers(settings, self.supervisor, clock)
        self._steering = Steering(self, settings, clock)
        offers.offer(settings, self.capacity, {})  # raises now what it would raise later
        trusting.accepted_keys(settings.accept_scheduler_key)
        self._hands: Hands | None = None
        self._worktimes: Sequence[Mapping[str, str]] = ()
        self._capabilities = 0
        self._depth = 1
        self._on_ready = on_ready
        self._crowd = machine.Crowd(lambda: self.supervisor.wants_crowding)

    def _policy(self, settings: WorkerSettings) -> Policy:
        rules = published.rules(settings, self._config)
        return Policy(
            sandboxes=self.capacity,
            max_sandboxes=self.most,
            recycling=sizes.recycling_limits(settings),
            queue_s=settings.queue_s,
            prefetch_s=rules.prefetch_s,
            patience=Patience(idle_max_s=rules.idle_poll_s),
            jobs=offers.job_filter_of(settings),
            wages=offers.wage_rules(settings),
            trace_ratio=settings.trace_sample_ratio,
            max_unacknowledged_size=max(settings.outbox_bytes, MEMORY_BYTES),
        )

    # -- life --------------------------------------------------------------------------------------------------------

    def stop(self, *, hard: bool = False) -> None:
        """Soft: take no more work, finish and submit what sandboxes hold, return the rest. Hard: finish nothing."""
        log.info("worker_stopping", extra={"hard": hard})
        self._stop_wanted.set()
        self._stopping_hard = self._stopping_hard or hard
        if hard:  # whoever asks twice is in a hurry: the Scheduler may be away
            soon = self._clock() + _HARD_STOP_PATIENCE_S
            self._stop_at = soon if self._stop_at is None else min(self._stop_at, soon)
            if self._delivering is not None:
                with contextlib.suppress(RuntimeError):  # its time is up already
                    self._delivering.reschedule(asyncio.get_running_loop().time() + _HARD_STOP_PATIENCE_S)
        self._tell([ev.StopRequested(hard)])
        if self._hands is not None:
            self._hands.stop_asking()

    def drain(self) -> None:
        """Take no more work, finish and submit all that is held, then end; however long that takes."""
        if self._hands is None:
            self.stop()  # nothing can be held
            return
        log.info("worker_draining", extra={"held": self.supervisor.statistics().held})
        self._tell([ev.DrainRequested()])
        self._hands.stop_asking()

    def pause(self, reason: str, *, source: str = "command", give_back: bool | GiveBack = False) -> None:
        """Ask for no work until `resume`; several sources may hold the pause at once.

        What is held is finished and submitted. With `give_back`, what lies in no sandbox goes back to the Scheduler at
        once (EPAUSED), and with the setting pause_give_back = everything what runs, too.
        """
        if not isinstance(give_back, GiveBack):
            everything = GiveBack(self.settings.pause_give_back) is GiveBack.EVERYTHING
            returned = GiveBack.EVERYTHING if everything else GiveBack.UNSTARTED
            give_back = returned if give_back else GiveBack.NOTHING
        log.info("worker_paused", extra={"source": source, "reason": reason, "give_back": give_back.value})
        self._tell_one(ev.PauseRequested(source, reason, give_back))

    def resume(self, *, source: str = "command") -> None:
        """That source lets go. Without effect when it did not hold the worker."""
        log.info("worker_resumed", extra={"source": source})
        self._tell_one(ev.ResumeRequested(source))

    def reconfigure(self, settings: WorkerSettings) -> Changes:
        """Take new settings while running: what can hold at once does, the rest is named and waits for a restart.

        Raises `InvalidInput` for what makes no sense; then nothing has changed.
        """
        changes = reconfiguring.compare(self.settings, settings)
        now = changes.settings
        offers.offer(now, self.capacity, {})
        keys = trusting.accepted_keys(now.accept_scheduler_key)
        policy = self._policy(now)
        rules = OriginRules.parse(now.scheduler_url, now.allow_origin)
        self._steering.reconfigure(now)
        self.settings, self.rules = now, rules
        self._answers.reconfigure(now)
        self._tell_one(ev.PolicyChanged(policy))
        if self._hands is not None:
            self._link.reoffer(self._offer())
            self._link.accept_keys(keys)
            self._fetcher.allow(self._with_modules(rules))
            times = published.rules(now, self._config)
            self._pool.limit(times.start)
            self._seats.limit(times.slices, times.start.assign_s)
            self._hands.artifacts_s = times.artifacts_s
        log.info("settings_read_again", extra={"at_once": changes.at_once, "need_restart": changes.need_restart})
        return changes

    def _with_modules(self, rules: OriginRules) -> OriginRules:
        return rules.lending({Purpose.MODULES: [service_url(self._config, "packageManager")]})

    def _on_order(self, order: str) -> None:
        """The Scheduler says that this worker is to end."""
        if order == "disable":
            ordered_end.disable(self.settings.state_dir, self.settings.scheduler_url)
        self.exit_status = ordered_end.STATUSES[order]
        self.stop(hard=order != "restart")

    @property
    def paused_since(self) -> float | None:
        """On the worker's clock; None while nobody holds it."""
        return self.supervisor.paused_since

    async def run(self) -> None:
        """See the class."""
        async with contextlib.AsyncExitStack() as stack:
            settings = self.settings
            stack.enter_context(StateLock(settings.state_dir))
            ordered_end.check(settings.state_dir, enable=settings.enable)
            self.account = await asyncio.to_thread(
                load_account, settings.state_dir, settings.identity, settings.payment_address
            )
            await stack.enter_async_context(ControlServer(self, settings.state_dir))
            observing = Observing(self._answers, settings, self.account.worker_id, self._clock)
            self._observing = await stack.enter_async_context(observing)
            if await self._start(stack):
                await self._supervise()
                await self._finish()

    async def _start(self, stack: contextlib.AsyncExitStack) -> bool:
        """Start the parts, in an order that undoes cleanly. False when a stop came first."""
        settings, account = self.settings, self.account
        assert account is not None
        runtime = await stack.enter_async_context(parts.runtime(settings, account.worker_id))
        await parts.trust_image(settings, runtime)
        self._pool = await stack.enter_async_context(
            SandboxPool(runtime, sizes.pool_settings(settings, self.capacity, self.most))
        )
        self._answers.account, self._answers.runtime, self._answers.pool = account, runtime, self._pool
        self._pool.on_availability(self._on_availability)
        self._steering.pool = self._pool
        self._steering.look()  # quiet hours of this moment come before the first request for work
        config = await discovery.find(settings.scheduler_url, self._stop_wanted)
        if config is None:
            self._answers.delivered = True  # there was nothing
            return False
        self._config = config
        await self._start_link(stack, runtime, account)
        self._tasks = await stack.enter_async_context(OwnedTasks())
        self._hands = hands = self._make_hands()
        self._tasks.create_task(self._announce(hands), name="describe-sandboxes")
        if runtime.local and self.most > self.capacity:
            self._tasks.create_task(self._crowd.watch(), name="watch-crowd")
        self._tasks.create_task(self._steering.run(), name="steering")
        self._tasks.create_task(Descriptors().watch(), name="watch-descriptors")
        self._answers.fetcher, self._answers.seats, self._answers.link = self._fetcher, self._seats, self._link
        log.info(
            "worker_started",
            extra={"worker": account.worker_id, "scheduler": settings.scheduler_url, "sandboxes": self.capacity},
        )
        return True

    async def _start_link(
        self, stack: contextlib.AsyncExitStack, runtime: DockerRuntime, account: WorkerAccount
    ) -> None:
        """What speaks to the outside: the fetcher, the outbox, the notary, the link."""
        settings = self.settings
        client = await stack.enter_async_context(parts.client(settings, account))
        # Modules may come from the package manager that the Scheduler names: the worker asks it about them anyway.
        self._fetcher = await stack.enter_async_context(parts.fetcher(settings, self._with_modules(self.rules)))
        self._outbox = await stack.enter_async_context(
            parts.outbox(settings, lambda size: self._tell_one(ev.RoomChanged(size)))
        )
        self._tell_one(ev.PolicyChanged(self._policy(settings)))
        times = published.rules(settings, self._config)
        self._pool.limit(times.start)
        notary = None
        if settings.receipts:
            notary = await stack.enter_async_context(parts.notary(settings, account, runtime, times.slices))
        self._answers.notary = notary
        self._link = await stack.enter_async_context(
            SchedulerLink(
                client,
                self._config,
                account,
                self._offer(),
                self._tell_one,
                notary=notary,
                outbox=self._outbox,
                request_timeout_s=settings.request_timeout_s,
            )
        )
        self._link.orders.on_order = self._on_order

    def _make_hands(self) -> Hands:
        times = published.rules(self.settings, self._config)
        self._seats = Seats(
            self._pool, self._fetcher, self._tasks, self._tell, times.slices, assign_s=times.start.assign_s
        )
        return Hands(
            self.supervisor,
            self._link,
            self._fetcher,
            self._seats,
            self._tasks,
            sandbox_config=published.for_sandboxes(self._config),
            artifacts_s=times.artifacts_s,
            tell=self._tell_one,
            trace=self._observing.trace,
        )

    def _offer(self) -> Offer:
        runtime = self._answers.runtime
        assert runtime is not None
        isolation = {
            "level": str(runtime.isolation),
            "runtime": runtime.oci_runtime,
            "image": runtime.image_digest,
        }
        offer = offers.offer(self.settings, self.capacity, isolation)
        return dataclasses.replace(offer, send_begin=published.rules(self.settings, self._config).send_begin)

    async def _announce(self, hands: Hands) -> None:
        """Learn from the first sandbox what all of them can do, and let the supervisor begin."""
        if not self._pool.target:  # then the pool starts none unasked
            sandbox = await self._pool.take()
            await sandbox.kill()
        described = await self._pool.describe()
        self._worktimes = offers.worktimes(self.settings, reports.worktimes_of(described.worktimes))
        self._capabilities = reports.capabilities_of(described.capabilities)
        self._depth = described.pipeline_depth
        self._link.requests.describe(self._capabilities, self._worktimes)
        hands.worktimes = self._worktimes
        if not isinstance(self._pool.failure, RuntimeUnavailable):
            self._tell_one(self._runtime_ready())
        self.ready.set()
        self._answers.ready = True
        self._on_ready()

    def _runtime_ready(self) -> ev.RuntimeReady:
        names = frozenset(one["name"] for one in self._worktimes)
        return ev.RuntimeReady(self._capabilities, self._depth, names)

    def _on_availability(self, failure: OrchestratorError | None) -> None:
        """Only the loss of the Engine concerns everybody; a sandbox that failed to start is the pool's affair."""
        if isinstance(failure, RuntimeUnavailable):
            log.error("docker_lost", extra={"code": failure.code, "error": failure.message})
            self._tell_one(ev.RuntimeLost(failure.message))
        elif failure is None and self.ready.is_set():
            log.warning("docker_is_back")
            self._tell_one(self._runtime_ready())

    # -- the loop ------------------------------------------------------------------------------------------------------

    def _tell(self, events: Sequence[ev.Event]) -> None:
        self._events.extend(events)
        self._wake.set()

    def _tell_one(self, event: ev.Event) -> None:
        self._events.append(event)
        self._wake.set()

    async def _supervise(self) -> None:
        """Events in, actions out, until the supervisor has finished."""
        supervisor, hands = self.supervisor, self._hands
        assert hands is not None
        next_tick = self._clock()
        while not supervisor.finished and not self._waited_enough():
            await self._wait_until(min(next_tick, supervisor.wake_at))
            self._answers.looked_at = now = self._clock()
            events, self._events = self._events, []
            if now >= next_tick or now >= supervisor.wake_at:
                events.append(ev.Tick(self._crowd.take()))
                next_tick = now + supervisor.tick_s
            for action in supervisor.handle_all(events, now):
                hands.carry_out(action)
        self._answers.looked_at = None

    async def _wait_until(self, due: float) -> None:
        await asyncio.sleep(0)  # others get their turn even when events never cease
        if not self._events:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(max(0.0, due - self._clock())):
                    await self._wake.wait()
        self._wake.clear()

    def _waited_enough(self) -> bool:
        """Whether a stopping worker has waited long enough for the Scheduler's answers."""
        if not self._stop_wanted.is_set() or self.supervisor.statistics().queued:
            return False
        if self._stop_at is None:
            self._stop_at = self._clock() + self.settings.stop_timeout_s
        return self._clock() >= self._stop_at

    async def _finish(self) -> None:
        """Deliver what is queued, and give everything else back, while patience with the Scheduler lasts."""
        left = self.settings.stop_timeout_s if self._stop_at is None else max(self._stop_at - self._clock(), 0.0)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(left + self.settings.goodbye_timeout_s) as self._delivering:
                delivered = self.supervisor.finished and await self._link.flush(left)
                if not delivered:
                    kept, outstanding = self._outbox.kept, self._link.outstanding
                    log.error("reports_unacknowledged", extra={"count": outstanding, "results_kept": kept})
                self._answers.delivered = delivered
                await self._link.goodbye(self.settings.goodbye_timeout_s)
        log.info("worker_stopped", extra={"counts": self.supervisor.statistics().counts})

    # -- asking it -----------------------------------------------------------------------------------------------------

    def status(self) -> dict[str, Any]:
        """A snapshot for people and programs; see `Answers`."""
        return self._answers.status()

    def explain(
        self, *, job: str | None = None, slice_number: int | None = None, sandbox: int | None = None
    ) -> dict[str, Any]:
        """Why it has no work or less than it could, and what happened to a job, a slice or a sandbox."""
        return self._answers.explain(job=job, slice_number=slice_number, sandbox=sandbox)

    def drain_progress(self) -> dict[str, Any]:
        """What is left to do before a draining worker ends."""
        return self._answers.drain_progress()

    def outcome(self) -> dict[str, Any]:
        """How it ended; `delivered` says whether every report was acknowledged."""
        return self._answers.outcome()

    def statistics(self) -> dict[str, Any]:
        """Everything about this worker, by part. Empty parts have not started."""
        return self._answers.statistics()
