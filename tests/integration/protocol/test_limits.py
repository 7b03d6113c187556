"""Each limit is met by a peer that goes beyond it: what that peer is told, and that others go on."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import itertools
import json
import logging
import socket
import time
from typing import Any

import aiohttp
import pytest

from orchestrator import telemetry
from orchestrator.protocol import gate
from orchestrator.protocol.bans import Ban
from orchestrator.protocol.client import DcpClient
from orchestrator.protocol.errors import ConnectionLost, RemoteError
from orchestrator.protocol.guard import GuardLimits
from orchestrator.protocol.places import TrustedProxies
from orchestrator.protocol.server import DcpServer, ServerLimits
from orchestrator.telemetry import Readings
from orchestrator.wallet.keys import PrivateKey
from tests.flood.ammunition import connect_message, fragment
from tests.flood.talkers import Peer, bound_session
from tests.integration.protocol.besieged import OTHER, POLICY, Service, Setup, closed, limits, until

# --- connections


async def test_a_crowd_at_the_door_is_turned_away_bit_by_bit(setup: Setup, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between two bits all others have their turn."""
    setup.server.ban(Ban(OTHER, time.monotonic() + 60, "for a test"))
    counted = Readings()
    ticks = itertools.count()
    monkeypatch.setattr(time, "thread_time", lambda: next(ticks) * gate.ACCEPTING_S / 4)
    crowd = [socket.create_connection(("127.0.0.1", setup.server.port), source_address=(OTHER, 0)) for _ in range(10)]
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert 0 < counted.total("dcp.scheduler.connections.refused") <= 6
    await until(lambda: counted.total("dcp.scheduler.connections.refused") == 10)
    for one in crowd:
        one.close()


@pytest.mark.parametrize("setup", [limits(address_half_open=2)], indirect=True)
async def test_sockets_without_a_session(setup: Setup) -> None:
    async with setup.peer() as first, setup.peer(), DcpClient(PrivateKey.generate()) as client:
        await until(lambda: setup.server.statistics()["sockets"] == 2)
        assert "2 connections of address 127.0.0.1 have not opened a session yet" in await setup.refusal()
        async with bound_session(OTHER) as http, setup.peer(http=http) as elsewhere:
            await elsewhere.establish()
        await first.establish()
        assert await client.connect(f"{setup.url}echo/").request("op", 1) == 1


@pytest.mark.parametrize("setup", [limits(address_connections=2)], indirect=True)
async def test_connections_of_an_address(setup: Setup) -> None:
    async with bound_session(OTHER) as http, setup.peer(http=http), setup.peer(http=http) as second:
        async with http.get(setup.query) as answer:
            assert answer.status == 429
            assert f"address {OTHER} has 2 connections, as many as one may have" in await answer.text()
        await second.establish()
        async with setup.peer() as elsewhere:
            await elsewhere.establish()


@pytest.mark.parametrize("setup", [limits(address_connects=0.01, address_connects_burst=2)], indirect=True)
async def test_connecting_too_often(setup: Setup) -> None:
    async with setup.peer(), setup.peer() as second:
        assert "address 127.0.0.1 connects more than 0.01 times a second" in await setup.refusal()
        await second.establish()


@pytest.mark.parametrize("setup", [ServerLimits(sockets=10)], indirect=True)
async def test_the_last_places_are_kept_for_addresses_with_a_session(setup: Setup) -> None:
    async with contextlib.AsyncExitStack() as stack:
        first = await stack.enter_async_context(setup.peer())
        await first.establish()
        other = await stack.enter_async_context(bound_session(OTHER))
        for _ in range(8):
            await stack.enter_async_context(setup.peer(http=other))
        async with other.get(setup.query) as answer:
            assert answer.status == 429
            assert "the last places are kept for addresses that have a session" in await answer.text()
        await stack.enter_async_context(setup.peer())
        assert "10 connections are open, as many as this server takes" in await setup.refusal()


