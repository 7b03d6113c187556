"""An identity is banned for what it has signed itself, just now and for this session; nobody else can cause that."""

from __future__ import annotations

import time
from typing import Any

import pytest

from orchestrator import telemetry
from orchestrator.protocol import js_json, signing
from orchestrator.protocol.bans import Ban
from orchestrator.protocol.client import DcpClient
from orchestrator.protocol.errors import ConnectionLost
from orchestrator.telemetry import Readings
from orchestrator.wallet.keys import PrivateKey
from tests.flood.ammunition import connect_message
from tests.flood.talkers import Peer, bound_session
from tests.integration.protocol.besieged import OTHER, Setup, closed, limits, until

STRICT = limits(identity_offences=0.001, identity_offences_burst=3, identity_ban_s=600, ban_s=0)
FORGIVING = limits(identity_ban_s=0, identity_offences=0.001, identity_offences_burst=1)


def message(peer: Peer, **fields: Any) -> str:
    """A message of its session, under its latest nonce."""
    peer._turn += 1
    head = {"id": f"m-{peer._turn}-abcdefgh", "ackToken": f"AT-{peer._turn}-abcdefgh", "nonce": peer._nonce}
    return signing.seal(peer.key, js_json.dumps({**head, "dcpsid": peer.dcpsid, "time": time.time(), **fields}))


BREACHES: list[dict[str, Any]] = [
    {"type": "garbage"},
    {"type": "batch", "payload": "x"},
    {"type": "batch", "payload": [{"type": "batch", "payload": []}]},
    {"type": "request", "payload": {}},
    {"type": "request", "payload": {"operation": "connect"}},
    {"type": "response", "payload": 1},
]


async def breach(setup: Setup, key: PrivateKey, **fields: Any) -> None:
    async with setup.peer(key) as peer:
        await peer.establish()
        await peer.ask("op")
        await peer.send(message(peer, **fields))
        await closed(peer)


@pytest.mark.parametrize("setup", [STRICT], indirect=True)
async def test_who_breaks_the_protocol_again_and_again_is_banned_and_nobody_else(setup: Setup) -> None:
    counted = Readings()
    bad = PrivateKey.generate()
    async with setup.peer(bad) as other_session, setup.peer() as neighbour, DcpClient(bad) as client:
        for one in (other_session, neighbour):
            await one.establish()
            await one.ask("op")
        connection = client.connect(f"{setup.url}echo/")
        assert await connection.request("op", 1) == 1
        for fields in BREACHES[:4]:
            await breach(setup, bad, **fields)
        await closed(other_session)
        with pytest.raises(ConnectionLost, match="the peer closed the connection"):
            await connection.request("op", 2)
        why = r"is banned \(too many offences, the last: a request must carry id .*\); new sessions are refused for"
        with pytest.raises(ConnectionLost, match=why):
            await connection.request("op", 3)
        assert await neighbour.ask("op", {"n": 1}) == [(True, {"n": 1})]
        assert counted.total("dcp.scheduler.bans") == 1
        assert counted.total("dcp.scheduler.offences") == 4
        setup.server.sweep()
        assert [value for labels, value in telemetry.bans_now.series() if labels == {"of": "identity"}] == [1]
        # As the operator may.
        setup.server.guard.lift(bad.address)
        assert await connection.request("op", 4) == 4
        await breach(setup, bad, **BREACHES[0])
        assert counted.total("dcp.scheduler.bans") == 1


@pytest.mark.parametrize("setup", [STRICT], indirect=True)
@pytest.mark.parametrize("fields", BREACHES)
async def test_each_breach_counts(setup: Setup, fields: dict[str, Any]) -> None:
    key = PrivateKey.generate()
    await breach(setup, key, **fields)
    assert setup.server.guard._breaches.keys() == {key.address}
    await until(lambda: not setup.server.connections)


@pytest.mark.parametrize("setup", [FORGIVING], indirect=True)
async def test_without_a_time_nobody_is_banned(setup: Setup) -> None:
    key, counted = PrivateKey.generate(), Readings()
    for fields in BREACHES:
        await breach(setup, key, **fields)
    assert counted.total("dcp.scheduler.offences") == len(BREACHES)
    assert counted.total("dcp.scheduler.bans") == 0


