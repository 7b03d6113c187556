"""Real containers of the real Evaluator image, under a worker id of the test's own."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import docker
import pytest

from orchestrator.worker import sandbox_events as ev
from orchestrator.worker.docker_runtime import DockerRuntime, RuntimeSettings
from orchestrator.worker.docker_runtime.reaper import LABEL_WORKER
from orchestrator.worker.sandbox import Sandbox
from tests.parts import containers as parts

IMAGE = parts.IMAGE
engine = parts.engine


@pytest.fixture
def worker_id(engine: docker.DockerClient) -> Iterator[str]:
    """A worker id nobody else has; whatever carries it is removed after the test, and must not be there."""
    name = f"test-{secrets.token_hex(4)}"
    yield name
    left = engine.containers.list(all=True, filters={"label": f"{LABEL_WORKER}={name}"}, ignore_removed=True)
    for container in left:
        container.remove(force=True)
    assert left == [], "containers were left behind"


@pytest.fixture
def runtime(worker_id: str) -> Callable[..., Any]:
    """`async with runtime(field=…) as r`: a runtime with settings changed."""

    @asynccontextmanager
    async def opened(worker: str = worker_id, **changes: Any) -> AsyncIterator[DockerRuntime]:
        async with DockerRuntime(worker, replace(RuntimeSettings(image=IMAGE), **changes)) as made:
            yield made

    return opened


@pytest.fixture
def containers(engine: docker.DockerClient) -> Callable[[str], list[Any]]:
    def list_them(worker: str) -> list[Any]:
        return list(
            engine.containers.list(all=True, filters={"label": f"{LABEL_WORKER}={worker}"}, ignore_removed=True)
        )

    return list_them


@pytest.fixture
def working() -> Callable[..., Awaitable[Sandbox]]:
    """`await working(runtime, "x => x")`: a sandbox with that work function assigned."""

    async def started(made: DockerRuntime, work_function: str, *arguments: str, **how: Any) -> Sandbox:
        limits = how.pop("limits", None)
        sandbox = await Sandbox.start(made, **how)
        await sandbox.assign(ev.Assignment("job", work_function, arguments), limits)
        return sandbox

    return started


@pytest.fixture
def take() -> Callable[..., Awaitable[list[Any]]]:
    """`await take(sandbox, 3)`: the next three events that are not console lines or progress; without a number, all."""

    async def taken(sandbox: Sandbox, count: int | None = None, *, every: bool = False) -> list[Any]:
        events: list[Any] = []
        async with asyncio.timeout(30):
            async for event in sandbox.events():
                if every or not isinstance(event, (ev.Console, ev.Progress)):
                    events.append(event)
                if count is not None and len(events) == count:
                    break
        return events

    return taken
