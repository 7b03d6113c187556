"""Peers that misuse what lies below DCP: HTTP, websockets, engine.io and socket.io."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import json
import logging
import zlib
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest

from orchestrator.protocol.server import ServerLimits
from orchestrator.telemetry import Readings
from orchestrator.wallet.keys import PrivateKey
from tests.flood.ammunition import fragment
from tests.flood.talkers import bound_session
from tests.integration.protocol.besieged import OTHER, POLICY, Setup, closed, limits, until

BANS = limits(address_offences=0.01, address_offences_burst=3, ban_s=60)


@contextlib.asynccontextmanager
async def websocket(setup: Setup, *packets: str | bytes) -> AsyncIterator[aiohttp.ClientWebSocketResponse]:
    """A websocket over which these packets are sent."""
    timeout = aiohttp.ClientWSTimeout(ws_close=0.2)
    async with setup.http.ws_connect(setup.query, timeout=timeout, max_msg_size=0) as made:
        for packet in packets:
            await (made.send_bytes(packet) if isinstance(packet, bytes) else made.send_str(packet))
        yield made


async def end(made: aiohttp.ClientWebSocketResponse) -> tuple[int | None, str]:
    """Code and reason of its end."""
    async with asyncio.timeout(10):
        while (packet := await made.receive()).type is aiohttp.WSMsgType.TEXT:
            pass
    return (packet.data, packet.extra or "") if packet.type is aiohttp.WSMsgType.CLOSE else (made.close_code, "")


# --- malformed packets


@pytest.mark.parametrize(
    ("packets", "reason"),
    [
        (["40", "42[1,{"], "an event of socket.io must be a JSON array, not '2[1,{'"),
        (["40", "42" + "[" * 50_000], "an event of socket.io must be a JSON array"),
        (["40", "49"], "a packet of socket.io must connect (0), disconnect (1) or carry an event"),
        (["40", '451000000-["message",{"_placeholder":true,"num":0}]'], "a packet of socket.io must connect"),
        (["40", "43[]"], "a packet of socket.io must connect"),
        (["40/other,"], "a packet of socket.io must connect"),
        (["40", '4["message","x"]'], "a packet of socket.io must connect"),
        (["40", "40"], "a connection must connect to socket.io once, before anything else"),
        (['42["message","{}"]'], "a connection must connect to socket.io once, before anything else"),
        (["40", "41", "49"], "a packet of socket.io must connect"),
        (["rubbish"], "a packet of engine.io must begin with 1, 3 or 4, not 'rubbish'"),
        (["5"], "a packet of engine.io must begin with 1, 3 or 4"),
        ([""], "a packet of engine.io must begin with 1, 3 or 4, not ''"),
        (["40", b"\x04abc"], "a binary packet of engine.io: DCP sends text only"),
    ],
)
async def test_a_malformed_packet_closes_its_connection_with_the_reason(
    setup: Setup, packets: list[str | bytes], reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    counted = Readings()
    async with websocket(setup, *packets) as made:
        code, said = await end(made)
        assert code == POLICY
        # What fits into a frame that closes.
        assert reason[:100] in said
        assert any(reason in record.getMessage() for record in caplog.records)
        assert counted.total("dcp.scheduler.messages.dropped") == 1
        await until(lambda: setup.server.statistics()["sockets"] == 0)
        assert not setup.server._sockets._sio.eio.sockets
        assert not any(record.exc_info for record in caplog.records)


async def test_a_malformed_packet_ends_the_session_too(setup: Setup) -> None:
    async with setup.peer() as peer:
        await peer.establish()
        await peer.socket.send_str('45999999999-["message",{"_placeholder":true,"num":0}]')
        code, said = await closed(peer)
        assert code == POLICY
        assert "a packet of socket.io must connect" in said
    await until(lambda: not setup.server.connections)


@pytest.mark.parametrize("setup", [BANS], indirect=True)
@pytest.mark.parametrize("packets", [["40", "42[1,{"], ["nonsense"], ["4{"]])
async def test_with_malformed_packets_an_address_gets_banned(setup: Setup, packets: list[str]) -> None:
    async with setup.peer() as known, websocket(setup, "40") as stranger:
        await known.establish()
        for _ in range(4):
            async with websocket(setup, *packets) as made:
                assert (await end(made))[0] == POLICY
        assert "address 127.0.0.1 is banned (too many offences, the last: " in await setup.refusal()
        await end(stranger)
        assert await known.ask("op", {"n": 1}) == [(True, {"n": 1})]


@pytest.mark.parametrize("setup", [BANS], indirect=True)
async def test_events_that_are_not_dcp_are_passed_over(setup: Setup) -> None:
    """As the reference does. None of them reaches what waits for events of the library."""
    async with setup.peer() as peer:
        for packet in ('42["disconnect"]', '42["connect"]', '42["message",1]', '42["x"]', "3", '421["message"]'):
            await peer.socket.send_str(packet)
        await peer.establish()
        assert await peer.ask("op", {"n": 1}) == [(True, {"n": 1})]
        assert setup.server.statistics()["sockets"] == 1
        assert setup.server.guard._offences == {}


# --- polling


@contextlib.asynccontextmanager
async def polling(setup: Setup, http: aiohttp.ClientSession | None = None) -> AsyncIterator[Any]:
    """POSTs bodies over a connection of engine.io that polls."""
    http, url = http or setup.http, f"{setup.url}echo/dcp5/socketio/?EIO=4&transport=polling"
    async with http.get(url) as answer:
        sid = json.loads((await answer.text())[1:])["sid"]

    async def post(body: str | bytes, **headers: str) -> tuple[int, str]:
        async with http.post(f"{url}&sid={sid}", data=body, headers=headers) as answer:
            return answer.status, await answer.text()

    yield post


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ("42[1,{", "a connection must connect to socket.io once|an event of socket.io must be a JSON array"),
        ("x", "a packet of engine.io must begin with 1, 3 or 4, not 'x'"),
        ("", "a packet of engine.io must begin with 1, 3 or 4, not ''"),
        (b"4\xff", "a body must be UTF-8"),
        ("bAAAA", "a packet of engine.io must begin"),
        ("\x1e".join(["3"] * 17), "a body may hold 16 packets, not 17"),
        ("d=4", "a packet of engine.io must begin"),
    ],
)
@pytest.mark.parametrize("setup", [BANS], indirect=True)
async def test_malformed_bodies(setup: Setup, body: str | bytes, reason: str) -> None:
    for _ in range(4):
        async with polling(setup) as post:
            assert (await post("40"))[0] == 200
            status, said = await post(body)
            assert status == 400
            assert any(one in said for one in reason.split("|"))
            await until(lambda: not setup.server._sockets._sio.eio.sockets)
    assert "address 127.0.0.1 is banned (too many offences, the last: " in await setup.refusal()


@pytest.mark.parametrize("setup", [limits(address_half_open=3)], indirect=True)
async def test_one_connection_opens_no_more_sockets_by_polling_than_others_may(setup: Setup) -> None:
    url = f"{setup.url}echo/dcp5/socketio/?EIO=4&transport=polling"
    async with bound_session(OTHER) as http, setup.peer() as elsewhere:
        for number in range(6):
            async with http.get(url) as answer:
                assert answer.status == (200 if number < 3 else 429)
                if number >= 3:
                    assert "3 connections of address 127.0.0.9 have not opened a session yet" in await answer.text()
        assert len(setup.server._sockets._sio.eio.sockets) == 4
        await elsewhere.establish()


@pytest.mark.parametrize("setup", [ServerLimits(greeting_timeout=-2)], indirect=True)
async def test_sockets_that_never_poll_again_are_forgotten(setup: Setup) -> None:
    async with polling(setup), polling(setup):
        assert setup.server.guard._half_open == {"127.0.0.1": 2}
        setup.server.sweep()
        await until(lambda: not setup.server._sockets._sio.eio.sockets)
        assert setup.server.guard._half_open == {}


@pytest.mark.parametrize("setup", [limits(address_half_open=3)], indirect=True)
async def test_what_asks_for_a_websocket_and_is_none_leaves_nothing(setup: Setup) -> None:
    bad = {"Connection": "Upgrade", "Upgrade": "websocket", "Sec-WebSocket-Version": "12"}
    for _ in range(5):
        async with setup.http.get(setup.query, headers=bad) as answer:
            assert answer.status == 400
    assert not setup.server._sockets._sio.eio.sockets
    assert not setup.server._sockets._sio.environ
    setup.server.guard.validate()


async def test_a_connection_that_polls_cannot_be_upgraded(setup: Setup) -> None:
    async with polling(setup):
        (sid,) = setup.server._sockets._sio.eio.sockets
        with pytest.raises(aiohttp.WSServerHandshakeError) as caught:
            await setup.http.ws_connect(f"{setup.query}&sid={sid}")
        assert caught.value.status == 400


async def test_requests_in_a_row_wait_on_the_peers_machine(setup: Setup) -> None:
    """Behind a poll that lasts, thousands more are sent on the same connection, by one who has a session."""
    request = "GET /echo/dcp5/socketio/?EIO=4&transport=polling&sid={} HTTP/1.1\r\nHost: x\r\n\r\n"
    async with polling(setup) as post:
        await post("40")
        (sid,) = setup.server._sockets._sio.eio.sockets
        reader, writer = await asyncio.open_connection("127.0.0.1", setup.server.port)
        writer.write(request.format(sid).encode())
        await reader.readuntil(b'"sid"')
        before = set(setup.server._sockets.door._gates.values())
        writer.write(request.format(sid).encode())
        gate = next(
            one for one in before if one.transport.get_extra_info("peername") == writer.get_extra_info("sockname")
        )
        gate.becomes_known(PrivateKey.generate().address)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(0.5):
                for _ in range(200):
                    writer.write(request.format(sid).encode() * 1000)
                    await writer.drain()
        assert len(gate._inner._messages) < 200
        assert not gate.transport.is_reading()
        writer.transport.abort()


# --- compression


async def test_nothing_is_unpacked(setup: Setup) -> None:
    """A kilobyte may be a megabyte: compression is never agreed on, and a packed body is not unpacked."""
    async with setup.http.ws_connect(setup.query, compress=15) as made:
        assert made.compress == 0
    async with polling(setup) as post:
        packed = gzip.compress(b"4" + b" " * 8_000_000)
        status, said = await post(packed, **{"Content-Encoding": "gzip"})
        assert (status, said) == (400, "a body must be UTF-8\n")


async def test_a_packed_frame_that_was_not_agreed_on_closes_the_connection(setup: Setup) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", setup.server.port)
    writer.write(
        b"GET /echo/?EIO=4&transport=websocket HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
        b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n"
        b"Sec-WebSocket-Extensions: permessage-deflate\r\n\r\n"
    )
    head = await reader.readuntil(b"\r\n\r\n")
    assert b"101 Switching" in head
    assert b"permessage-deflate" not in head
    bomb = zlib.compress(b"x" * 5_000_000)[:16_000]
    writer.write(b"\xc1\xfe" + len(bomb).to_bytes(2, "big") + bytes(4) + bomb)
    async with asyncio.timeout(10):
        await reader.read()
    writer.close()
    await until(lambda: setup.server.statistics()["sockets"] == 0)


# --- crumbs


async def test_pings_of_websockets_wait_for_their_turn(setup: Setup) -> None:
    async with setup.peer() as peer:
        await peer.establish()
        await peer.ask("op")
        counted = Readings()
        for _ in range(50):
            await peer.socket.ping(b"x")
        assert await peer.ask("op", {"n": 1}) == [(True, {"n": 1})]
        assert counted.total("dcp.scheduler.messages") >= 52


@pytest.mark.parametrize("setup", [limits(identity_messages=0.01, identity_messages_burst=20)], indirect=True)
async def test_crumbs_of_an_identity_beyond_its_rate_stay_on_its_machine(setup: Setup) -> None:
    """Packets of a byte cost more to keep than to send."""
    async with setup.peer() as peer:
        await peer.establish()
        await peer.ask("op")
        gate = next(gate for gate in setup.server._sockets.door._gates.values() if not gate.is_stranger)
        frame = b"\x81\x81\x00\x00\x00\x003"
        transport: Any = peer.socket._writer.transport
        for _ in range(4):
            transport.write(frame * 10_000)
        await until(lambda: not gate.transport.is_reading())
        kept = gate.websocket._sock._reader._buffer
        assert len(kept) <= 4_096
        gate.abort()


async def test_a_message_in_crumbs_is_bounded(setup: Setup) -> None:
    """A fragment of one character costs a hundred times what it counts: their number is limited, too."""
    async with setup.peer() as peer:
        await peer.establish()
        with contextlib.suppress(ConnectionResetError):
            for number in range(10_001):
                await peer.send(fragment(5, number, 10_001, 1))
        code, said = await closed(peer)
        assert (code, said) == (POLICY, "fragment 0 of 10001: at most 10000 allowed")


async def test_a_frame_in_crumbs_is_bounded(setup: Setup) -> None:
    """A websocket message in continuation frames without end, each with one byte."""
    async with setup.peer() as peer:
        await peer.establish()
        await peer.ask("op")
        gate = next(gate for gate in setup.server._sockets.door._gates.values() if not gate.is_stranger)
        transport: Any = peer.socket._writer.transport
        transport.write(b"\x01\x81\x00\x00\x00\x003")
        crumb = b"\x00\x81\x00\x00\x00\x00x" * 5_000
        async with asyncio.timeout(10):
            while not gate.transport.is_closing():
                transport.write(crumb)
                await asyncio.sleep(0)
                if peer.socket._writer.transport.is_closing():
                    break


# --- sessions


@pytest.mark.parametrize("setup", [ServerLimits(sessions=8)], indirect=True)
async def test_who_has_the_most_sessions_makes_room_first(setup: Setup) -> None:
    """Sessions that wait for their clients to come back: those of one address do not push out another's."""
    async with bound_session(OTHER) as http:
        async with setup.peer() as honest:
            await honest.establish()
            await honest.ask("op")
        await until(lambda: setup.server.statistics()["resumable"] == 1)
        for number in range(20):
            async with setup.peer(http=http) as greedy:
                await greedy.establish()
                await greedy.ask("op")
            await until(lambda number=number: setup.server.statistics()["resumable"] == min(number + 2, 8))
        assert honest.key.address in {one.peer for one in setup.server.connections}
        assert len(setup.server.connections) == 8
