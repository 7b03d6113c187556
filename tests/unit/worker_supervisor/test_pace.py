"""What comes up within a short time leaves together, the first at once, all when one of them is out of patience."""

from __future__ import annotations

import asyncio

import pytest

from orchestrator.worker.scheduler_link.pace import Pace


async def test_the_first_goes_at_once_and_the_rest_together() -> None:
    pace = Pace()
    loop = asyncio.get_running_loop()
    begun = loop.time()
    left: list[float] = []

    async def report() -> None:
        await pace.turn(0.02)
        left.append(loop.time() - begun)

    async with asyncio.TaskGroup() as group:
        for _ in range(5):
            group.create_task(report())
    assert left[0] < min(left[1:])
    assert min(left[1:]) >= 0.019
    assert len(left) == 5


async def test_after_a_pause_nobody_waits() -> None:
    pace = Pace()
    for _ in range(3):
        async with asyncio.timeout(0.5):
            await pace.turn(0.0)


async def test_the_patient_leave_with_one_who_is_not() -> None:
    pace = Pace()
    await pace.turn(3600)
    patient = [asyncio.ensure_future(pace.turn(3600)) for _ in range(3)]
    await asyncio.sleep(0)
    assert not any(one.done() for one in patient)
    async with asyncio.timeout(5):
        await pace.turn(0.01)
        await asyncio.gather(*patient)


async def test_one_who_need_not_wait_takes_the_patient_along() -> None:
    pace = Pace()
    await pace.turn(3600)
    patient = asyncio.ensure_future(pace.turn(3600))
    await asyncio.sleep(0)
    async with asyncio.timeout(5):
        await pace.turn(0.0)
        await patient


async def test_who_gives_up_takes_nobody_along() -> None:
    pace = Pace()
    await pace.turn(0.05)
    first, second = asyncio.ensure_future(pace.turn(0.05)), asyncio.ensure_future(pace.turn(0.05))
    await asyncio.sleep(0)
    first.cancel()
    await second
    with pytest.raises(asyncio.CancelledError):
        await first
