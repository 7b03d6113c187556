"""The session machine alone: its rules one by one, and whatever a hostile peer may send."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.errors import InvalidInput, OrchestratorError
from orchestrator.protocol import js_json, messages, signing
from orchestrator.protocol.errors import Congested, ConnectionClosed, PeerChanged
from orchestrator.protocol.farewell import farewell
from orchestrator.protocol.session import Session
from orchestrator.protocol.validity import Stamps
from orchestrator.protocol.vocabulary import (
    Action,
    Answered,
    Ask,
    Breach,
    Close,
    Closed,
    DropTransport,
    Ended,
    Event,
    Flush,
    Opened,
    Received,
    Requested,
    Respond,
    Role,
    Send,
    SessionLimits,
    State,
    Tick,
    TransportDown,
    TransportUp,
)
from orchestrator.wallet.keys import PrivateKey

CLIENT = PrivateKey.from_hex("11" * 32)
SERVER = PrivateKey.from_hex("22" * 32)
START = 1_800_000_000.0


class Pair:
    """A client's and a server's session, joined by hand."""

    def __init__(self, limits: SessionLimits | None = None, expected_peer: str | None = None) -> None:
        numbers = itertools.count()
        self.now = START
        self.client = Session(
            Role.INITIATOR,
            CLIENT,
            make_token=lambda: f"{next(numbers):021d}",
            stamps=Stamps(),
            now=self.now,
            limits=limits,
            expected_peer=expected_peer,
        )
        self.make_server = lambda: Session(
            Role.TARGET,
            SERVER,
            make_token=lambda: f"{next(numbers):021d}",
            stamps=Stamps(),
            now=self.now,
            limits=limits,
        )
        self.server = self.make_server()
        self.seen: dict[Session, list[Action]] = {self.client: [], self.server: []}
        self.wire: dict[Session, list[str]] = {self.client: [], self.server: []}

    def feed(self, side: Session, event: Event) -> list[Action]:
        actions = side.handle(event, self.now)
        side.validate()
        self.seen[side] += [action for action in actions if not isinstance(action, Send)]
        self.wire[side] += [action.frame for action in actions if isinstance(action, Send)]
        return actions

    def other(self, side: Session) -> Session:
        return self.server if side is self.client else self.client

    def settle(self) -> None:
        """Carry frames until nothing moves."""
        while self.wire[self.client] or self.wire[self.server]:
            for side in (self.client, self.server):
                frames, self.wire[side] = self.wire[side], []
                for frame in frames:
                    self.feed(self.other(side), Received(signing.open_envelope(frame)))

    def up(self) -> Pair:
        self.feed(self.server, TransportUp())
        self.feed(self.client, TransportUp())
        self.settle()
        return self

    def cut(self) -> None:
        for side in (self.client, self.server):
            self.wire[side].clear()
            self.feed(side, TransportDown())

    def ask(self, side: Session, *items: Any, **options: Any) -> None:
        for item in items:
            self.feed(side, Ask("op", item, item, **options))
        self.feed(side, Flush())

    def requests(self, side: Session) -> list[Any]:
        return [r.data for action in self.seen[side] if isinstance(action, Requested) for r in action.requests]

    def answers(self, side: Session) -> list[Any]:
        return [a.payload for action in self.seen[side] if isinstance(action, Answered) for a in action.answers]

    def answer_all(self, side: Session) -> None:
        taken = [action for action in self.seen[side] if isinstance(action, Requested)]
        self.seen[side] = [action for action in self.seen[side] if action not in taken]
        for action in taken:
            for request in action.requests:
                self.feed(side, Respond(request.id, True, {"echo": request.data}))
        self.feed(side, Flush())
        self.settle()

    def errors(self, side: Session) -> list[str]:
        return [action.error.code for action in self.seen[side] if isinstance(action, Closed)]


def tokens() -> Callable[[], str]:
    numbers = itertools.count(10**6)
    return lambda: f"{next(numbers):021d}"


def body_of(frame: str) -> dict[str, Any]:
    return signing.open_envelope(frame).body


def sealed(key: PrivateKey, body: Any) -> Received:
    return Received(signing.open_envelope(signing.seal(key, js_json.dumps(body))))


def test_establishment_is_as_observed() -> None:
    pair = Pair()
    pair.feed(pair.server, TransportUp())
    pair.feed(pair.client, TransportUp())
    (connect,) = pair.wire[pair.client]
    body = body_of(connect)
    assert list(body) == ["id", "type", "payload", "auth", "time", "ackToken", "nonce"]
    assert body["payload"]["operation"] == "connect"
    assert body["payload"]["data"]["version"] == "5.3.0"
    assert body["nonce"] is None
    assert body["time"] == START
    pair.wire[pair.client].clear()
    pair.feed(pair.server, Received(signing.open_envelope(connect)))
    ack, response = map(body_of, pair.wire[pair.server])
    assert list(ack) == ["type", "token", "nonce", "messageId"]
    assert (ack["token"], ack["messageId"]) == (body["ackToken"], body["id"])
    assert list(response) == ["id", "type", "success", "payload", "auth", "dcpsid", "time", "ackToken", "nonce"]
    assert response["id"] == body["id"]
    assert response["nonce"] is None
    assert response["payload"] == {"version": "5.3.0", "operation": "connect"}
    assert response["dcpsid"].startswith(body["payload"]["data"]["sid"])
    assert len(response["dcpsid"]) == 42
    pair.settle()
    assert pair.client.state is pair.server.state is State.ESTABLISHED
    assert pair.client.dcpsid == pair.server.dcpsid
    assert pair.client.peer == SERVER.address
    assert pair.seen[pair.server] == pair.seen[pair.client] == [Opened()]


def test_a_request_alone_and_its_answer() -> None:
    pair = Pair().up()
    pair.ask(pair.client, {"2": "y", "a": "\ud800"})
    (frame,) = pair.wire[pair.client]
    body = body_of(frame)
    assert list(body) == ["id", "type", "payload", "auth", "dcpsid", "time", "ackToken", "nonce"]
    assert list(body["payload"]) == ["operation", "jsonData", "allow", "validity"]
    assert body["payload"]["validity"]["ttl"] == 120
    pair.settle()
    assert pair.requests(pair.server) == [{"2": "y", "a": "\ud800"}]
    pair.answer_all(pair.server)
    assert pair.answers(pair.client) == [{"echo": {"2": "y", "a": "\ud800"}}]


def test_what_waits_leaves_as_one_batch_and_its_answers_too() -> None:
    pair = Pair(SessionLimits(batch_messages=100)).up()
    pair.ask(pair.client, 0)
    pair.ask(pair.client, *range(1, 60))
    pair.ask(pair.client, *range(60, 150))
    assert len(pair.wire[pair.client]) == 1
    pair.settle()
    assert pair.requests(pair.server) == list(range(150))
    statistics = pair.client.statistics()
    # The connect request, the first request, and two batches of at most 100.
    assert (statistics["messages_out"], statistics["batches_out"]) == (4, 2)
    pair.answer_all(pair.server)
    assert pair.answers(pair.client) == [{"echo": i} for i in range(150)]
    assert pair.server.statistics()["batches_out"] == 2
    assert pair.client.statistics()["unanswered"] == 0


def test_a_batch_is_bounded_by_its_size() -> None:
    pair = Pair(SessionLimits(batch_characters=10_000)).up()
    pair.ask(pair.client, *("x" * 3000 for _ in range(7)))
    pair.settle()
    assert pair.client.statistics()["messages_out"] == 1 + 3


def test_form_of_a_batch() -> None:
    pair = Pair().up()
    pair.ask(pair.server, 1, 2)
    batch = body_of(pair.wire[pair.server][0])
    assert list(batch) == ["id", "type", "payload", "auth", "dcpsid", "time", "ackToken", "nonce"]
    for member in batch["payload"]:
        assert list(member) == ["id", "type", "payload", "auth", "dcpsid", "time"]


def test_authorised_requests_travel_alone_with_a_signature_for_the_peer() -> None:
    account = PrivateKey.from_hex("44" * 32)
    pair = Pair().up()
    pair.feed(pair.client, Ask("pay", {"10": 1.0, "2": 2}, "a"))
    pair.feed(pair.client, Ask("pay", {"10": 1.0, "2": 2}, "b", (account,)))
    pair.feed(pair.client, Ask("pay", {}, "c"))
    pair.feed(pair.client, Flush())
    pair.settle()
    batches = [action.requests for action in pair.seen[pair.server] if isinstance(action, Requested)]
    assert [len(batch) for batch in batches] == [1, 1, 1]
    assert [request.authorized for (request,) in batches] == [frozenset(), {account.address}, frozenset()]


def test_the_initiator_lives_by_the_targets_clock() -> None:
    pair = Pair()
    skewed = pair.server.handle
    pair.server.handle = lambda event, now: skewed(event, now + 5000)  # type: ignore[method-assign]
    pair.up()
    pair.ask(pair.client, 1)
    assert body_of(pair.wire[pair.client][0])["payload"]["validity"]["time"] == START + 5000
    pair.settle()
    pair.answer_all(pair.server)
    assert pair.answers(pair.client) == [{"echo": 1}]


def test_milliseconds_do_not_poison_the_clock() -> None:
    pair = Pair().up()
    skewed = pair.server.handle
    pair.server.handle = lambda event, now: skewed(event, now * 1000)  # type: ignore[method-assign]
    pair.ask(pair.client, 1)
    pair.settle()
    assert pair.client.handle(Ask("op", 2, 2), pair.now) == []
    pair.feed(pair.client, Flush())
    assert body_of(pair.wire[pair.client][0])["payload"]["validity"]["time"] == START


def test_keepalive_is_answered_by_the_machine_without_validity() -> None:
    pair = Pair().up()
    pair.feed(pair.client, Ask("keepalive", 123, "k"))
    pair.feed(pair.client, Flush())
    pair.settle()
    assert pair.answers(pair.client) == [{"success": True}]
    assert pair.requests(pair.server) == []


def test_an_answer_that_is_no_json_becomes_an_error() -> None:
    pair = Pair().up()
    pair.ask(pair.client, 1)
    pair.settle()
    (request,) = pair.seen[pair.server][-1].requests  # type: ignore[union-attr]
    pair.feed(pair.server, Respond(request.id, True, {"x": float("nan")}))
    pair.feed(pair.server, Flush())
    pair.settle()
    (answer,) = pair.seen[pair.client][-1].answers  # type: ignore[union-attr]
    assert not answer.success
    assert answer.payload["origin"] == SERVER.address


def test_a_request_that_is_no_json_is_refused_at_once() -> None:
    pair = Pair().up()
    with pytest.raises(InvalidInput):
        pair.feed(pair.client, Ask("op", {1, 2}, None))
    assert pair.client.statistics()["queued"] == 0


# --- lost transports


def _resume(pair: Pair) -> None:
    """What the server shell does when a transport names the session."""
    pair.feed(pair.client, TransportUp())
    pair.feed(pair.server, TransportUp())
    pair.settle()


def test_a_request_lost_before_its_ack_is_sent_again() -> None:
    pair = Pair().up()
    pair.ask(pair.client, 1)
    pair.cut()
    _resume(pair)
    pair.answer_all(pair.server)
    assert pair.answers(pair.client) == [{"echo": 1}]
    assert pair.client.statistics()["retransmissions"] == 1


def test_a_lost_ack_is_repeated() -> None:
    pair = Pair().up()
    pair.ask(pair.client, 1)
    (frame,) = pair.wire[pair.client]
    pair.feed(pair.server, Received(signing.open_envelope(frame)))
    pair.cut()
    _resume(pair)
    assert pair.requests(pair.server) == [1]
    pair.answer_all(pair.server)
    assert pair.answers(pair.client) == [{"echo": 1}]
    assert pair.client.statistics()["retransmissions"] == 0


def test_a_lost_answer_is_sent_again() -> None:
    pair = Pair().up()
    pair.ask(pair.client, 1)
    pair.settle()
    (request,) = pair.seen[pair.server][-1].requests  # type: ignore[union-attr]
    pair.feed(pair.server, Respond(request.id, True, "answer"))
    pair.feed(pair.server, Flush())
    pair.cut()
    _resume(pair)
    assert pair.answers(pair.client) == ["answer"]


def test_an_answer_that_was_given_without_a_transport_leaves_after_the_resume() -> None:
    """The request's ack was lost, so the client has something on deck and no reason for a keepalive."""
    pair = Pair().up()
    pair.ask(pair.client, 1)
    (frame,), pair.wire[pair.client] = pair.wire[pair.client], []
    pair.feed(pair.server, Received(signing.open_envelope(frame)))
    pair.cut()
    pair.answer_all(pair.server)
    assert not pair.answers(pair.client)
    pair.up()
    assert pair.answers(pair.client) == [{"echo": 1}]


