"""Our client against the server side of an unmodified dcp-client 5.6.1."""

from __future__ import annotations

import asyncio
import contextlib
import json
import pathlib
import socket
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from orchestrator.protocol.client import ClientConnection, ClientLimits, DcpClient
from orchestrator.protocol.errors import ConnectionClosed, ConnectionLost, PeerChanged, RemoteError
from orchestrator.wallet.keys import PrivateKey

pytestmark = pytest.mark.npm

TEXT = "x\U0001f600" * 350_000


@pytest.fixture
async def target(
    run_driver: Callable[..., Any], npm_modules: pathlib.Path, server: Any, tmp_path: pathlib.Path
) -> AsyncIterator[Any]:
    socket_io = npm_modules / "socket.io"
    if not socket_io.is_dir():
        pytest.skip("tests/npm does not hold socket.io, which dcp-client's server side loads")
    scheduler = f"http://127.0.0.1:{server.port}/"
    with socket.socket() as probe:  # the reference takes no port 0
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    arguments = (str(npm_modules / "dcp-client"), str(socket_io), str(port))
    async with run_driver("target_driver.js", *arguments, scheduler=scheduler) as driver:
        driver.address = (await driver.line())["address"]
        driver.url = f"http://127.0.0.1:{port}/target/"
        yield driver


@contextlib.asynccontextmanager
async def connected(target: Any, cache: pathlib.Path | None = None) -> AsyncIterator[ClientConnection]:
    async def answer(operation: str, data: Any) -> Any:
        return {"operation": operation, **data}

    limits = ClientLimits(first_delay=0.01, longest_delay=0.1)
    async with DcpClient(PrivateKey.generate(), cache, limits=limits) as client:
        yield client.connect(target.url, on_request=answer)


async def test_requests_errors_and_batches(target: Any) -> None:
    async with connected(target) as connection:
        assert await connection.request("echo", {"10": 1, "2": 1.5, "a": "é\ud800"}) == {
            "10": 1,
            "2": 1.5,
            "a": "é\ud800",
        }
        assert connection.peer == target.address
        with pytest.raises(RemoteError, match="no money") as caught:
            await connection.request("fail", {})
        assert caught.value.code == "ENOFUNDS"
        answers = await asyncio.gather(*(connection.request("echo", {"i": i}) for i in range(300)))
        assert answers == [{"i": i} for i in range(300)]
        assert connection.statistics()["batches_out"] <= 4
        assert await connection.request("keepalive") == {"success": True}


async def test_authorised_request(target: Any) -> None:
    account, other = PrivateKey.generate(), PrivateKey.generate()
    async with connected(target) as connection:
        await connection.request("echo", 1)
        data = {"account": account.address, "amount": 1.5, "7": "seven", "large": 1e21}
        assert await connection.request("authorized", data, authorize=[account]) == {"verdict": True}
        assert await connection.request("authorized", data, authorize=[other]) == {"verdict": False}


async def test_fragments(target: Any) -> None:
    async with connected(target) as connection:
        assert await connection.request("echo", TEXT) == TEXT


async def test_requests_of_the_server(target: Any) -> None:
    async with connected(target) as connection:
        answers = await connection.request("call-me", {"count": 70})
        assert answers == [{"operation": "event", "i": i} for i in range(70)]


async def test_resume(target: Any) -> None:
    async with connected(target) as connection:
        await connection.request("echo", 0)
        session = connection.dcpsid
        for round_ in range(3):
            asking = [asyncio.ensure_future(connection.request("echo", i)) for i in range(40)]
            await asyncio.wait(asking, return_when=asyncio.FIRST_COMPLETED)
            await target.tell("drop")
            if round_ == 1:
                connection.drop_transport()
            assert await asyncio.gather(*asking) == list(range(40))
        assert connection.dcpsid == session
        assert connection.statistics()["transports"] >= 3


async def test_a_forgotten_session_raises_and_the_next_request_opens_another(target: Any) -> None:
    async with connected(target) as connection:
        await connection.request("echo", 0)
        session = connection.dcpsid
        ends: list[ConnectionClosed] = []
        ended = asyncio.Event()
        connection.on_session_end(lambda error: (ends.append(error), ended.set()))  # type: ignore[func-returns-value]
        await target.tell("forget")
        await ended.wait()
        assert [error.code for error in ends] == ["ECONNRESET"]
        assert connection.dcpsid is None
        assert await connection.request("echo", 1) == 1
        assert connection.dcpsid != session


async def test_a_close_by_the_server_loses_what_was_asked(target: Any) -> None:
    async with connected(target) as connection:
        with pytest.raises(ConnectionLost):
            await connection.request("close-me")
        assert await connection.request("echo", 1) == 1


async def test_a_changed_key_is_detected(target: Any, tmp_path: pathlib.Path) -> None:
    cache = tmp_path / "identity-cache.json"
    async with connected(target, cache) as connection:
        await connection.request("echo", 0)
    assert json.loads(cache.read_text()) == {target.url: target.address}
    cache.write_text(cache.read_text().replace(target.address, PrivateKey.generate().address))
    async with connected(target, cache) as connection:
        with pytest.raises(PeerChanged) as caught:
            await connection.request("echo", 0)
        assert caught.value.code == "EADDRCHANGE"
