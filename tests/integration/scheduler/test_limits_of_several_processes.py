"""Two Scheduler processes on one PostgreSQL: an address that spreads over both may not have twice as much."""

from __future__ import annotations

import asyncio
import contextlib
import pathlib

import aiohttp
import pytest

from tests.e2e.test_several_schedulers import Fleet
from tests.flood.talkers import ATTACKER, bound_session

MOST = 10


async def test_connections_of_an_address_are_counted_together(
    tmp_path: pathlib.Path, postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DCP_ORCHESTRATOR_SCHEDULER_MAX_ADDRESS_CONNECTIONS", str(MOST))
    fleet = Fleet(tmp_path, postgres_url, 2)
    fleet.share_a_key()
    here, there = (f"http://127.0.0.1:{port}/pheme/dcp5/socketio/?EIO=4&transport=websocket" for port in fleet.ports)
    try:
        async with asyncio.TaskGroup() as group:
            for port in fleet.ports:
                group.create_task(fleet.start(port))
        async with bound_session(ATTACKER) as http, contextlib.AsyncExitStack() as stack:
            for _ in range(MOST - 1):
                await stack.enter_async_context(http.ws_connect(here))
            async with asyncio.timeout(10):
                # Never more than one there, and one more than that is too much for both.
                with pytest.raises(aiohttp.WSServerHandshakeError) as caught:
                    while True:
                        async with http.ws_connect(there), http.ws_connect(there):
                            await asyncio.sleep(0.05)
            assert caught.value.status == 429
            async with http.get(there) as answer:
                assert answer.status in (400, 429)
            async with bound_session("127.0.0.3") as other, other.ws_connect(there) as honest:
                assert (await honest.receive()).type is aiohttp.WSMsgType.TEXT
        # And when they are gone, there is room again.
        async with asyncio.timeout(10), bound_session(ATTACKER) as http:
            while True:
                with contextlib.suppress(aiohttp.WSServerHandshakeError):
                    async with http.ws_connect(there), http.ws_connect(there), http.ws_connect(there):
                        break
                await asyncio.sleep(0.1)
    finally:
        await fleet.stop()