def test_the_first_frames_after_a_resume_are_as_observed() -> None:
    pair = Pair().up()
    pair.ask(pair.client, 1)
    pair.cut()
    pair.feed(pair.client, TransportUp())
    (ack,) = map(body_of, pair.wire[pair.client])  # its message on deck waits for the server's ack
    assert (ack["type"], ack["dcpsid"]) == ("ack", pair.client.dcpsid)
    pair = Pair().up()
    pair.cut()
    pair.feed(pair.client, TransportUp())
    ack, request = map(body_of, pair.wire[pair.client])
    assert ack["type"] == "ack"
    assert request["payload"]["operation"] == "keepalive"


def test_after_a_resume_nothing_is_sent_twice_for_ever() -> None:
    pair = Pair().up()
    for _ in range(3):
        pair.cut()
        _resume(pair)
    before = pair.client.statistics()
    for i in range(20):
        pair.ask(pair.client, i)
        pair.ask(pair.server, i)
        pair.settle()
    after = pair.client.statistics()
    assert after["retransmissions"] == before["retransmissions"]
    assert after["duplicates_in"] == before["duplicates_in"]
    assert after["messages_out"] - before["messages_out"] == 20


def test_a_session_never_established_begins_anew() -> None:
    pair = Pair()
    pair.ask(pair.client, "early")
    pair.feed(pair.client, TransportUp())
    pair.cut()
    pair.server = pair.make_server()
    pair.seen[pair.server], pair.wire[pair.server] = [], []
    pair.up()
    assert pair.requests(pair.server) == ["early"]