@pytest.mark.parametrize("setup", [ServerLimits(greeting_timeout=-2)], indirect=True)
async def test_who_says_nothing_or_not_all_is_cut_off(setup: Setup) -> None:
    """A connection without a request, with half of one, and a request for a body that does not come."""
    half = b"GET /echo/ HTTP/1.1\r\nHost: x\r\n"
    body = b"POST /echo/?EIO=4&sid=x HTTP/1.1\r\nHost: x\r\nContent-Length: 60000\r\n\r\nabc"
    async with asyncio.timeout(10), setup.peer() as known:
        await known.establish()
        for said in (b"", half, body):
            reader, writer = await asyncio.open_connection("127.0.0.1", setup.server.port)
            writer.write(said)
            await until(lambda: len(setup.server._sockets.door) == 2)
            setup.server.sweep()
            with contextlib.suppress(ConnectionResetError):
                await reader.read()
            writer.close()
            await until(lambda: len(setup.server._sockets.door) == 1)
        assert await known.ask("op", {"a": 1}) == [(True, {"a": 1})]


# --- giants


async def test_a_giant_message_of_a_stranger(setup: Setup) -> None:
    async with setup.peer() as peer:
        await peer.send("{" + "x" * 70_000)
        assert await closed(peer) == (POLICY, "a message may have 65536 characters, not 70001")


async def test_fragments_of_a_stranger(setup: Setup) -> None:
    async with setup.peer() as peer:
        await peer.send(fragment(5, 0, 9, 10))
        assert await closed(peer) == (POLICY, "fragment 0 of 9: at most 8 allowed")
    async with setup.peer() as peer:
        await peer.send(fragment(5, 0, 2, 10))
        await peer.send(fragment(6, 0, 2, 10))
        assert await closed(peer) == (POLICY, "more than 1 messages in fragments at once")


async def test_a_frame_of_a_stranger_that_never_ends_is_not_kept(setup: Setup) -> None:
    async with setup.peer() as known:
        await known.establish()
        with socket.create_connection(("127.0.0.1", setup.server.port)) as raw:
            raw.setblocking(False)
            loop = asyncio.get_running_loop()
            request = (
                b"GET /echo/?EIO=4&transport=websocket HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\n"
                b"Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
                b"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
            )
            await loop.sock_sendall(raw, request + b"\x81\xff" + (8_000_000).to_bytes(8, "big") + bytes(4))
            with pytest.raises((BrokenPipeError, ConnectionResetError)):
                async with asyncio.timeout(10):
                    while True:
                        await loop.sock_sendall(raw, b"x" * 10_000)
        assert setup.server.statistics()["held_characters"] < 1000
        assert await known.ask("op") == [(True, {})]


async def test_a_giant_body_is_refused_before_it_is_read(setup: Setup) -> None:
    url = f"{setup.url}echo/?EIO=4&transport=polling&sid=x"
    async with setup.http.post(url, data=b"x" * 70_000) as answer:
        assert answer.status == 413
        assert "before there is a session a body may have 65536 bytes" in await answer.text()


