"""One started container: its stream, its cgroup, and the steps of its end."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from orchestrator.worker.cgroups import SandboxCgroup
from orchestrator.worker.docker_runtime import failures, reaper
from orchestrator.worker.docker_runtime.attach import AttachStream
from orchestrator.worker.docker_runtime.engine import Engine
from orchestrator.worker.docker_runtime.removal import remove_container
from orchestrator.worker.docker_runtime.usage import UsageSource

#: What Docker reports when a process in trace-stop is taken for an exited one: only a hostile program does that.
FALSE_EXIT: Final = 4294967295
_EMPTYING_TRIES: Final = 8
_EMPTYING_PAUSE_S: Final = 0.02


@dataclass(frozen=True, slots=True)
class ContainerState:
    """The Engine's last word on a container. `exit_code` is None while it runs."""

    running: bool
    exit_code: int | None
    oom_killed: bool
    pid: int
    error: str = ""


def parse_state(inspected: dict[str, Any]) -> ContainerState:
    state = inspected.get("State") or {}
    running = bool(state.get("Running"))
    return ContainerState(
        running=running,
        exit_code=None if running else int(state.get("ExitCode", 0)),
        oom_killed=bool(state.get("OOMKilled")),
        pid=int(state.get("Pid") or 0),
        error=str(state.get("Error") or ""),
    )


class Container:
    """A container that was created, attached and started by `DockerRuntime.launch`."""

    def __init__(
        self,
        *,
        engine: Engine,
        container_id: str,
        sandbox_id: str,
        stream: AttachStream,
        cgroup: SandboxCgroup | None,
        usage: UsageSource,
        forget: Callable[[Container], None],
        lease_until: float,
    ) -> None:
        self._engine = engine
        self.id = container_id
        self.sandbox_id = sandbox_id
        self.stream = stream
        self.cgroup = cgroup
        self.usage = usage
        self.oom_seen = False
        self.on_oom: Callable[[], None] = lambda: None
        """Called when the kernel has killed something in it for memory; its end may follow, or not."""
        self.died: asyncio.Event = asyncio.Event()
        """Set by the Engine's `die` event (or when the event stream is lost: then ask `state`)."""
        self._forget = forget
        self._removed = False
        self.lease_until = lease_until

    @property
    def removed(self) -> bool:
        """Whether the Engine has it no more."""
        return self._removed

    def ran_out_of_memory(self) -> None:
        """The Engine says so."""
        self.oom_seen = True
        self.on_oom()

    async def state(self) -> ContainerState:
        """Raises ContainerGone, RuntimeUnavailable."""
        inspected = await self._engine.call("inspect", self._engine.api.inspect_container, self.id)
        state = parse_state(inspected)
        if self.oom_seen or (self.cgroup is not None and self.cgroup.reader.oom_kills() > 0):
            return ContainerState(state.running, state.exit_code, True, state.pid, state.error)
        return state

    async def renew_lease(self, until: float) -> None:
        """Say by its name that it is owned until then (Unix time). Raises RuntimeUnavailable, ContainerRefused."""
        name = reaper.container_name(self.sandbox_id, until)
        with contextlib.suppress(failures.ContainerGone):
            await self._engine.call("rename", self._engine.api.rename, self.id, name)
        self.lease_until = until

    async def kill(self) -> None:
        """SIGKILL, after dropping the stream (a stalled stream would hold the kill up). Fine when already dead.

        Raises RuntimeUnavailable.
        """
        self.stream.abort()
        with contextlib.suppress(failures.ContainerGone, failures.ContainerRefused):
            await self._engine.call("kill", self._engine.api.kill, self.id)

    async def remove(self) -> bool:
        """Remove the container (killing it if need be) and its cgroup; whether nothing of it is left. Idempotent.

        Raises RuntimeUnavailable or ContainerRefused, and leaves the rest to the reaper.
        """
        self.stream.abort()
        if self._removed:
            return True
        try:
            with contextlib.suppress(failures.ContainerGone):
                await remove_container(self._engine, self.id)
            clean = await empty_cgroup(self.cgroup)
            self._removed = True
            return clean
        finally:
            self.usage.close()
            if self.cgroup is not None:
                self.cgroup.reader.close()
            self._forget(self)


async def empty_cgroup(cgroup: SandboxCgroup | None) -> bool:
    """See to it that no process outlived its container, and remove the cgroup; False when something is still inside.

    A process in trace-stop survives the Engine's `rm -f`, pinning its memory (observed with Docker 20.10): it is
    killed here.
    """
    if cgroup is None:
        return True
    for attempt in range(_EMPTYING_TRIES):
        if cgroup.remove():
            return True
        if attempt >= 2:
            cgroup.kill()
        await asyncio.sleep(_EMPTYING_PAUSE_S * 2**attempt)
    return cgroup.remove()