def test_a_farewell_ends_a_session_that_the_server_forgot() -> None:
    pair = Pair().up()
    pair.ask(pair.client, 1)
    pair.settle()
    pair.cut()
    pair.feed(pair.client, TransportUp())
    ack = body_of(pair.wire[pair.client][0])
    frame = farewell(SERVER, ack, lambda: "t" * 21, pair.now)
    assert frame is not None
    pair.wire[pair.client].clear()
    pair.feed(pair.client, Received(signing.open_envelope(frame)))
    assert body_of(pair.wire[pair.client][0])["type"] == "ack"
    assert pair.errors(pair.client) == ["ECONNRESET"]
    (closed,) = [action for action in pair.seen[pair.client] if isinstance(action, Closed)]
    assert closed.contexts == (1,)


@pytest.mark.parametrize("ack_arrived", [True, False])
@pytest.mark.parametrize("received", [True, False])
def test_an_heir_lets_the_client_finish_before_it_closes(received: bool, ack_arrived: bool) -> None:
    """The server is killed while the client's answers wait for their acks; what it knew last is all that is left."""
    pair = Pair().up()
    pair.ask(pair.server, "event 1", "event 2")
    pair.settle()
    pair.answer_all(pair.client)
    pair.ask(pair.server, "event 3")
    pair.settle()
    taken = [action for action in pair.seen[pair.client] if isinstance(action, Requested)]
    pair.feed(pair.client, Respond(taken[-1].requests[0].id, True, "success"))
    pair.feed(pair.client, Flush())
    if received:
        (answer,) = pair.wire[pair.client]
        pair.feed(pair.server, Received(signing.open_envelope(answer)))
        if ack_arrived:
            pair.wire[pair.client].clear()
            for frame in pair.wire[pair.server]:
                pair.feed(pair.client, Received(signing.open_envelope(frame)))
    left = pair.server.remembered("eventRouter")
    assert left is not None
    pair.cut()
    pair.ask(pair.client, "never answered")
    pair.server = Session(Role.TARGET, SERVER, make_token=tokens(), stamps=Stamps(), now=pair.now, remembered=left)
    pair.seen[pair.server], pair.wire[pair.server] = [], []
    pair.seen[pair.client].clear()
    pair.up()
    assert pair.client.statistics()["queued"] == 0
    assert pair.requests(pair.server) == [], "there is no service behind an heir"
    pair.feed(pair.server, Close())
    pair.settle()
    assert pair.errors(pair.client) == ["ECONNRESET"]
    assert pair.server.is_closed
    assert pair.client.is_closed