@pytest.mark.parametrize(
    "said", [b"rubbish\r\n\r\n", b"GET / HTTP/1.1\r\n" + b"X: y\r\n" * 1000, b"GET /" + b"x" * 9000]
)
async def test_what_is_no_http_is_answered_and_not_logged(
    setup: Setup, said: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", setup.server.port)
    writer.write(said)
    async with asyncio.timeout(10):
        assert (await reader.readline()).partition(b" ")[2].startswith(b"400 ")
    writer.close()
    assert [record.levelname for record in caplog.records if record.levelno >= logging.WARNING] == []


async def test_a_connection_may_carry_any_number_of_requests(setup: Setup) -> None:
    padding = {"X-Padding": "x" * 4000}
    async with bound_session(OTHER) as http, asyncio.timeout(20):
        for _ in range(100):
            async with http.get(f"{setup.url}etc/dcp-config.kvin?ver=2.1.0", headers=padding) as answer:
                assert answer.status == 200
        assert len(setup.server._sockets.door) == 1
        # And a body of the most that a stranger may send.
        async with http.post(f"{setup.url}echo/?EIO=4&transport=polling&sid=x", data=b"x" * 65_536) as answer:
            assert answer.status == 400


# --- what is held


@pytest.mark.parametrize("setup", [limits(identity_held=300_000)], indirect=True)
async def test_unfinished_messages_of_an_identity(setup: Setup) -> None:
    """In two sessions together; the sessions live on."""
    key = PrivateKey.generate()
    async with setup.peer(key) as first, setup.peer(key) as second, setup.peer() as other:
        for one in (first, second, other):
            await one.establish()
        await first.send(fragment(5, 0, 9, 200_000))
        await until(lambda: setup.server.statistics()["held_characters"] >= 200_000)
        await second.send(fragment(5, 0, 9, 60_000))
        await second.send(fragment(5, 1, 9, 60_000))
        code, reason = await closed(second)
        assert (code, reason) == (POLICY, f"more than 300000 characters are held for {key.address}")
        assert len(setup.server.connections) == 3
        await other.send(fragment(5, 0, 9, 200_000))
        await until(lambda: [one.is_connected for one in setup.server.connections].count(True) == 2)


@pytest.mark.parametrize("setup", [limits(address_held=300_000)], indirect=True)
async def test_unfinished_messages_of_an_address(setup: Setup) -> None:
    async with (
        bound_session(OTHER) as http,
        setup.peer() as first,
        setup.peer() as second,
        setup.peer(http=http) as other,
    ):
        for one in (first, second, other):
            await one.establish()
        await first.send(fragment(5, 0, 9, 200_000))
        await until(lambda: setup.server.statistics()["held_characters"] >= 200_000)
        await second.send(fragment(5, 0, 9, 120_000))
        code, reason = await closed(second)
        assert (code, reason) == (POLICY, "more than 300000 characters are held for address 127.0.0.1")
        await other.send(fragment(5, 0, 2, 200_000))
        await until(lambda: setup.server.statistics()["held_characters"] >= 400_000)
    await until(lambda: setup.server.statistics()["held_characters"] < 10_000)


@pytest.mark.parametrize("setup", [limits(identity_held=100_000)], indirect=True)
async def test_requests_without_an_answer(setup: Setup) -> None:
    async with DcpClient(PrivateKey.generate()) as client, DcpClient(PrivateKey.generate()) as other:
        connection = client.connect(f"{setup.url}echo/")
        tasks = []
        for number in range(2):
            tasks.append(asyncio.ensure_future(connection.request("wait", "x" * 45_000)))
            await until(lambda number=number: setup.service.waiting == number + 1)
        with pytest.raises(RemoteError, match=r"more than 100000 characters are held for .* later") as caught:
            await connection.request("wait", "x" * 45_000)
        assert caught.value.code == "EBUSY"
        assert await other.connect(f"{setup.url}echo/").request("op", "x" * 90_000) == "x" * 90_000
        setup.service.go.set()
        await asyncio.gather(*tasks)
        assert await connection.request("op", "x" * 45_000) == "x" * 45_000


@pytest.mark.parametrize("setup", [limits(identity_held=3_000_000)], indirect=True)
async def test_answers_that_are_not_taken(setup: Setup) -> None:
    """The first is on its way and never acknowledged; behind it others queue, until the session is given up."""
    async with setup.peer() as peer, setup.peer() as other:
        await peer.establish()
        await other.establish()
        with pytest.raises(ConnectionResetError):
            async with asyncio.timeout(10):
                for _ in range(10):
                    await peer.send(peer.requests("large", 1_000_000))
                    await peer.message(is_ack=True)
        await until(lambda: len(setup.server.connections) == 1)
        assert await other.ask("op") == [(True, {})]


# --- replays, forgeries, stamps


@pytest.mark.parametrize("setup", [limits(identity_sessions=2)], indirect=True)
async def test_a_replayed_connect_request_takes_no_session_from_its_owner(setup: Setup) -> None:
    owner = PrivateKey.generate()
    heard = connect_message(owner)
    async with contextlib.AsyncExitStack() as stack:
        for _ in range(5):
            thief = await stack.enter_async_context(setup.peer())
            await thief.send(heard)
            assert (await thief.message())["success"] is True
        async with DcpClient(owner) as client:
            assert await client.connect(f"{setup.url}echo/").request("op", 1) == 1
            assert await client.connect(f"{setup.url}echo/").request("op", 2) == 2
            third = client.connect(f"{setup.url}echo/")
            with pytest.raises(ConnectionLost, match="has 2 sessions, as many as one identity may have"):
                await third.request("op", 3)


async def test_replayed_messages(setup: Setup) -> None:
    async with setup.peer() as peer:
        await peer.establish()
        message = peer.requests("op", {"n": 1})
        await peer.send(message)
        assert await peer.answers() == [(True, {"n": 1})]
        # Once more at once: it is known, and only acknowledged again.
        await peer.send(message)
        assert await peer.ask("op", {"n": 2}) == [(True, {"n": 2})]
        # Later: its nonce is that of another time.
        await peer.send(message)
        with pytest.raises(ConnectionResetError):
            await peer.message()
    assert not setup.server.connections


@pytest.mark.parametrize("setup", [limits(address_offences=0.01, address_offences_burst=3, ban_s=60)], indirect=True)
async def test_forged_messages_get_their_address_banned_and_its_sessions_go_on(setup: Setup) -> None:
    counted = Readings()
    owner = PrivateKey.generate()
    forged = connect_message(owner).replace(owner.address, PrivateKey.generate().address)
    async with setup.peer() as known, DcpClient(PrivateKey.generate()) as elsewhere, setup.peer() as stranger:
        await known.establish()
        for _ in range(4):
            async with setup.peer() as peer:
                await peer.send(forged)
                assert await closed(peer) == (POLICY, "the message has an invalid signature")
        assert "address 127.0.0.1 is banned (too many offences" in await setup.refusal()
        await closed(stranger)
        assert await known.ask("op", {"n": 1}) == [(True, {"n": 1})]
        assert setup.server.statistics()["bans"] == 1
        assert counted.total("dcp.scheduler.bans") == 1
        assert counted.total("dcp.scheduler.messages.dropped") == 4
        assert counted.total("dcp.scheduler.connections.refused") == 1
        assert counted.total("dcp.scheduler.connections.cut") == 1
        setup.server.sweep()
        assert [value for labels, value in telemetry.bans_now.series() if labels == {"of": "address"}] == [1]
        async with bound_session(OTHER) as http, setup.peer(http=http) as other:
            await other.establish()
        del elsewhere


async def test_stamps_from_the_past_and_the_future_and_used_ones(setup: Setup) -> None:
    async with setup.peer() as peer:
        await peer.establish()
        for offset, code in ((-86_400.0, "EEXPIRED"), (86_400.0, "ETIMETRAVEL")):
            ((done, payload),) = await peer.ask("op", offset=offset)
            assert (done, payload["code"]) == (False, code)
            assert "set the clock" in payload["message"]
        stamp = PrivateKey.generate().address
        assert await peer.ask("op", stamp=stamp) == [(True, {})]
        ((done, payload),) = await peer.ask("op", stamp=stamp)
        assert (done, payload["code"]) == (False, "EDUP")
        # In one batch, too; errors are answered before the work is done.
        await peer.send(peer.requests("op", stamp=f"{stamp}x", count=3))
        answers = [*await peer.answers(), *await peer.answers()]
        assert sorted(done for done, _ in answers) == [False, False, True]


# --- reading in turn


async def test_while_nobody_reads_a_connection_no_more_than_a_little_is_taken_from_it(setup: Setup) -> None:
    """Whoever is told to wait is not read meanwhile: TCP keeps the rest on its machine."""
    async with setup.peer() as peer:
        await peer.establish()
        await peer.ask("op")
        gate = next(gate for gate in setup.server._sockets.door._gates.values() if not gate.is_stranger)
        # As if its turn did not come.
        taking = asyncio.Event()

        async def never(*_: Any) -> None:
            taking.set()
            await asyncio.Event().wait()

        setup.server._sockets.turns.take = never  # type: ignore[method-assign]
        before = gate._unused
        writing = asyncio.ensure_future(_write(peer, 200))
        await taking.wait()
        await until(lambda: gate._is_paused)
        assert gate._unused - before < 300_000
        writing.cancel()
        await asyncio.gather(writing, return_exceptions=True)
        gate.abort()


async def _write(peer: Peer, count: int) -> None:
    for _ in range(count):
        await peer.send("{" + "x" * 60_000)


async def test_a_crowd_does_not_keep_another_address_waiting(setup: Setup) -> None:
    """A hundred sessions ask at once; one elsewhere asks after them and is answered before most of them."""
    order: list[str] = []
    turns, begin, arrived = setup.server._sockets.turns, asyncio.Event(), 0

    async def held(*arguments: Any, **named: Any) -> None:
        nonlocal arrived
        arrived += 1
        await begin.wait()
        await take(*arguments, **named)

    async def answered(peer: Peer, name: str) -> None:
        await peer.answers()
        order.append(name)

    async with contextlib.AsyncExitStack() as stack:
        http, many = [await stack.enter_async_context(bound_session(place)) for place in (OTHER, "127.0.0.1")]
        crowd = [await stack.enter_async_context(setup.peer(http=many)) for _ in range(100)]
        one = await stack.enter_async_context(setup.peer(http=http))
        for peer in [*crowd, one]:
            await peer.establish()
            await peer.ask("op")
        take, turns.take = turns.take, held  # type: ignore[method-assign]
        for peer in crowd:
            await peer.send(peer.requests("op"))
        await until(lambda: arrived >= 100)
        await one.send(one.requests("op"))
        await until(lambda: arrived >= 101)
        async with asyncio.timeout(20), asyncio.TaskGroup() as group:
            for peer in crowd:
                group.create_task(answered(peer, "crowd"))
            group.create_task(answered(one, "one"))
            begin.set()
    assert len(order) == 101
    assert order.index("one") < 50


async def test_a_giant_batch_does_not_keep_another_waiting(setup: Setup) -> None:
    async with bound_session(OTHER) as http, setup.peer() as greedy, setup.peer(http=http) as one:
        await greedy.establish()
        await one.establish()
        await greedy.send(greedy.requests("op", count=3000))
        await until(lambda: setup.service.handled > 0)
        assert await one.ask("op") == [(True, {})]
        assert setup.service.handled < 2500
        await until(lambda: setup.service.handled == 3001)


async def test_behind_a_trusted_proxy_addresses_are_the_clients(setup: Setup) -> None:
    guarded = dataclasses.replace(GuardLimits(), address_offences=0.01, address_offences_burst=1, ban_s=60)
    server = DcpServer(
        PrivateKey.generate(), {"echo": Service()}, lambda *_: "", limits=ServerLimits(guard=guarded),
        proxies=TrustedProxies(("127.0.0.1",)),
    )  # fmt: skip
    async with server:
        await server.listen()
        query = f"http://127.0.0.1:{server.port}/echo/dcp5/socketio/?EIO=4&transport=websocket"
        bad, good = {"X-Forwarded-For": "9.9.9.9"}, {"X-Forwarded-For": "8.8.8.8"}
        for _ in range(2):
            async with setup.http.ws_connect(query, headers=bad) as socket_:
                await socket_.send_str("40")
                await socket_.send_str("42" + json.dumps(["message", "x"]))
                while (await socket_.receive()).type is aiohttp.WSMsgType.TEXT:
                    pass
        async with setup.http.get(query, headers=bad) as answer:
            assert answer.status == 429
            assert "address 9.9.9.9 is banned (too many offences" in await answer.text()
        async with setup.http.ws_connect(query, headers=good) as socket_:
            assert (await socket_.receive()).type is aiohttp.WSMsgType.TEXT
