"""A DCP session, both roles, without I/O: events in, actions out.

Each direction is stop-and-wait: one message is on deck until its ack comes, and the ack brings the nonce for the next.
What is queued meanwhile leaves as one batch. A session outlives its transport: after a reconnect both sides repeat
their last ack, which either releases the other's message on deck or tells it to send that message again. So every
message arrives exactly once and in order, as long as one of the two remembers the session.

What it sends, and how it ends, is in `speaker`; here it hears.

The initiator is the client, the target the server. The shell opens transports, opens envelopes (`signing`), carries out
the actions in order, and calls `handle(Tick(), now)` every few seconds. `now` is the time of day in seconds.

Facts about the reference's behaviour were observed with dcp-client 5.6.1 and 4.4.29.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

from orchestrator.errors import InvalidInput, OrchestratorError
from orchestrator.protocol import messages
from orchestrator.protocol.authorization import authorized_resources
from orchestrator.protocol.errors import ClosedByPeer, Congested, ConnectionClosed, PeerChanged
from orchestrator.protocol.messages import OutgoingRequest, OutgoingResponse
from orchestrator.protocol.speaker import Speaker
from orchestrator.protocol.tokens import is_session_id, is_token
from orchestrator.protocol.validity import InvalidRequestTime, stale_at
from orchestrator.protocol.vocabulary import (
    Action,
    Answer,
    Answered,
    Ask,
    Breach,
    Close,
    DropTransport,
    Event,
    Flush,
    IncomingRequest,
    Offended,
    Opened,
    Received,
    Requested,
    Respond,
    Role,
    Send,
    State,
    Tick,
    TransportDown,
    TransportUp,
)

_KEEPALIVE_ANSWER = {"success": True}
_REFUSED_KEPT = 32
# Milliseconds since 1970 would be beyond this many seconds.
_LATEST_TIME = 1e11


class Session(Speaker):
    """One end of a session. See the module's docstring."""

    # --- the machine

    def handle(self, event: Event, now: float) -> list[Action]:
        """Take in one event. Never raises for what a peer sent; see `Ask` for what an application may get wrong."""
        if self.state is State.CLOSED:
            if isinstance(event, Ask):
                raise ConnectionClosed("the session is closed")
            return []
        return self._table[type(event)](self, event, now)

    def _transport_up(self, _: TransportUp, now: float) -> list[Action]:
        self._is_up = True
        self._transport += 1
        self._since = now
        self._stats.transports += 1
        if self.role is Role.TARGET:
            return self._repeat_ack()
        if self.dcpsid is None:
            return self._connect(now)
        actions = self._repeat_ack()
        if self._outbox.on_deck is None and not self._outbox:
            self._queue_request("keepalive", messages.ABSENT, None)
        return actions + self._flush(None, now)

    def _transport_down(self, _: TransportDown, now: float) -> list[Action]:
        self._is_up = False
        self._since = now
        if self.state is State.CLOSING:
            return self._end()
        if self.role is Role.TARGET and self.dcpsid is None:
            return self._fail("ECONNRESET", "the transport was lost before the session was established")
        return []

    def _received(self, event: Received, now: float) -> list[Action]:
        envelope = event.envelope
        if self.peer is None:
            expected = self._expected_peer
            if expected is not None and envelope.owner not in (expected, *self._accepted_peers):
                return self._fail_with(
                    PeerChanged(
                        f"the service was {expected} before and signs as {envelope.owner} now; accept that only if its "
                        "operator confirms the new address",
                        info={"before": expected, "now": envelope.owner},
                    )
                )
            self.peer = envelope.owner
        elif self.peer != envelope.owner:
            return self._fail("EINVAL", f"incorrect peer address {envelope.owner}")
        body = envelope.body
        if body.get("type") == "ack":
            return self._acknowledged(body, now)
        return self._message(body, now)

    def _message(self, body: dict[str, Any], now: float) -> list[Action]:
        message_id, token = body.get("id"), body.get("ackToken")
        if not is_token(message_id) or not is_token(token):
            return self._fail("EINVAL", "a message must carry id and ackToken")
        # Under a fresh nonce the id of the last message is no repetition: a client that is refused may send the same
        # request again, id and stamp included (observed with dcp-client 5.6.1, uploading slices).
        if self._receipts.has(message_id) and body.get("nonce") != self._receipts.nonce:
            self._stats.duplicates_in += 1
            return self._repeat_ack()
        if self.dcpsid is not None:
            if body.get("dcpsid") != self.dcpsid:
                return self._fail("EDCPSID", "invalid dcpsid")
            if body.get("nonce") != self._receipts.nonce:
                return self._fail("DCPC-1026", "nonce mismatch")
        self._stats.messages_in += 1
        # The ack goes out at once: handling may take long, and the peer drops the transport without one.
        nonce = f"NN{self.role[0]}{self._count()}-{self._make_token()}"
        ack = self._receipts.give(message_id, token, nonce=nonce, dcpsid=self.dcpsid, transport=self._transport)
        actions: list[Action] = [Send(ack)]
        if self.dcpsid is None:
            return actions + self._establish(body, now)
        return actions + self._deliver(body, now)

    # --- acks

    def _acknowledged(self, body: dict[str, Any], now: float) -> list[Action]:
        token, nonce = body.get("token"), body.get("nonce")
        if not is_token(token) or not is_token(nonce):
            return self._fail("EINVAL", "an ack must carry token and nonce")
        if self.dcpsid is not None and body.get("dcpsid", self.dcpsid) != self.dcpsid:
            return self._fail("EDCPSID", "invalid dcpsid")
        if self._outbox.acknowledge(token, nonce):
            return self._released() + self._flush(None, now)
        if self._is_heir and self._outbox.inherit(token, nonce):
            return self._flush(None, now)
        if not self._outbox.is_repeated(token):
            return self._fail("EINVAL", "unsolicited ack")
        # The peer has not seen what is on deck, unless that was sent on this very transport.
        frame = self._outbox.retransmit(self._transport, now)
        if frame is None:
            return self._flush(None, now)  # what was queued while there was no transport
        self._stats.retransmissions += 1
        return [Send(frame)]

    def _released(self) -> list[Action]:
        if self.role is Role.TARGET and self.state is State.CONNECTING:
            self.state = State.ESTABLISHED
            return [Opened()]
        if self.state is State.CLOSING and self._close_id is None and not self._outbox:
            return self._end()  # the peer has our last word
        return []

    # --- what the application says

    def _ask(self, event: Ask, now: float) -> list[Action]:
        if self.state is State.CLOSING:
            raise ConnectionClosed("the session is closing")
        if len(self._unanswered) >= self.limits.queue_messages:
            raise Congested(f"{len(self._unanswered)} requests already wait for this peer's answers")
        self._queue_request(event.operation, event.data, event.context, event.authorize)
        return []

    def _respond(self, event: Respond, now: float) -> list[Action]:
        if event.id not in self._in_progress:
            if self.state is State.CLOSING:
                return []
            raise LookupError(f"no request {event.id} is in progress")
        stamp = self._in_progress.pop(event.id)
        if not event.success:
            self._refused[event.id] = stamp
            if len(self._refused) > _REFUSED_KEPT:
                del self._refused[next(iter(self._refused))]
        try:
            return self._queue_response(event.id, event.success, event.payload)
        except InvalidInput as error:
            return self._queue_error(event.id, OrchestratorError(f"the answer cannot be sent: {error.message}"))

    # --- establishment

    def _connect(self, now: float) -> list[Action]:
        """Begin anew: a session that was never established has nothing to resume."""
        self._sid = self._make_token()
        self._receipts.clear()
        self._outbox.forget_peer()
        data = {"version": messages.WIRE_VERSION, "sid": self._sid}
        connect = OutgoingRequest.make(self._message_id(), "connect", data, None, inline=True)
        self._connect_id = connect.id
        return [self._transmit([connect], now)]

    def _establish(self, body: dict[str, Any], now: float) -> list[Action]:
        """The first message of a session: the connect request at the target, its answer at the initiator."""
        kind, payload = body.get("type"), body.get("payload")
        payload = payload if isinstance(payload, dict) else {}
        if kind == "request" and payload.get("operation") == "close":
            return self._closed_by_peer(body["id"], now)
        if self.role is Role.TARGET and kind == "request" and payload.get("operation") == "connect":
            return self._negotiate(body["id"], payload, now)
        if self.role is Role.INITIATOR and kind == "response" and body["id"] == self._connect_id:
            return self._settle(body, payload, now)
        code = "DCPC-1321" if payload.get("operation") == "connect" else "EINVAL"
        return self._fail(code, f"a {kind} message before the session is established")

    def _negotiate(self, message_id: str, payload: dict[str, Any], now: float) -> list[Action]:
        data = payload.get("data")
        data = data if isinstance(data, dict) else {}
        sid, version = data.get("sid"), data.get("version")
        if not is_session_id(sid):
            return self._fail("EINVAL", "connect must carry a sid of letters and digits")
        self.dcpsid = sid + self._make_token()
        compatible = messages.is_compatible(version) and self._refusal is None
        answer: dict[str, Any]
        if self._refusal is not None:
            answer = {"message": self._refusal.message, "code": self._refusal.code}
        elif compatible:
            answer = {"version": messages.WIRE_VERSION, "operation": "connect"}
        else:
            answer = {"message": messages.ACCEPTED_VERSION, "code": "EVERSION"}
        actions: list[Action] = [
            self._transmit([OutgoingResponse.make(message_id, compatible, answer)], now),
        ]
        if self._refusal is not None:
            actions += self._begin_closing(ConnectionClosed(self._refusal.message, code=self._refusal.code), now)
        elif not compatible:
            error = ConnectionClosed(
                f"the peer speaks version {version}, not {messages.ACCEPTED_VERSION}", code="EVERSION"
            )
            actions += self._begin_closing(error, now)
        return actions

    def _settle(self, body: dict[str, Any], payload: dict[str, Any], now: float) -> list[Action]:
        if body.get("success") is not True or not messages.is_compatible(payload.get("version")):
            return self._fail("EVERSION", f"the service refuses the connection: {str(payload.get('message'))[:200]}")
        dcpsid = body.get("dcpsid")
        if not is_session_id(dcpsid) or not dcpsid.startswith(self._sid):
            return self._fail("EDCPSID", "peer proposed an invalid dcpsid")
        self.dcpsid = dcpsid
        self.state = State.ESTABLISHED
        self._synchronize(body.get("time"), now)
        return [Opened(), *self._flush(None, now)]

    def _synchronize(self, time: Any, now: float) -> None:
        """The initiator lives by the target's clock, as the reference does."""
        if self.role is Role.INITIATOR and isinstance(time, int | float) and 0 < time < _LATEST_TIME:
            self._clock_offset = time - now

    # --- receiving

    def _deliver(self, body: dict[str, Any], now: float) -> list[Action]:
        """A message of an established session, its signature, session and nonce checked."""
        members = [body]
        if body.get("type") == "batch":
            members = body.get("payload")  # type: ignore[assignment]
            self._stats.batches_in += 1
            if not isinstance(members, list) or not all(
                isinstance(member, dict) and member.get("type") != "batch" for member in members
            ):
                return self._offended("a batch must hold messages that are no batches")
        requests: list[IncomingRequest] = []
        answers: list[Answer] = []
        actions: list[Action] = []
        for member in members:
            kind = member.get("type")
            if kind == "request":
                actions += self._take_request(member, requests, now)
            elif kind == "response":
                actions += self._take_response(member, answers, now)
            elif kind == "notification":
                self._stats.notifications_in += 1
            else:
                actions += self._offended(f"invalid message type {str(kind)[:40]!r}")
            # A member may have ended the session under our hands.
            if self.state is State.CLOSED:
                return actions
        if answers:
            actions.append(Answered(tuple(answers)))
        if requests:
            actions.append(Requested(tuple(requests)))
        return actions + self._flush(None, now)

    def _offended(self, message: str, code: str = "EINVAL") -> list[Action]:
        """What is said in a message of an established session in breach of its grammar.

        Only that is held against an identity. A nonce or a dcpsid of another time may be a message that somebody else
        repeats; a response that was not asked for, or a request that is in progress already, may be what a client says
        to another service, which passes it on; and an heir does not know what was said before.
        """
        is_proven = self.state is State.ESTABLISHED and not self._is_heir
        return [*([Offended(message)] if is_proven else []), *self._fail(code, message)]

    def _take_request(self, body: dict[str, Any], into: list[IncomingRequest], now: float) -> list[Action]:
        message_id, payload = body.get("id"), body.get("payload")
        operation = payload.get("operation") if isinstance(payload, dict) else None
        if not is_token(message_id) or not isinstance(payload, dict) or not isinstance(operation, str):
            return self._offended("a request must carry id and payload.operation")
        self._stats.requests_in += 1
        if operation == "close":
            return self._closed_by_peer(message_id, now)
        if operation == "connect":
            return self._offended("unexpected request operation 'connect'", code="DCPC-1321")
        if operation == "keepalive":
            return self._queue_response(message_id, True, _KEEPALIVE_ANSWER)
        if self.state is not State.ESTABLISHED or self._is_heir:
            return []  # nobody is there to answer; the peer learns it when the session is closed
        if message_id in self._in_progress:
            return self._fail("EINVAL", "a request with this id is in progress")
        try:
            if len(self._in_progress) >= self.limits.requests_in_progress:
                raise Congested(
                    f"{len(self._in_progress)} requests of this session wait for their answers", code="EBUSY"
                )
            stamp = self._check_validity(message_id, payload.get("validity"), now)
            # Before anything is unpacked: the permission covers the payload as it came.
            authorized = authorized_resources(
                payload, body.get("auth"), guardian=self._key.address, accessor=self.peer or ""
            )
            data = messages.data_of(payload)
        except (InvalidRequestTime, InvalidInput, Congested) as error:
            return self._queue_error(message_id, error)
        self._in_progress[message_id] = stamp
        stale = stale_at(payload["validity"])
        into.append(IncomingRequest(message_id, operation, data, authorized, stamp, stale))
        return []

    def _check_validity(self, message_id: str, validity: Any, now: float) -> str:
        """The request's stamp. One that the service refused may be used again, in the same request only."""
        refused = self._refused.pop(message_id, None)
        if refused is None or not isinstance(validity, dict) or validity.get("stamp") != refused:
            self._stamps.check(validity, now)
        stamp: str = validity["stamp"]
        return stamp

    def _take_response(self, body: dict[str, Any], into: list[Answer], now: float) -> list[Action]:
        message_id, success, payload = body.get("id"), body.get("success"), body.get("payload")
        if not is_token(message_id) or not isinstance(success, bool):
            return self._offended("a response must carry id and success")
        self._stats.responses_in += 1
        self._synchronize(body.get("time"), now)
        if message_id not in self._unanswered:
            if self._is_heir:
                return []  # to a question of the earlier process
            return self._fail("DCPC-1024", "received a response to an unknown request")
        context = self._unanswered.pop(message_id)
        if message_id == self._close_id:
            return self._end()
        if context is None:
            return []  # a keepalive of our own
        if isinstance(payload, dict) and "jsonData" in payload:
            try:
                payload = {**payload, "data": messages.data_of(payload)}
                del payload["jsonData"]
            except InvalidInput as error:
                success, payload = False, messages.error_payload(error, self._key.address)
        into.append(Answer(context, success, payload))
        return []

    # --- the end

    def _closed_by_peer(self, message_id: str, now: float) -> list[Action]:
        actions = self._begin_closing(ClosedByPeer("the peer closed the connection"), now)
        self._close_id = None
        actions += self._queue_response(message_id, True, "goodbye")
        # Without a session there is no nonce to wait for.
        if self.dcpsid is None:
            return actions + self._end()
        return actions + self._flush(None, now)

    def _close(self, _: Close, now: float) -> list[Action]:
        if self.state is State.CLOSING:
            return []
        was_established = self.state is State.ESTABLISHED
        actions = self._begin_closing(ConnectionClosed("the connection was closed", code="EPIPE"), now)
        if not was_established or not self._is_up:
            return actions + self._end()
        self._close_id = self._queue_request("close", "EPIPE", None)
        return actions + self._flush(None, now)

    def _breach(self, event: Breach, _: float) -> list[Action]:
        return self._fail(event.error.code, event.error.message)

    def _tick(self, _: Tick, now: float) -> list[Action]:
        waited = now - self._since
        if self.state is State.CLOSING:
            return self._end() if waited > self.limits.close_timeout else []
        if self.state is State.CONNECTING and now - self._born > self.limits.connect_timeout:
            return self._fail("ETIMEDOUT", f"no session within {self.limits.connect_timeout:g} s")
        if not self._is_up:
            patience = self.limits.linger_timeout if self.role is Role.TARGET else self.limits.reconnect_timeout
            return self._fail("ETIMEDOUT", f"no transport for {patience:g} s") if waited > patience else []
        on_deck = self._outbox.on_deck
        if on_deck is not None and now - on_deck.sent_at > self.limits.max_rtt:
            on_deck.sent_at = now
            return [DropTransport(f"no ack within {self.limits.max_rtt:g} s")]
        return []

    _table: ClassVar[dict[type, Callable[[Session, Any, float], list[Action]]]] = {
        TransportUp: _transport_up,
        TransportDown: _transport_down,
        Received: _received,
        Breach: _breach,
        Ask: _ask,
        Respond: _respond,
        Flush: Speaker._flush,
        Close: _close,
        Tick: _tick,
    }