@pytest.mark.parametrize(
    "body", [{}, {"type": "request", "dcpsid": "x" * 42, "nonce": "n"}, {"type": "ack", "nonce": "n"}]
)
def test_no_farewell_without_a_nonce(body: dict[str, Any]) -> None:
    assert farewell(SERVER, body, lambda: "t" * 21, START) is None


# --- the end


@pytest.mark.parametrize("role", [Role.INITIATOR, Role.TARGET])
def test_close_in_order(role: Role) -> None:
    pair = Pair().up()
    side = pair.client if role is Role.INITIATOR else pair.server
    pair.ask(side, "unanswered")
    pair.settle()
    pair.feed(side, Close())
    pair.settle()
    assert pair.errors(side) == ["EPIPE"]
    assert pair.errors(pair.other(side)) == ["ECONNRESET"]
    for end in (side, pair.other(side)):
        assert end.state is State.CLOSED
        assert isinstance(pair.seen[end][-1], Ended)
        assert [type(action) for action in pair.seen[end]].count(Closed) == 1
        with pytest.raises(ConnectionClosed):
            pair.feed(end, Ask("op", 1, 1))
    (closed,) = [action for action in pair.seen[side] if isinstance(action, Closed)]
    assert closed.contexts == ("unanswered",)


def test_close_does_not_wait_for_ever() -> None:
    pair = Pair().up()
    pair.feed(pair.client, Close())
    pair.wire[pair.client].clear()
    pair.now += 6
    assert pair.feed(pair.client, Tick()) == []
    pair.now += 2
    assert pair.feed(pair.client, Tick()) == [Ended()]


