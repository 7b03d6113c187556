from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence

import pytest

from orchestrator.scheduler.group_commit import GroupCommit


@contextlib.asynccontextmanager
async def running(commits: GroupCommit[int]) -> AsyncIterator[None]:
    task = asyncio.ensure_future(commits.run())
    try:
        yield
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


async def test_what_arrives_meanwhile_goes_together() -> None:
    groups: list[list[int]] = []
    gate, entered = asyncio.Event(), asyncio.Event()

    async def apply(items: Sequence[int]) -> None:
        groups.append(list(items))
        entered.set()
        await gate.wait()

    commits = GroupCommit(apply)
    async with running(commits), asyncio.TaskGroup() as tasks:
        tasks.create_task(commits.submit([1]))
        await entered.wait()
        for number in (2, 3, 4):
            tasks.create_task(commits.submit([number]))
        await asyncio.sleep(0)
        gate.set()
    assert groups == [[1], [2, 3, 4]]


async def test_groups_are_bounded_but_a_submission_stays_whole() -> None:
    groups: list[list[int]] = []

    async def apply(items: Sequence[int]) -> None:
        groups.append(list(items))

    commits = GroupCommit(apply, max_group=3)
    waiting = [asyncio.ensure_future(commits.submit(part)) for part in ([1, 2], [3, 4], [5], [6, 7, 8, 9])]
    await asyncio.sleep(0)
    async with running(commits):
        await asyncio.gather(*waiting)
    assert groups == [[1, 2], [3, 4, 5], [6, 7, 8, 9]]


async def test_one_bad_item_does_not_harm_the_others() -> None:
    done: list[int] = []

    async def apply(items: Sequence[int]) -> None:
        if 2 in items:
            raise ValueError("two")
        done.extend(items)

    commits = GroupCommit(apply)
    waiting = [asyncio.ensure_future(commits.submit([number])) for number in (1, 2, 3)]
    await asyncio.sleep(0)
    async with running(commits):
        outcomes = await asyncio.gather(*waiting, return_exceptions=True)
    assert done == [1, 3]
    assert [type(outcome) for outcome in outcomes] == [type(None), ValueError, type(None)]


async def test_nothing_to_submit_waits_for_nothing() -> None:
    async def apply(items: Sequence[int]) -> None:
        pytest.fail("not called")

    await GroupCommit(apply).submit([])
