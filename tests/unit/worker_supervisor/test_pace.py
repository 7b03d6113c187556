"""What comes up within a short time leaves together, and the first at once."""

from __future__ import annotations

import asyncio

import pytest

from orchestrator.worker.pace import Pace


async def test_the_first_goes_at_once_and_the_rest_together() -> None:
    pace = Pace(0.02)
    loop = asyncio.get_running_loop()
    begun = loop.time()
    left: list[float] = []

    async def report() -> None:
        await pace.turn()
        left.append(loop.time() - begun)

    async with asyncio.TaskGroup() as group:
        for _ in range(5):
            group.create_task(report())
    assert left[0] < min(left[1:])
    assert min(left[1:]) >= 0.019
    assert len(left) == 5


async def test_after_a_pause_nobody_waits() -> None:
    pace = Pace(0.0)
    for _ in range(3):
        async with asyncio.timeout(0.5):
            await pace.turn()


async def test_who_gives_up_takes_nobody_along() -> None:
    pace = Pace(0.05)
    await pace.turn()
    first, second = asyncio.ensure_future(pace.turn()), asyncio.ensure_future(pace.turn())
    await asyncio.sleep(0)
    first.cancel()
    await second
    with pytest.raises(asyncio.CancelledError):
        await first