def test_close_without_a_transport_is_immediate() -> None:
    pair = Pair().up()
    pair.cut()
    pair.feed(pair.client, Close())
    assert pair.client.is_closed


def test_answers_under_way_are_sent_before_the_end() -> None:
    pair = Pair().up()
    pair.ask(pair.client, 1, 2)
    pair.settle()
    requests = pair.seen[pair.server][-1].requests  # type: ignore[union-attr]
    pair.feed(pair.server, Respond(requests[0].id, True, "first"))
    pair.feed(pair.server, Close())
    # A handler that comes too late is not told off.
    assert pair.feed(pair.server, Respond(requests[1].id, True, "late")) == []
    pair.settle()
    assert pair.answers(pair.client) == ["first"]
    assert pair.client.is_closed
    assert pair.server.is_closed


# --- time


def test_times_of_patience() -> None:
    limits = SessionLimits()
    pair = Pair(limits).up()
    pair.cut()
    pair.now += limits.reconnect_timeout + 1
    pair.feed(pair.client, Tick())
    assert pair.errors(pair.client) == ["ETIMEDOUT"]
    assert pair.feed(pair.server, Tick()) == []
    pair.now = START + limits.linger_timeout + 1
    pair.feed(pair.server, Tick())
    assert pair.errors(pair.server) == ["ETIMEDOUT"]


@pytest.mark.parametrize("role", list(Role))
def test_a_session_must_be_established_in_time(role: Role) -> None:
    pair = Pair()
    side = pair.client if role is Role.INITIATOR else pair.server
    pair.feed(side, TransportUp())
    pair.now += 59
    assert pair.feed(side, Tick()) == []
    pair.now += 2
    pair.feed(side, Tick())
    assert pair.errors(side) == ["ETIMEDOUT"]


def test_a_missing_ack_drops_the_transport_and_the_message_comes_again() -> None:
    pair = Pair().up()
    pair.ask(pair.client, 1)
    pair.wire[pair.client].clear()
    pair.now += 119
    assert pair.feed(pair.client, Tick()) == []
    pair.now += 2
    assert isinstance(pair.feed(pair.client, Tick())[0], DropTransport)
    pair.cut()
    _resume(pair)
    assert pair.requests(pair.server) == [1]


# --- bounds


def test_the_queue_is_bounded() -> None:
    pair = Pair(SessionLimits(queue_messages=10)).up()
    pair.cut()
    pair.ask(pair.client, *range(10))
    with pytest.raises(Congested):
        pair.feed(pair.client, Ask("op", 10, 10))
    _resume(pair)
    # Sent, but not answered: still as many as there may be.
    with pytest.raises(Congested):
        pair.feed(pair.client, Ask("op", 10, 10))
    pair.answer_all(pair.server)
    pair.ask(pair.client, 10)
    pair.settle()
    assert pair.requests(pair.server) == [10]


