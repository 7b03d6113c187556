"""The ground on which a case is run: real sandboxes of this machine, with an innocent one beside the guilty."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import json
import secrets
from collections.abc import AsyncIterator, Sequence
from typing import Any, Final

from orchestrator.worker import sandbox_events as ev
from orchestrator.worker.battery.case import NotApplicable, expect
from orchestrator.worker.cgroups import CgroupFailure, CgroupTree
from orchestrator.worker.docker_runtime import DockerRuntime, RuntimeSettings
from orchestrator.worker.limits import MIB, SandboxLimits, SliceLimits
from orchestrator.worker.sandbox import Sandbox, SandboxSettings

#: Enough for Node, little enough for a bomb to go off soon.
SMALL: Final = SandboxLimits(memory_bytes=192 * MIB)
_CASE_S: Final = 90.0
_OWN_KERNEL: Final = ("runsc", "kata")

Events = list[Any]


class Ground:
    """Opens a runtime of its own for each attack, so that no case can hide behind another. Raises RuntimeUnavailable.

    `settings` are those of the Worker that is judged (image, Engine, OCI runtime); limits are the battery's own.
    """

    def __init__(self, settings: RuntimeSettings | None = None) -> None:
        self.settings = settings or RuntimeSettings()
        self.worker_id = f"battery-{secrets.token_hex(6)}"

    def need_the_hosts_kernel(self) -> None:
        """Raise `NotApplicable` when sandboxes run on a kernel of their own, which has files and processes of its own."""
        runtime = self.settings.runtime
        if runtime is not None and runtime.startswith(_OWN_KERNEL):
            raise NotApplicable(f"{runtime} runs sandboxes on a kernel of their own")

    @contextlib.asynccontextmanager
    async def runtime(self, limits: SandboxLimits = SMALL) -> AsyncIterator[DockerRuntime]:
        """A runtime for one case; whatever the case leaves behind is a failure of the case."""
        settings = dataclasses.replace(self.settings, limits=limits)
        worker_id = f"{self.worker_id}-{secrets.token_hex(4)}"
        async with asyncio.timeout(_CASE_S), DockerRuntime(worker_id, settings) as runtime:
            yield runtime
        expect(runtime.statistics()["containers"] == 0, "a container outlived its sandbox")
        expect(not _cgroups_left(worker_id), "a process outlived its container")

    async def attack(
        self,
        work_function: str,
        data: Sequence[Any] = (0,),
        *,
        entrypoint: Sequence[str] | None = None,
        settings: SandboxSettings | None = None,
        slice_timeout_s: float = 2.0,
        bystander: bool = False,
    ) -> Events:
        """Run a work function over `data`; what the sandbox reported, console, events and progress left out.

        Ends when every slice has an answer or the sandbox has ended. With a `bystander` an innocent sandbox must answer
        before and after. `entrypoint` replaces the evaluator by a program that owns its process.
        """
        uris = ["data:application/json," + json.dumps(value) for value in data]
        async with self.runtime() as runtime:
            innocent = await _innocent(runtime) if bystander else None
            sandbox = await Sandbox.start(runtime, settings, entrypoint=entrypoint)
            limits = SliceLimits(slice_timeout_s=slice_timeout_s, progress_timeout_s=slice_timeout_s)
            await sandbox.assign(ev.Assignment("job", work_function), limits)
            for key, uri in enumerate(uris, 1):
                sandbox.submit(key, uri)
            events = await _collect(sandbox, len(uris))
            if innocent is not None:
                await _answers(innocent)
                await innocent.kill()
            await sandbox.kill()
            expect(runtime.statistics()["containers"] == 0, "a container outlived its sandbox")
            return events

    async def everything(self, work_function: str, data: Sequence[Any] = (0,)) -> Events:
        """All that an honest work function says, in order, until each slice has its answer."""
        async with self.runtime() as runtime:
            sandbox = await Sandbox.start(runtime)
            public = {"name": "a job", "description": "", "link": ""}
            assignment = ev.Assignment("job", work_function, public=public)
            await sandbox.assign(assignment, SliceLimits(slice_timeout_s=30.0, progress_timeout_s=30.0))
            for key, value in enumerate(data, 1):
                sandbox.submit(key, "data:application/json," + json.dumps(value))
            events = await _collect(sandbox, len(data), silent=())
            await sandbox.kill()
            return events


def _cgroups_left(worker_id: str) -> bool:
    try:
        return bool(CgroupTree.of_this_machine(worker_id).sandboxes())
    except (CgroupFailure, ValueError):
        return False  # a machine whose tree we cannot see keeps none of ours


async def _innocent(runtime: DockerRuntime) -> Sandbox:
    sandbox = await Sandbox.start(runtime)
    await sandbox.assign(ev.Assignment("bystander", "(x) => x"))
    await _answers(sandbox)
    return sandbox


async def _answers(sandbox: Sandbox) -> None:
    sandbox.submit(1, "data:application/json,true")
    [event] = await _collect(sandbox, 1)
    honest = isinstance(event, ev.SliceCompleted) and event.result.string == "true"
    expect(honest, f"the sandbox beside it was harmed: {event!r}")


_QUIET: Final = (ev.Console, ev.Progress, ev.CustomEvent)
_ANSWERS: Final = (ev.SliceCompleted, ev.SliceFailed, ev.SliceRejected)


async def _collect(sandbox: Sandbox, count: int, silent: tuple[type, ...] = _QUIET) -> Events:
    events: Events = []
    answers = 0
    async for event in sandbox.events():
        if not isinstance(event, silent):
            events.append(event)
        answers += isinstance(event, _ANSWERS)
        if answers == count:
            break
    return events
