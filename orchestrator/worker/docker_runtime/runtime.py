"""Containers for sandboxes: made under the lock-down, attached before they start, watched, and swept up."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Final

from orchestrator.errors import OrchestratorError
from orchestrator.task_groups import TaskGroup
from orchestrator.worker import image_pin, machine
from orchestrator.worker.cgroups import CgroupFailure, CgroupTree, SandboxCgroup, open_process
from orchestrator.worker.docker_runtime import failures, reaper, removal, stats
from orchestrator.worker.docker_runtime.attach import AttachStream, Receiver, attach
from orchestrator.worker.docker_runtime.container import Container, parse_state
from orchestrator.worker.docker_runtime.engine import (
    API_FLOOR,
    NEEDED_LIMITS,
    Engine,
    EngineInfo,
    endpoint_from_environment,
)
from orchestrator.worker.docker_runtime.engine_facts import parse_image
from orchestrator.worker.docker_runtime.events import ContainerEvent, EventStream
from orchestrator.worker.docker_runtime.given_up import GivenUp
from orchestrator.worker.docker_runtime.own_cgroups import OwnCgroups
from orchestrator.worker.docker_runtime.process_usage import ProcessUsage
from orchestrator.worker.docker_runtime.settings import RuntimeSettings
from orchestrator.worker.docker_runtime.usage import CgroupUsage, StatsUsage, UsageSource
from orchestrator.worker.isolation import Isolation, isolation_of
from orchestrator.worker.limits import SandboxLimits
from orchestrator.worker.lockdown import Lockdown
from orchestrator.worker.metering import Accounts
from orchestrator.worker.pool_sizing import Memory
from orchestrator.worker.run_queue import RunQueue

log = logging.getLogger(__name__)

_SWEEP_AT_CLOSE_S: Final = 30.0
_RETRY_FIRST_S: Final = 0.25
_RETRY_MOST_S: Final = 5.0
_GIVEN_UP_LOOK_S: Final = 1.0
_GIVEN_UP_PATIENCE_S: Final = 5.0


@dataclass
class _Counts:
    created: int = 0
    removed: int = 0
    reaped: int = 0
    leaked_cgroups: int = 0
    engine_losses: int = 0
    api_failures: int = 0


class DockerRuntime:
    """`async with` it. Owns the event stream, the reaper and the removal of what is thrown away.

    Entering raises RuntimeUnavailable when Docker cannot be used. Leaving removes every container that this run made.
    A side task that dies unexpectedly ends the whole (the exception leaves the `async with`).
    """

    def __init__(self, worker_id: str, settings: RuntimeSettings | None = None) -> None:
        self.settings = settings or RuntimeSettings()
        self.owner = reaper.Owner.this_process(worker_id)
        self.lockdown = Lockdown.load()
        self._engine = Engine(endpoint_from_environment(self.settings.docker_host), self.settings.call_timeout_s)
        self._tasks = TaskGroup()
        self._cgroups = OwnCgroups(self.owner.worker)
        self._live: set[str] = set()
        self._containers: dict[str, Container] = {}
        self._available = asyncio.Event()
        self._reap_soon = asyncio.Event()
        self._loss_listeners: list[Callable[[], None]] = []
        self._doubts = reaper.Doubts(self.settings.lease_patience_s)
        self._given_up = GivenUp(_GIVEN_UP_PATIENCE_S)
        self._counts = _Counts()
        self.accounts = Accounts()
        """What ended sandboxes used, and for what."""
        self._side_tasks: set[asyncio.Task[None]] = set()
        self._cleanups: set[asyncio.Task[None]] = set()
        self._closing = False
        self.info: EngineInfo | None = None
        self.image_id = ""
        self.repo_digests: tuple[str, ...] = ()
        self.image_digest = ""
        """The digest under which a registry has the image; its id when none does."""
        self.metering = ""
        """How the last container was metered: "parent", "container" (its own cgroup), "process" or "statistics"."""
        self.create_warnings: set[str] = set()

    # -- life

    async def __aenter__(self) -> DockerRuntime:
        try:
            self.info = await self._connect_first()
            self._choose_runtime(self.info)
            self._check_limits(self.info)
            await self._find_own_image()
            if self.settings.own_cgroups and self._engine.endpoint.local:
                self._cgroups.prepare(self.info.cgroup_driver)
            self._available.set()
            self.owner.open()
            await self.reap()
            await self._tasks.__aenter__()
        except BaseException:
            self.owner.close()
            self._engine.close()
            raise
        self._start_side_task(self._watch(), "docker-events")
        self._start_side_task(self._reap_regularly(), "docker-reaper")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            # Ends under way still need the Engine's events.
            if self._cleanups:
                await asyncio.wait(self._cleanups, timeout=_SWEEP_AT_CLOSE_S)
        finally:
            self._closing = True
            for task in list(self._side_tasks):
                task.cancel()
        try:
            await self._tasks.__aexit__(kind, exc, traceback)
        except BaseExceptionGroup as group:
            # The body's own exception needs no wrapping when nothing else went wrong.
            if group.exceptions != (exc,):
                raise
        finally:
            try:
                await self._sweep()
            finally:
                self._cgroups.dismantle()
                self.owner.close()
                self._engine.close()

    async def _connect_first(self) -> EngineInfo:
        """An Engine that is only silent (frozen, or busy) may answer yet; whatever else is wrong is told at once."""
        until = time.monotonic() + self.settings.start_patience_s
        while True:
            try:
                return await self._engine.connect()
            except failures.RuntimeUnavailable as exc:
                if exc.reason != "silent" or time.monotonic() >= until:
                    raise
                log.warning("docker_silent", extra={"code": exc.code, "error": exc.message})

    def _start_side_task(self, work: Coroutine[Any, Any, None], name: str) -> None:
        task = self._tasks.create_task(work, name=name)
        self._side_tasks.add(task)
        task.add_done_callback(self._side_tasks.discard)

    def spawn(self, work: Coroutine[Any, Any, None], name: str) -> bool:
        """Run clean-up work in the runtime's own task group, so that it outlives the cancellation of who asked for it.

        False when the runtime is closing: its sweep does the work then.
        """
        if self._closing:
            work.close()
            return False
        try:
            task = self._tasks.create_task(work, name=name)
        except RuntimeError:  # a side task has died, and the group is shutting down
            work.close()
            return False
        self._cleanups.add(task)
        task.add_done_callback(self._cleanups.discard)
        return True

    async def _sweep(self) -> None:
        """Remove what is left of this run. Bounded in time; the rest is the next reaper's: its owner will be gone."""
        self._live.clear()
        for container in list(self._containers.values()):
            container.stream.abort()
        with contextlib.suppress(TimeoutError, failures.RuntimeUnavailable):
            async with asyncio.timeout(_SWEEP_AT_CLOSE_S):
                for container in list(self._containers.values()):
                    with contextlib.suppress(failures.ContainerRefused, failures.RuntimeUnavailable):
                        await container.remove()
                await self._reap_to_the_end()

    async def _reap_to_the_end(self) -> None:
        """Until nothing of ours is left, nor to be expected. Raises RuntimeUnavailable when the Engine is not there."""
        pause = 0.25
        while True:
            try:
                # The Engine may refuse a removal and take it a moment later, and carry out a create that was given up.
                if not await self.reap() and not self._given_up.open(time.monotonic()):
                    return
            except failures.RuntimeUnavailable as exc:
                if exc.reason != "silent":
                    raise
                self._given_up.postpone(time.monotonic())
            await asyncio.sleep(pause)
            pause = min(2 * pause, _GIVEN_UP_LOOK_S)

    # -- the Engine

    async def answers(self) -> None:
        """Return as soon as the Engine says a word; costs a millisecond. Raises RuntimeUnavailable."""
        await self._engine.answers()

    @property
    def available(self) -> bool:
        return self._available.is_set()

    def on_loss(self, listener: Callable[[], None]) -> None:
        """Call `listener()` whenever the Engine's event stream has ended."""
        self._loss_listeners.append(listener)

    async def wait_until_available(self) -> None:
        """Return once the Engine answers and events flow. Never raises RuntimeUnavailable; tries with back-off."""
        delay = _RETRY_FIRST_S
        while True:
            try:
                await self._engine.connect()
                return
            except failures.RuntimeUnavailable as exc:
                log.debug("docker_unavailable", extra={"reason": exc.reason})
            await asyncio.sleep(delay)
            delay = min(2 * delay, _RETRY_MOST_S)

    async def _find_own_image(self) -> None:
        """Raises RuntimeUnavailable("image-missing" or "image-differs"), InvalidInput (a pin that is none)."""
        image = self.settings.image
        pin = image_pin.pin_of(image, self.settings.image_digest)
        try:
            found = parse_image(await self._engine.call("image", self._engine.api.inspect_image, image))
        except failures.ContainerGone as exc:
            raise failures.image_missing(image) from exc
        digests = image_pin.digests_of(found.id, found.repo_digests)
        if pin is not None and pin not in digests:
            raise failures.image_differs(image, pin, digests)
        self.image_id = found.id
        self.repo_digests = found.repo_digests
        self.image_digest = pin or digests[-1]

    @property
    def oci_runtime(self) -> str:
        """The one that is used, by the name that the Engine knows."""
        return self.settings.runtime or (self.info.default_runtime if self.info is not None else "")

    @property
    def isolation(self) -> Isolation:
        """How strong the wall is that this Engine, with the chosen OCI runtime, puts around a sandbox."""
        assert self.info is not None, "isolation is known once the runtime is entered"
        name = self.oci_runtime
        return isolation_of(name, self.info.runtime_paths.get(name, ""), self.info.security)

    def _choose_runtime(self, info: EngineInfo) -> None:
        wanted = self.settings.runtime
        if wanted is not None and wanted not in info.runtimes:
            known = ", ".join(sorted(info.runtimes))
            raise failures.RuntimeUnavailable(
                "runtime-missing",
                f"The Docker Engine has no runtime {wanted} (it has {known})",
                f'Add it to /etc/docker/daemon.json under "runtimes", or choose one of {known}.',
            )

    @property
    def _limited(self) -> bool:
        return self.info is not None and all(self.info.limits.get(name) for name in NEEDED_LIMITS)

    def _check_limits(self, info: EngineInfo) -> None:
        if not self._limited and self.settings.require_limits:
            raise failures.unlimited([name for name in NEEDED_LIMITS if not info.limits.get(name)])

    def memory(self) -> Memory | None:
        """Memory of the machine that runs the sandboxes; of another machine only how much it has in all."""
        if self._engine.endpoint.local:
            return machine.memory()
        total = self.info.memory_bytes if self.info is not None else 0
        return Memory(total, total) if total else None

    @property
    def local(self) -> bool:
        """Whether the sandboxes surely run on this machine."""
        return self._engine.endpoint.local

    # -- containers

    async def launch(
        self,
        sandbox_id: str,
        receiver: Receiver,
        *,
        limits: SandboxLimits | None = None,
        entrypoint: Sequence[str] | None = None,
        image: str | None = None,
    ) -> Container:
        """Create, attach and start a container under the lock-down.

        Raises RuntimeUnavailable, ContainerRefused. On failure or cancellation what was made is removed (by a task of
        ours, or by the reaper if even that fails).
        """
        self._live.add(sandbox_id)
        cgroup: SandboxCgroup | None = None
        container_id: str | None = None
        stream: AttachStream | None = None
        lease_until = time.time() + self.settings.lease_s
        asked = False
        try:
            cgroup = self._cgroups.make(sandbox_id)
            body = self.lockdown.create_body(
                image=image or self.image_id,
                labels=self.owner.labels(sandbox_id, lease_until),
                limits=limits or self.settings.limits,
                cgroup_parent=cgroup.name if cgroup is not None else None,
                runtime=self.settings.runtime,
                entrypoint=entrypoint,
                isolation=self.isolation,
            )
            api = self._engine.api
            asked = True
            made = await self._engine.call(
                "create", api.create_container_from_config, body, reaper.container_name(sandbox_id)
            )
            self._counts.created += 1
            container_id = str(made["Id"])
            self.create_warnings.update(made.get("Warnings") or ())
            stream = await attach(
                self._engine.endpoint, API_FLOOR, container_id, receiver, self.settings.call_timeout_s
            )
            container = Container(
                engine=self._engine,
                container_id=container_id,
                sandbox_id=sandbox_id,
                stream=stream,
                cgroup=cgroup,
                usage=CgroupUsage(cgroup.reader, RunQueue(cgroup.processes)) if cgroup is not None else StatsUsage(),
                forget=self._forget,
                lease_until=lease_until,
            )
            self._containers[container_id] = container
            await self._engine.call("start", api.start, container_id)
            self.metering = "parent"
            if cgroup is None or not self._cgroups.works(cgroup):
                container.usage = await self._other_usage(container)
            return container
        except BaseException as exc:
            if stream is not None:
                stream.abort()
            self._live.discard(sandbox_id)
            if asked and container_id is None and not isinstance(exc, failures.ContainerRefused):
                self._given_up.add(sandbox_id, time.monotonic())
            self._note_failure(exc)
            self.spawn(self._discard(sandbox_id, container_id, cgroup), "docker-discard")
            raise

    async def _other_usage(self, container: Container) -> UsageSource:
        """The container's own cgroup if its files can be read here, else the Engine's statistics."""
        if self._engine.endpoint.local:
            state = parse_state(await self._engine.call("inspect", self._engine.api.inspect_container, container.id))
            try:
                tree = CgroupTree.of_this_machine(self.owner.worker)
                reader = open_process(tree.hierarchies, state.pid, container.id)
                self.metering = "container"
                return CgroupUsage(reader, RunQueue(lambda: {state.pid}))
            except CgroupFailure as exc:
                log.info("container_cgroup_unreadable", extra={"reason": str(exc)})
            if self.isolation.rank <= Isolation.USERNS.rank and not self._limited:  # else the Engine has better figures
                with contextlib.suppress(CgroupFailure):
                    process = ProcessUsage(state.pid)
                    self.metering = "process"
                    return process
        usage = StatsUsage()
        self.metering = "statistics"
        self._start_side_task(self._follow_stats(container, usage), "docker-stats")
        return usage

    async def _follow_stats(self, container: Container, usage: StatsUsage) -> None:
        with contextlib.suppress(OrchestratorError):
            await stats.follow(self._engine.endpoint, API_FLOOR, container.id, usage, self.settings.call_timeout_s)

    def _forget(self, container: Container) -> None:
        if container.removed:
            self._counts.removed += 1
        else:
            self._reap_soon.set()
        self._live.discard(container.sandbox_id)
        self._containers.pop(container.id, None)

    async def _discard(self, sandbox_id: str, container_id: str | None, cgroup: SandboxCgroup | None) -> None:
        """Throw away a half-made container. Failures are the reaper's work."""
        container = self._containers.get(container_id or "")
        with contextlib.suppress(OrchestratorError):
            if container is not None:
                await container.remove()
                return
            if container_id is not None:
                with contextlib.suppress(failures.ContainerGone):
                    await removal.remove_container(self._engine, container_id)
        if cgroup is not None:
            cgroup.reader.close()
            if container_id is not None:
                self._cgroups.remove(sandbox_id)
        if container_id is None:
            self._reap_soon.set()

    def _note_failure(self, exc: BaseException) -> None:
        if isinstance(exc, OrchestratorError):
            self._counts.api_failures += 1

    # -- watching

    async def _watch(self) -> None:
        """Follow the Engine's events for ever; when it goes away, tell the containers and wait for it."""
        since_ns = time.time_ns()
        while True:
            with contextlib.suppress(failures.RuntimeUnavailable):
                label = f"{reaper.LABEL_INSTANCE}={self.owner.instance}"
                stream = EventStream(self._engine.endpoint, API_FLOOR, label, since_ns, self.settings.call_timeout_s)
                async with stream:
                    self._available.set()
                    async for event in stream:
                        since_ns = max(since_ns, event.time_ns + 1)
                        self._on_event(event)
            self._available.clear()
            self._counts.engine_losses += 1
            for listener in self._loss_listeners:
                listener()
            for container in list(self._containers.values()):
                container.died.set()
            await self.wait_until_available()
            with contextlib.suppress(OrchestratorError):
                await self.reap()

    def _on_event(self, event: ContainerEvent) -> None:
        container = self._containers.get(event.container_id)
        if container is None:
            return
        if event.action == "oom":
            container.ran_out_of_memory()
        else:
            container.died.set()

    async def _reap_regularly(self) -> None:
        while True:
            may_come = self._given_up.open(time.monotonic())
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_GIVEN_UP_LOOK_S if may_come else self.settings.reap_period_s):
                    await self._reap_soon.wait()
                await asyncio.sleep(_GIVEN_UP_LOOK_S)  # what was given up is still under way in the Engine
            self._reap_soon.clear()
            try:
                await self.renew_leases()
                await self.reap()
            except failures.RuntimeUnavailable:
                self._given_up.postpone(time.monotonic())
            except OrchestratorError as exc:
                log.warning("reaping_failed", extra={"code": exc.code, "error": exc.message})

    async def renew_leases(self) -> None:
        """Long before they are over, so that a few failures do not matter. Raises RuntimeUnavailable."""
        now = time.time()
        for container in list(self._containers.values()):
            # Also when the clock was set back, and the lease seems to last for ever.
            if not self.settings.lease_s / 2 < container.lease_until - now <= self.settings.lease_s + 60:
                with contextlib.suppress(failures.ContainerRefused):
                    await container.renew_lease(now + self.settings.lease_s)

    async def reap(self) -> int:
        """Remove every container that nobody owns any more, and cgroups without one; how many containers.

        Raises RuntimeUnavailable.
        """
        found = await removal.labelled(self._engine, reaper.LABEL_SANDBOX)
        orphans = reaper.orphans(found, self.owner, self._live, time.time(), reaper.process_is_alive)
        doomed = orphans[reaper.Verdict.OWNER_GONE]
        doomed += self._doubts.settled(orphans[reaper.Verdict.LEASE_OVER], time.monotonic())
        await removal.remove_orphans(self._engine, doomed, self._note_reaped)
        self._given_up.settle(item.sandbox for item in doomed)
        removed = {(item.worker, item.sandbox) for item in doomed}
        kept = {(item.worker, item.sandbox) for item in found} - removed
        self._counts.leaked_cgroups += self._cgroups.remove_stale(
            removed, kept, self._live, self.settings.leftover_age_s
        )
        return len(doomed)

    def _note_reaped(self, container: reaper.Labelled) -> None:
        self._counts.reaped += 1
        log.info("container_reaped", extra={"worker": container.worker, "container": container.sandbox})

    def statistics(self) -> dict[str, Any]:
        """Counts since the start, and what is running now."""
        return {
            "available": self.available,
            "engine": self.info.version if self.info is not None else None,
            "runtime": self.oci_runtime or None,
            "isolation": None if self.info is None else str(self.isolation),
            "image_id": self.image_id,
            "image_digest": self.image_digest,
            "metering": self.metering,
            "own_cgroups": self._cgroups.in_use,
            "containers": len(self._containers),
            **vars(self._counts),
            "accounts": self.accounts.statistics(),
        }