def test_the_queue_is_bounded_in_characters_but_takes_one_of_any_size() -> None:
    pair = Pair(SessionLimits(queue_characters=1000)).up()
    pair.cut()
    pair.ask(pair.client, "x" * 5000)
    with pytest.raises(Congested):
        pair.feed(pair.client, Ask("op", 1, 1))


def test_a_peer_that_asks_and_never_listens_loses_its_session() -> None:
    pair = Pair(SessionLimits(queue_messages=50)).up()
    answered = 0
    for i in range(100):
        if pair.server.is_closed:
            break
        pair.ask(pair.client, i)
        frames, pair.wire[pair.client] = pair.wire[pair.client], []
        for frame in frames:
            pair.feed(pair.server, Received(signing.open_envelope(frame)))
        # The client takes acks and keeps its own to itself.
        for frame in pair.wire[pair.server]:
            if body_of(frame)["type"] == "ack":
                pair.feed(pair.client, Received(signing.open_envelope(frame)))
        pair.wire[pair.server].clear()
        if isinstance(pair.seen[pair.server][-1], Requested):
            for request in pair.seen[pair.server][-1].requests:
                pair.feed(pair.server, Respond(request.id, True, "x"))
                answered += 1
            pair.feed(pair.server, Flush())
        pair.client._unanswered.clear()
    assert pair.errors(pair.server) == ["ENOBUFS"]
    assert answered <= 60


def test_too_many_requests_in_progress_are_refused_one_by_one() -> None:
    pair = Pair(SessionLimits(requests_in_progress=5)).up()
    pair.ask(pair.client, *range(8))
    pair.settle()
    assert pair.requests(pair.server) == list(range(5))
    refused = [a for action in pair.seen[pair.client] if isinstance(action, Answered) for a in action.answers]
    assert [answer.payload["code"] for answer in refused] == ["EBUSY"] * 3
    pair.answer_all(pair.server)
    pair.ask(pair.client, 9)
    pair.settle()
    assert pair.requests(pair.server) == [9]


# --- breaches


def _request(pair: Pair, **changes: Any) -> dict[str, Any]:
    """A message that the server would accept next, but for the changes."""
    pair.ask(pair.client, "x")
    body = body_of(pair.wire[pair.client].pop())
    return {**body, **changes}


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"nonce": "NNt1-other"}, "DCPC-1026"),
        ({"nonce": None}, "DCPC-1026"),
        ({"dcpsid": "x" * 42}, "EDCPSID"),
        ({"dcpsid": None}, "EDCPSID"),
        ({"id": ""}, "EINVAL"),
        ({"id": 5}, "EINVAL"),
        ({"id": "x" * 1000}, "EINVAL"),
        ({"ackToken": None}, "EINVAL"),
        ({"type": "riddle"}, "EINVAL"),
        ({"type": ["request"]}, "EINVAL"),
        ({"payload": None}, "EINVAL"),
        ({"payload": {"operation": 5}}, "EINVAL"),
        ({"payload": {"operation": "connect", "data": {"version": "5.3.0", "sid": "x" * 21}}}, "DCPC-1321"),
        ({"type": "response", "success": "yes"}, "EINVAL"),
        ({"type": "response", "success": True}, "DCPC-1024"),
        ({"type": "batch", "payload": {}}, "EINVAL"),
        ({"type": "batch", "payload": [1]}, "EINVAL"),
        ({"type": "batch", "payload": [{"type": "batch", "payload": []}]}, "EINVAL"),
        ({"type": "ack", "token": "unknown", "nonce": "n"}, "EINVAL"),
        ({"type": "ack", "token": None, "nonce": "n"}, "EINVAL"),
        ({"type": "ack", "token": "t"}, "EINVAL"),
    ],
)
def test_a_breach_of_the_rules_ends_the_session(changes: dict[str, Any], code: str) -> None:
    pair = Pair().up()
    pair.feed(pair.server, sealed(CLIENT, _request(pair, **changes)))
    assert pair.errors(pair.server) == [code]
    assert pair.server.is_closed


@pytest.mark.parametrize(
    ("payload", "code"),
    [
        ({"operation": "op"}, "EINVAL"),
        ({"operation": "op", "validity": {"stamp": "s", "time": 1}}, "EEXPIRED"),
        ({"operation": "op", "validity": {"stamp": "s", "time": START}, "jsonData": "{"}, "EINVAL"),
    ],
)
def test_an_invalid_request_is_answered_with_an_error(payload: dict[str, Any], code: str) -> None:
    pair = Pair().up()
    pair.feed(pair.server, sealed(CLIENT, _request(pair, payload=payload)))
    answer = body_of(pair.wire[pair.server][-1])
    assert (answer["success"], answer["payload"]["code"]) == (False, code)
    assert pair.server.state is State.ESTABLISHED


