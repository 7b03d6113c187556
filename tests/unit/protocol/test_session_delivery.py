"""Two sessions over a transport that breaks, loses and repeats: every message arrives once and in order."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.protocol import signing
from orchestrator.protocol.session import Session
from orchestrator.protocol.validity import Stamps
from orchestrator.protocol.vocabulary import (
    Answered,
    Ask,
    Closed,
    DropTransport,
    Event,
    Flush,
    Received,
    Requested,
    Respond,
    Role,
    Send,
    SessionLimits,
    Tick,
    TransportDown,
    TransportUp,
)
from orchestrator.wallet.keys import PrivateKey

CLIENT = PrivateKey.from_hex("11" * 32)
SERVER = PrivateKey.from_hex("22" * 32)
LIMITS = SessionLimits(connect_timeout=1e9, reconnect_timeout=1e9, linger_timeout=1e9, batch_messages=7)

# Signing and checking is tested elsewhere; here it would take nine tenths of the time.
_opened: dict[str, signing.Envelope] = {}


class World:
    """A client, a server shell that finds sessions by their dcpsid, and the frames on their way."""

    def __init__(self) -> None:
        numbers = itertools.count()
        self.make_token = lambda: f"{next(numbers):021d}"
        self.now = 1_800_000_000.0
        self.client = Session(
            Role.INITIATOR, CLIENT, make_token=self.make_token, stamps=Stamps(), now=self.now, limits=LIMITS
        )
        self.stamps = Stamps()
        self.sessions: list[Session] = []  # of the server
        self.server: Session | None = None  # the one that is attached
        self.is_up = False
        self.to_server: list[str] = []
        self.to_client: list[str] = []
        self.asked: dict[str, list[int]] = {"client": [], "server": []}
        self.received: dict[str, list[int]] = {"client": [], "server": []}
        self.answered: dict[str, list[int]] = {"client": [], "server": []}
        self.unanswered: list[tuple[Session, str, int]] = []
        self.closed: list[Closed] = []

    # --- the network

    def connect(self) -> None:
        if not self.is_up:
            self.is_up = True
            self.feed(self.client, TransportUp())

    def cut(self) -> None:
        """What is on its way is lost. The server may notice late: it only learns of it here at the same time."""
        if self.is_up:
            self.is_up = False
            self.to_server.clear()
            self.to_client.clear()
            self.feed(self.client, TransportDown())
            if self.server is not None:
                server, self.server = self.server, None
                self.feed(server, TransportDown())

    def half_cut(self) -> None:
        """The client reconnects before the server notices that the old transport is dead."""
        if self.is_up:
            self.to_server.clear()
            self.to_client.clear()
            self.feed(self.client, TransportDown())
            self.server = None
            self.feed(self.client, TransportUp())

    def deliver_to_server(self) -> None:
        if not self.to_server:
            return
        envelope = signing.open_envelope(self.to_server.pop(0))
        if self.server is None:
            dcpsid = envelope.body.get("dcpsid")
            if dcpsid is None:
                if envelope.body["type"] == "ack":
                    return  # a shell would drop the transport; this happens only to repeated frames
                session = Session(
                    Role.TARGET, SERVER, make_token=self.make_token, stamps=self.stamps, now=self.now, limits=LIMITS
                )
                self.sessions.append(session)
            else:
                (session,) = [s for s in self.sessions if s.dcpsid == dcpsid]
            self.server = session
            self.feed(session, TransportUp())
        self.feed(self.server, Received(envelope))

    def deliver_to_client(self) -> None:
        if self.to_client:
            self.feed(self.client, Received(signing.open_envelope(self.to_client.pop(0))))

    # --- the machines

    def feed(self, side: Session, event: Event) -> None:
        name = "client" if side is self.client else "server"
        for action in side.handle(event, self.now):
            match action:
                case Send(frame):
                    if self.is_up and (side is self.client or side is self.server):
                        (self.to_server if side is self.client else self.to_client).append(frame)
                case Requested(requests):
                    for request in requests:
                        self.received[name].append(request.data)
                        self.unanswered.append((side, request.id, request.data))
                case Answered(answers):
                    for answer in answers:
                        assert answer.context == answer.payload
                        self.answered[name].append(answer.payload)
                case DropTransport():
                    self.cut()
                case Closed():
                    self.closed.append(action)
        side.validate()

    def ask(self, name: str) -> None:
        side = self.client if name == "client" else self.server
        if side is None or (name == "server" and side.state != "established"):
            return
        number = len(self.asked[name])
        self.asked[name].append(number)
        self.feed(side, Ask("op", number, number))

    def flush(self) -> None:
        self.feed(self.client, Flush())
        if self.server is not None:
            self.feed(self.server, Flush())

    def respond(self) -> None:
        if self.unanswered:
            side, message_id, data = self.unanswered.pop(0)
            self.feed(side, Respond(message_id, True, data))

    def heal(self) -> None:
        """Let everything come to an end on a transport that works."""
        for _ in range(60):
            self.connect()
            for _ in range(200):
                if not (self.to_server or self.to_client or self.unanswered):
                    break
                self.deliver_to_server()
                self.deliver_to_client()
                self.respond()
                self.flush()
            self.flush()
            if not (self.to_server or self.to_client):
                # Whoever still waits for an ack gives the transport up after its time.
                self.now += LIMITS.max_rtt + 1
                self.feed(self.client, Tick())
                if self.server is not None:
                    self.feed(self.server, Tick())
                if self.is_up and not (self.to_server or self.to_client):
                    return
        raise AssertionError("the world does not come to rest")

    def check(self) -> None:
        assert self.closed == []
        # Requests that a server queued in a session that its client never learnt of die with it.
        for asker, taker in (("client", "server"), ("server", "client")):
            assert self.received[taker] == self.asked[asker]
            assert sorted(self.answered[asker]) == self.asked[asker]
        assert self.client.statistics()["unanswered"] == 0


STEPS: dict[str, Any] = {
    "client asks": lambda world: world.ask("client"),
    "server asks": lambda world: world.ask("server"),
    "respond": World.respond,
    "flush": World.flush,
    "to server": World.deliver_to_server,
    "to client": World.deliver_to_client,
    "cut": World.cut,
    "half cut": World.half_cut,
    "connect": World.connect,
    "lose to server": lambda world: world.to_server[1:] and world.to_server.pop(),
    "lose to client": lambda world: world.to_client[1:] and world.to_client.pop(),
    "repeat to server": lambda world: (
        world.server and world.to_server and world.to_server.insert(0, world.to_server[0])
    ),
    "repeat to client": lambda world: world.to_client and world.to_client.insert(0, world.to_client[0]),
}
# Traffic is more frequent than trouble.
USUAL = ["client asks", "server asks", "respond", "flush", "to server", "to client"]
steps = st.lists(st.sampled_from([*STEPS, *USUAL * 3]), min_size=10, max_size=120)


@settings(max_examples=120, deadline=None)
@given(steps)
def test_every_message_arrives_once_and_in_order(names: list[str]) -> None:
    world = World()
    world.connect()
    for name in names:
        STEPS[name](world)
    world.heal()
    world.check()


@pytest.mark.parametrize("period", range(1, 12))
def test_a_transport_that_breaks_again_and_again(period: int) -> None:
    """Cut after every `period` frames, at every phase of the conversation."""
    world = World()
    frames = 0
    for round_ in range(150):
        world.connect()
        world.ask("client")
        if round_ % 3 == 0:
            world.ask("server")
        world.flush()
        for deliver in (world.deliver_to_server, world.deliver_to_client):
            deliver()
            frames += 1
            if frames % period == 0:
                world.cut()
                world.connect()
        world.respond()
        world.respond()
    world.heal()
    world.check()
    assert len(world.asked["client"]) == 150


def test_quiet_traffic_costs_one_message_and_one_ack_per_batch() -> None:
    world = World()
    world.connect()
    world.heal()
    before = world.client.statistics()["messages_out"]
    for _ in range(50):
        world.ask("client")
    world.heal()
    world.check()
    assert world.client.statistics()["messages_out"] - before == 8  # 50 in batches of 7