@pytest.mark.parametrize("setup", [STRICT], indirect=True)
async def test_what_may_be_no_fault_does_not_count(setup: Setup) -> None:
    """Clocks that are wrong, what comes twice, what is too much, unknown operations, sessions that nobody knows."""
    key, counted = PrivateKey.generate(), Readings()
    async with setup.peer(key) as peer:
        await peer.establish()
        for offset in (-86_400.0, 86_400.0):
            await peer.ask("op", offset=offset)
        await peer.ask("op", stamp="a" * 40)
        await peer.ask("op", stamp="a" * 40)
        await peer.send(peer.requests("op"))
        await peer.answers()
        stale = peer.dcpsid
    for _ in range(6):
        async with setup.peer(key) as peer:  # as after a restart that has lost everything
            peer.dcpsid, peer._nonce = stale[::-1], "n-1-abcdefgh"
            await peer.send(message(peer, type="ack", token="t-1-abcdefgh", messageId="m-1-abcdefgh"))
            body = await peer.message()
            assert body["payload"]["operation"] == "close"
    assert counted.total("dcp.scheduler.offences") == 0


@pytest.mark.parametrize("setup", [STRICT], indirect=True)
async def test_nobody_is_framed_by_forgeries(setup: Setup) -> None:
    victim, thief = PrivateKey.generate(), PrivateKey.generate()
    async with setup.peer(victim) as honest, bound_session(OTHER) as http:
        await honest.establish()
        await honest.ask("op")
        for fields in BREACHES:
            async with setup.peer(thief, http=http) as peer:
                peer.dcpsid, peer._nonce = honest.dcpsid, honest._nonce
                # Even with the nonce of the victim's own session, which only a spy on the way knows.
                await peer.send(message(peer, **fields).replace(thief.address, victim.address))
                assert "invalid signature" in (await closed(peer))[1]
            async with setup.peer(thief, http=http) as peer:
                peer.dcpsid, peer._nonce = honest.dcpsid, honest._nonce
                await peer.send(message(peer, **fields))
                await closed(peer) if peer.socket.closed else None
        assert setup.server.guard._breaches == {}
        assert await honest.ask("op", {"n": 1}) == [(True, {"n": 1})]


@pytest.mark.parametrize("setup", [STRICT], indirect=True)
async def test_nobody_is_framed_by_what_they_said_before(setup: Setup) -> None:
    """A spy repeats all that a client has said, on connections of its own, and adds rubbish where the client's session
    is taken for the spy's. It can cost the client a session; never a ban."""
    victim = PrivateKey.generate()
    for _ in range(6):
        heard: list[str] = []
        async with setup.peer(victim) as honest, bound_session(OTHER) as http:
            send = honest.send

            async def spied(text: str, send: Any = send, heard: list[str] = heard) -> None:
                heard.append(text)
                await send(text)

            honest.send = spied  # type: ignore[method-assign]
            await honest.establish()
            await honest.ask("op", {"n": 1})
            for text in heard:
                async with setup.peer(http=http) as spy:
                    await spy.send(text)
                    await spy.send(text)
                    await spy.send('{"owner":"0x1"}')
                    await spy.socket.send_str("49")
                    await closed(spy)
    assert setup.server.guard._breaches == {}
    async with DcpClient(victim) as client:
        assert await client.connect(f"{setup.url}echo/").request("op", 1) == 1


@pytest.mark.parametrize("setup", [STRICT], indirect=True)
async def test_nobody_is_framed_by_a_service_that_passes_on_what_it_hears(setup: Setup) -> None:
    """What a client honestly says to another service, which has asked it something: that service may have told it our
    session and nonce. An answer that we did not ask for, a request that comes twice: no offence."""
    victim = PrivateKey.generate()
    for _ in range(6):
        async with setup.peer(victim) as relayed:
            await relayed.establish()
            await relayed.ask("op")
            await relayed.send(message(relayed, type="response", success=True, payload={}))
            await closed(relayed)
        async with setup.peer(victim) as relayed:
            await relayed.establish()
            await relayed.send(relayed.requests("wait"))
            again = {"stamp": "b" * 40, "time": time.time()}
            body = {"type": "request", "id": f"0-{relayed._turn}-abcdefgh"}
            await relayed.message(is_ack=True)
            await relayed.send(message(relayed, **body, payload={"operation": "wait", "validity": again}))
            await closed(relayed)
    assert setup.server.guard._breaches == {}


@pytest.mark.parametrize("setup", [STRICT], indirect=True)
async def test_a_ban_that_was_heard_of_ends_sessions(setup: Setup) -> None:
    async with setup.peer() as peer:
        await peer.establish()
        await peer.ask("op")
        setup.server.ban(Ban(peer.key.address, time.monotonic() + 60, "elsewhere"))
        await closed(peer)
        async with setup.peer(peer.key) as again:
            await again.send(connect_message(peer.key))
            body = await again.message()
            assert body["success"] is False
            assert "is banned (elsewhere)" in body["payload"]["message"]