def test_another_owner_ends_the_session() -> None:
    pair = Pair().up()
    pair.feed(pair.server, sealed(PrivateKey.from_hex("55" * 32), _request(pair)))
    assert pair.errors(pair.server) == ["EINVAL"]


def test_a_frame_that_is_no_message_ends_the_session() -> None:
    pair = Pair().up()
    pair.feed(pair.server, Breach(OrchestratorError("?", code="DCPC-1102")))
    assert pair.errors(pair.server) == ["DCPC-1102"]


def test_a_message_repeated_on_the_same_transport_is_taken_once() -> None:
    pair = Pair().up()
    pair.ask(pair.client, 1)
    (frame,) = pair.wire[pair.client]
    pair.feed(pair.server, Received(signing.open_envelope(frame)))
    pair.feed(pair.server, Received(signing.open_envelope(frame)))
    pair.settle()
    assert pair.requests(pair.server) == [1]


def _refuse(pair: Pair) -> dict[str, Any]:
    """A request that the service has answered with an error, and the client has heard of it."""
    pair.ask(pair.client, 1)
    (frame,) = pair.wire[pair.client]
    pair.settle()
    _answer(pair, body_of(frame)["id"], success=False)
    return body_of(frame)


def _answer(pair: Pair, message_id: str, *, success: bool) -> None:
    pair.feed(pair.server, Respond(message_id, success, {"code": "ENO"}))
    pair.feed(pair.server, Flush())
    pair.settle()


def _ask_again(pair: Pair, body: dict[str, Any], **changes: Any) -> None:
    """The request once more, as dcp-client sends it: everything as it was, but for nonce and token."""
    remembered = pair.server.remembered("any")
    assert remembered is not None
    again = {**body, "nonce": remembered.nonce, "ackToken": "again" + remembered.token, **changes}
    pair.feed(pair.server, sealed(CLIENT, again))


def _last_code(pair: Pair) -> Any:
    payload = body_of(pair.wire[pair.server][-1])["payload"]
    return payload[0]["payload"]["code"] if isinstance(payload, list) else payload["code"]


def test_a_refused_request_may_be_sent_again_as_it_was() -> None:
    pair = Pair().up()
    body = _refuse(pair)
    _ask_again(pair, body)
    assert pair.requests(pair.server) == [1, 1]
    # A second message with the id of the first answer would be taken for its repetition.
    pair.feed(pair.server, Respond(body["id"], False, {"code": "ENO"}))
    pair.feed(pair.server, Flush())
    answer = body_of(pair.wire[pair.server][-1])
    assert answer["type"] == "batch"
    assert answer["id"] != body["id"]
    assert [member["id"] for member in answer["payload"]] == [body["id"]]


def test_an_answered_request_may_not_be_sent_again() -> None:
    pair = Pair().up()
    pair.ask(pair.client, 1)
    (frame,) = pair.wire[pair.client]
    pair.settle()
    _answer(pair, body_of(frame)["id"], success=True)
    _ask_again(pair, body_of(frame))
    assert pair.requests(pair.server) == [1]
    assert _last_code(pair) == "EDUP"


def test_a_refused_request_gives_its_stamp_to_no_other() -> None:
    pair = Pair().up()
    body = _refuse(pair)
    _ask_again(pair, body, id="another")
    assert pair.requests(pair.server) == [1]
    assert _last_code(pair) == "EDUP"


def test_notifications_are_taken_without_an_answer() -> None:
    pair = Pair().up()
    pair.feed(pair.server, sealed(CLIENT, _request(pair, type="notification", payload={"data": 1})))
    assert [body_of(frame)["type"] for frame in pair.wire[pair.server]] == ["ack"]
    assert pair.server.statistics()["notifications_in"] == 1


@pytest.mark.parametrize(
    "body", [{"type": "batch", "payload": []}, {"type": "notification"}, {"type": "response", "success": True}]
)
def test_only_connect_may_come_first(body: dict[str, Any]) -> None:
    pair = Pair()
    pair.feed(pair.server, TransportUp())
    pair.feed(pair.server, sealed(CLIENT, {"id": "1", "ackToken": "t", "nonce": None, **body}))
    assert pair.server.is_closed


