"""Containers of ours as the Engine lists them, and their removal."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterable
from typing import Final

from orchestrator.task_groups import TaskGroup
from orchestrator.worker.docker_runtime import failures, reaper
from orchestrator.worker.docker_runtime.engine import Engine

_AT_ONCE: Final = 4


async def labelled(engine: Engine, label: str) -> list[reaper.Labelled]:
    """Every container that has this label (`name` or `name=value`). Raises RuntimeUnavailable."""
    listed = await engine.call("list", engine.api.containers, all=True, filters={"label": label})
    return [reaper.Labelled.listed(item) for item in listed]


async def remove_container(engine: Engine, container_id: str) -> None:
    """`rm -f` with volumes. A removal that is already under way counts. Raises ContainerGone, RuntimeUnavailable."""
    try:
        await engine.call("remove", engine.api.remove_container, container_id, v=True, force=True)
    except failures.ContainerRefused as exc:
        if exc.info.get("status") != 409:
            raise


async def remove_orphans(
    engine: Engine, orphans: Iterable[reaper.Labelled], on_removed: Callable[[reaper.Labelled], None]
) -> None:
    """Remove these, several at once. What the Engine refuses to remove is left for another time.

    Raises RuntimeUnavailable.
    """
    hands = asyncio.Semaphore(_AT_ONCE)

    async def remove(container: reaper.Labelled) -> None:
        async with hands:
            with contextlib.suppress(failures.ContainerGone, failures.ContainerRefused):
                await remove_container(engine, container.container_id)
                on_removed(container)

    try:
        async with TaskGroup() as removals:
            for container in orphans:
                removals.create_task(remove(container))
    except* failures.RuntimeUnavailable as group:
        raise group.exceptions[0] from None
