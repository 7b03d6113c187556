"""Hostile programs in real containers of the real Evaluator image, as the worker sees them from outside."""

from __future__ import annotations

import asyncio
import json
import secrets
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import docker
import docker.errors
import pytest

from orchestrator.worker import sandbox_events as ev
from orchestrator.worker.cgroups import CgroupTree
from orchestrator.worker.docker_runtime import DockerRuntime, RuntimeSettings
from orchestrator.worker.docker_runtime.reaper import LABEL_WORKER
from orchestrator.worker.limits import MIB, SandboxLimits, SliceLimits
from orchestrator.worker.sandbox import Sandbox, SandboxSettings

IMAGE = "dcp-evaluator:local"
SMALL = SandboxLimits(memory_bytes=192 * MIB)


@pytest.fixture(scope="session")
def engine() -> Iterator[docker.DockerClient]:
    client = docker.from_env()
    try:
        client.images.get(IMAGE)
    except docker.errors.ImageNotFound:
        pytest.fail(f"{IMAGE} is missing: run `make image`")
    yield client
    client.close()


@pytest.fixture
def worker_id(engine: docker.DockerClient) -> Iterator[str]:
    name = f"hostile-{secrets.token_hex(4)}"
    yield name
    left = engine.containers.list(all=True, filters={"label": f"{LABEL_WORKER}={name}"}, ignore_removed=True)
    for container in left:
        container.remove(force=True)
    assert left == [], "a container outlived its sandbox"
    assert CgroupTree.of_this_machine(name).sandboxes() == set(), "a process outlived its container"


Attack = Callable[..., Awaitable[list[Any]]]


@pytest.fixture
def attack(worker_id: str) -> Attack:
    """`await attack("() => …", slices=1, entrypoint=None)`: run a work function; its events, without console lines.

    Ends when every slice has an answer or the sandbox has ended. A bystander in a second sandbox must stay unharmed: it
    answers before and after, and its container is never touched.
    """

    async def run(
        work_function: str,
        data: list[Any] | None = None,
        *,
        entrypoint: list[str] | None = None,
        settings: SandboxSettings | None = None,
        slice_timeout_s: float = 2.0,
        bystander: bool = False,
    ) -> list[Any]:
        uris = ["data:application/json," + json.dumps(value) for value in (data or [0])]
        async with asyncio.timeout(60), DockerRuntime(worker_id, RuntimeSettings(image=IMAGE, limits=SMALL)) as runtime:
            innocent = await _innocent(runtime) if bystander else None
            sandbox = await Sandbox.start(runtime, settings, entrypoint=entrypoint)
            limits = SliceLimits(slice_timeout_s=slice_timeout_s, progress_timeout_s=slice_timeout_s)
            await sandbox.assign(ev.Assignment("job", work_function), limits)
            for key, uri in enumerate(uris, 1):
                sandbox.submit(key, uri)
            events = await _collect(sandbox, len(uris))
            if innocent is not None:
                await _answers(innocent)
            await sandbox.kill()
            statistics = runtime.statistics()
            assert statistics["containers"] == (innocent is not None)
            return events

    return run


async def _innocent(runtime: DockerRuntime) -> Sandbox:
    sandbox = await Sandbox.start(runtime)
    await sandbox.assign(ev.Assignment("bystander", "(x) => x"))
    await _answers(sandbox)
    return sandbox


async def _answers(sandbox: Sandbox) -> None:
    sandbox.submit(1, "data:application/json,true")
    [event] = await _collect(sandbox, 1)
    assert isinstance(event, ev.SliceCompleted)
    assert event.result.string == "true"


async def _collect(sandbox: Sandbox, count: int) -> list[Any]:
    events: list[Any] = []
    answers = 0
    async for event in sandbox.events():
        if not isinstance(event, (ev.Console, ev.Progress, ev.CustomEvent)):
            events.append(event)
        answers += isinstance(event, (ev.SliceCompleted, ev.SliceFailed, ev.SliceRejected))
        if answers == count:
            break
    return events