@pytest.mark.parametrize(
    ("version", "fits"),
    [("5.3.0", True), ("5.2.0", True), ("5.1.9", False), ("6.0.0", False), ("x", False), (None, False)],
)
def test_versions(version: Any, fits: bool) -> None:
    assert messages.is_compatible(version) is fits
    pair = Pair()
    pair.feed(pair.server, TransportUp())
    data = {"version": version, "sid": "s" * 21}
    connect = {
        "id": "1",
        "type": "request",
        "payload": {"operation": "connect", "data": data},
        "ackToken": "t",
        "nonce": None,
    }
    pair.feed(pair.server, sealed(CLIENT, connect))
    answer = body_of(pair.wire[pair.server][1])
    assert answer["success"] is fits
    if not fits:
        assert answer["payload"] == {"message": "^5.2.0", "code": "EVERSION"}
        ack = {"type": "ack", "token": answer["ackToken"], "nonce": "n", "messageId": "1"}
        pair.feed(pair.server, sealed(CLIENT, ack))
        assert pair.server.is_closed


def test_a_refused_version_ends_the_initiator() -> None:
    pair = Pair()
    pair.feed(pair.client, TransportUp())
    connect = body_of(pair.wire[pair.client][0])
    refusal = {
        "id": connect["id"],
        "type": "response",
        "success": False,
        "payload": {"message": "^9.0.0", "code": "EVERSION"},
        "dcpsid": "x" * 42,
        "time": START,
        "ackToken": "t",
        "nonce": None,
    }
    pair.feed(pair.client, sealed(SERVER, refusal))
    assert pair.errors(pair.client) == ["EVERSION"]


def test_a_foreign_dcpsid_is_refused() -> None:
    pair = Pair()
    pair.feed(pair.client, TransportUp())
    connect = body_of(pair.wire[pair.client][0])
    answer = {
        "id": connect["id"],
        "type": "response",
        "success": True,
        "payload": {"version": "5.3.0", "operation": "connect"},
        "dcpsid": "x" * 42,
        "time": START,
        "ackToken": "t",
        "nonce": None,
    }
    pair.feed(pair.client, sealed(SERVER, answer))
    assert pair.errors(pair.client) == ["EDCPSID"]


def test_an_unexpected_key_is_refused_before_anything_is_believed() -> None:
    pair = Pair(expected_peer=CLIENT.address)
    pair.feed(pair.server, TransportUp())
    pair.feed(pair.client, TransportUp())
    pair.settle()
    (closed,) = [action for action in pair.seen[pair.client] if isinstance(action, Closed)]
    assert isinstance(closed.error, PeerChanged)
    assert pair.client.dcpsid is None


# --- anything at all

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
words = st.sampled_from(
    ["request", "response", "batch", "ack", "notification", "connect", "close", "keepalive", "op", "s" * 21]
)
fields = st.sampled_from(["id", "type", "payload", "auth", "dcpsid", "time", "ackToken", "nonce", "success", "token"])
payloads = st.dictionaries(
    st.sampled_from(["operation", "data", "jsonData", "allow", "validity", "version", "sid"]),
    words | json_values,
    max_size=4,
)
hostile = st.dictionaries(fields, words | json_values | payloads | st.lists(payloads, max_size=2), max_size=4)


@settings(max_examples=300, deadline=None)
@given(st.lists(hostile, max_size=3), st.booleans(), st.sampled_from(list(Role)))
def test_no_message_makes_the_machine_raise(changes: list[dict[str, Any]], established: bool, role: Role) -> None:
    pair = Pair()
    if established:
        pair.up()
    side, key = (pair.server, CLIENT) if role is Role.TARGET else (pair.client, SERVER)
    pair.feed(side, TransportUp())
    pair.feed(side, Tick())
    for change in changes:
        body: dict[str, Any] = {"id": "1", "type": "request", "payload": {}, "ackToken": "t", "dcpsid": side.dcpsid}
        if established:
            body["nonce"] = side._receipts.nonce
        pair.feed(side, sealed(key, body | change))
        pair.feed(side, Flush())
    pair.feed(side, Close())
    pair.feed(side, TransportDown())
    assert side.is_closed
    assert isinstance(pair.seen[side][-1], Ended)
