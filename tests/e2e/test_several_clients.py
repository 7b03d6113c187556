"""Two clients at once, and a client whose connection is cut."""

from __future__ import annotations

import asyncio
import pathlib
import urllib.parse
from collections.abc import Awaitable, Callable

import pytest

from tests.e2e import harness
from tests.e2e.harness import ClientRun
from tests.parts.relays import CuttableProxy

pytestmark = [pytest.mark.docker, pytest.mark.npm]

Run = Callable[..., Awaitable[ClientRun]]


async def test_two_clients_at_once(run: Run) -> None:
    program = """
        const job = compute.for(1, 60, (i, k) => { progress(); return i * k; }, [%d]);
        say('results', Array.from(await job.exec()));
    """
    first, second = await asyncio.gather(run(program % 2), run(program % 3))
    assert first.ok().one("results") == [2 * i for i in range(1, 61)]
    assert second.ok().one("results") == [3 * i for i in range(1, 61)]


async def test_a_client_that_loses_its_connection_gets_every_event(
    computer: str, wallet: harness.Wallet, node: pathlib.Path, npm_modules: pathlib.Path
) -> None:
    program = """
        const job = compute.for(1, 300, (i) => { progress(); const end = Date.now() + 10; while (Date.now() < end); return i; });
        job.on('result', (event) => say('result', event.sliceNumber));
        job.on('duplicate-result', (event) => say('duplicate', event.sliceNumber));
        say('results', Array.from(await job.exec()));
    """
    port = urllib.parse.urlsplit(computer).port
    assert port
    async with (
        CuttableProxy(port).serve() as proxy,
        harness.client(
            program, scheduler=f"http://127.0.0.1:{proxy.port}/", wallet=wallet, node=node, npm_modules=npm_modules
        ) as client,
    ):
        for heard in (10, 100, 200):
            await client.wait_for("result", count=heard)
            async with asyncio.timeout(30):
                while not proxy.cut():  # results come in bursts: it may still be on its way back from the last cut
                    await asyncio.sleep(0.05)
        outcome = (await client.finish()).ok()
    assert outcome.one("results") == list(range(1, 301))
    assert sorted(outcome.all("result")) == list(range(1, 301))
    assert outcome.all("duplicate") == []
