from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from orchestrator.task_groups import TaskGroup


class Broken(Exception):
    pass


async def fail_when(event: asyncio.Event) -> None:
    await event.wait()
    raise Broken


async def fails_while_left() -> None:
    event = asyncio.Event()
    async with TaskGroup() as group:
        group.create_task(fail_when(event))
        asyncio.get_running_loop().call_soon(event.set)


async def fails_in_the_body() -> None:
    event = asyncio.Event()
    async with TaskGroup() as group:
        group.create_task(fail_when(event))
        event.set()
        await asyncio.Event().wait()


async def two_fail() -> None:
    event = asyncio.Event()
    async with TaskGroup() as group:
        group.create_task(fail_when(event))
        group.create_task(fail_when(event))
        asyncio.get_running_loop().call_soon(event.set)


async def body_raises() -> None:
    async with TaskGroup() as group:
        group.create_task(asyncio.Event().wait())
        raise Broken


@pytest.mark.parametrize("way", [fails_while_left, fails_in_the_body, two_fail, body_raises])
async def test_whoever_left_a_failed_group_can_still_be_timed_out(way: Callable[[], Awaitable[None]]) -> None:
    with pytest.raises(BaseExceptionGroup) as failure:
        await way()
    assert failure.group_contains(Broken)
    task = asyncio.current_task()
    assert task is not None
    assert task.cancelling() == 0
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0):
            await asyncio.Event().wait()


async def test_a_cancellation_from_outside_is_still_counted() -> None:
    counts: list[int] = []
    entered = asyncio.Event()

    async def leave_with_a_failure() -> None:
        event = asyncio.Event()
        me = asyncio.current_task()
        assert me is not None
        try:
            async with TaskGroup() as group:
                group.create_task(fail_when(event))
                asyncio.get_running_loop().call_soon(entered.set)
                asyncio.get_running_loop().call_later(0.01, event.set)
        finally:
            counts.append(me.cancelling())

    task = asyncio.create_task(leave_with_a_failure())
    await entered.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert counts == [1]


async def test_a_group_that_nothing_befell_changes_nothing() -> None:
    async with TaskGroup() as group:
        told = group.create_task(asyncio.sleep(0, "told"))
    task = asyncio.current_task()
    assert told.result() == "told"
    assert task is not None
    assert task.cancelling() == 0
