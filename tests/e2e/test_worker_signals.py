"""SIGINT and SIGTERM to `worker run`: soft first, hard second; status 0, and nothing of it stays."""

from __future__ import annotations

import asyncio
import pathlib
import signal
import time

import pytest

from tests.e2e import harness
from tests.parts.containers import containers_in

pytestmark = [pytest.mark.docker, pytest.mark.npm]

LONG = """
    const job = compute.for(1, 6, (i) => { console.log('begun'); progress(); const end = Date.now() + 100000; while (Date.now() < end) progress(); return i; });
    job.on('console', () => say('begun'));
    await job.exec();
"""


async def stop_twice(command: harness.Command, number: signal.Signals) -> float:
    """Seconds from the second signal to the end."""
    before = command.log.read_text().count("worker_stopping")
    command.process.send_signal(number)
    await wait_for_text(command.log, "worker_stopping", before + 1)
    command.process.send_signal(number)
    stopped = time.monotonic()
    async with asyncio.timeout(60):
        assert await command.process.wait() == 0, command.log.read_text()
    return time.monotonic() - stopped


async def wait_for_text(path: pathlib.Path, text: str, count: int = 1) -> None:
    async with asyncio.timeout(20):
        while path.read_text().count(text) < count:
            await asyncio.sleep(0.02)  # a file tells nobody that it grew


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_the_second_signal_gives_back_what_runs(
    tmp_path: pathlib.Path,
    wallet: harness.Wallet,
    node: pathlib.Path,
    npm_modules: pathlib.Path,
    number: signal.Signals,
) -> None:
    async with harness.scheduler(tmp_path) as served:
        url = await harness.url_of(served)
        async with (
            harness.worker(tmp_path, url, sandboxes=2) as first,
            harness.client(LONG, scheduler=url, wallet=wallet, node=node, npm_modules=npm_modules) as client,
        ):
            await client.wait_for("begun", count=2)
            assert await stop_twice(first, number) < 10
            assert containers_in(tmp_path / "worker") == []
            # The Scheduler knows already: another run gets the same slices at once.
            async with harness.worker(tmp_path, url, sandboxes=2) as second:
                await client.wait_for("begun", count=4, within=20)
                assert await stop_twice(second, number) < 10
        assert await served.stop() == 0
    assert containers_in(tmp_path / "worker") == []


async def test_the_second_signal_while_the_scheduler_is_away(
    tmp_path: pathlib.Path, wallet: harness.Wallet, node: pathlib.Path, npm_modules: pathlib.Path
) -> None:
    async with harness.scheduler(tmp_path) as served:
        url = await harness.url_of(served)
        async with (
            harness.worker(tmp_path, url, sandboxes=2) as command,
            harness.client(LONG, scheduler=url, wallet=wallet, node=node, npm_modules=npm_modules) as client,
        ):
            await client.wait_for("begun", count=2)
            await served.kill()
            assert await stop_twice(command, signal.SIGTERM) < 15
    assert containers_in(tmp_path / "worker") == []


async def test_a_signal_before_there_is_a_scheduler(tmp_path: pathlib.Path) -> None:
    async with harness.worker(tmp_path, "http://127.0.0.1:1/", sandboxes=2) as command:
        await wait_for_text(command.log, "scheduler_unreachable")
        assert await command.stop(within=15) == 0
    assert containers_in(tmp_path / "worker") == []
