"""A session's voice, without I/O: what it sends and keeps until it is acknowledged, and how it ends."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Sequence
from typing import Any

from orchestrator.errors import OrchestratorError
from orchestrator.protocol import js_json, messages, signing
from orchestrator.protocol.errors import Congested, ConnectionClosed
from orchestrator.protocol.messages import OutgoingRequest, OutgoingResponse
from orchestrator.protocol.outbox import OnDeck, Outbox, Outgoing
from orchestrator.protocol.receipts import Receipts
from orchestrator.protocol.session_memory import Remembered
from orchestrator.protocol.tokens import MakeToken
from orchestrator.protocol.validity import Stamps
from orchestrator.protocol.vocabulary import (
    Action,
    Closed,
    Ended,
    Flush,
    Role,
    Send,
    SessionLimits,
    SessionStatistics,
    State,
)
from orchestrator.wallet import keys


class Speaker:
    """See the module; `Session` hears, and decides."""

    def __init__(
        self,
        role: Role,
        key: keys.PrivateKey,
        *,
        make_token: MakeToken,
        stamps: Stamps,
        now: float,
        sequence: int = 1,
        limits: SessionLimits | None = None,
        expected_peer: str | None = None,
        accepted_peers: Collection[str] = (),
        remembered: Remembered | None = None,
        refusal: OrchestratorError | None = None,
    ) -> None:
        """`expected_peer`: the address that must answer, when it is known; or one of `accepted_peers`, in its place.
        `sequence` shows in message ids only.

        `remembered`: the session of an earlier process that this one brings to its end. It takes what the peer still
        has to say and answers keepalives, so that nothing of the peer waits for an ack when the session is closed.
        `refusal`: what the target answers to the connect request instead of a session.
        """
        self.role = role
        self.state = State.CONNECTING
        self.dcpsid: str | None = None
        self.peer: str | None = None
        self.limits = limits or SessionLimits()
        self._key = key
        self._make_token = make_token
        self._stamps = stamps
        self._sequence = sequence
        self._expected_peer = expected_peer
        self._accepted_peers = frozenset(accepted_peers)
        self._counter = 0
        self._sid = ""
        self._connect_id = ""
        self._sent_alone: str | None = None  # id of the message sent last, unless it was a batch
        self._outbox = Outbox(self.limits.queue_messages, self.limits.queue_characters)
        self._unanswered: dict[str, Any] = {}
        self._in_progress: dict[str, str] = {}  # id → validity stamp
        self._refused: dict[str, str] = {}  # the same of the latest requests that were answered with an error
        self._receipts = Receipts(key)
        self._transport = 0  # counts them
        self._is_up = False
        self._born = now
        self._since = now  # when the transport came or went, or closing began
        self._clock_offset = 0.0
        self._close_id: str | None = None
        self._stats = SessionStatistics(role)
        self._is_heir = remembered is not None
        self._refusal = refusal
        if remembered is not None:
            self.state = State.ESTABLISHED
            self.dcpsid, self.peer = remembered.dcpsid, remembered.peer
            self._receipts.restore(remembered.dcpsid, remembered.token, remembered.message_id, remembered.nonce)

    # --- sending

    def _repeat_ack(self) -> list[Action]:
        frame = self._receipts.repeat(self.dcpsid, self._transport)
        return [] if frame is None else [Send(frame)]

    def _flush(self, _: Flush | None, now: float) -> list[Action]:
        if self._outbox.on_deck is not None or not self._is_up or self.state is State.CONNECTING or not self._outbox:
            return []
        members = self._outbox.take(self.limits.batch_messages, self.limits.batch_characters)
        return [self._transmit(members, now)]

    def _transmit(self, members: list[Outgoing], now: float) -> Send:
        time = js_json.number(round(now + self._clock_offset, 3))
        texts = [
            message.text(self._make_token(), time, self.peer, self._key.address)
            if isinstance(message, OutgoingRequest)
            else message.text
            for message in members
        ]
        token = f"AT{self.role[0]}{self._count()}-{self._make_token()}"
        # What has the id of the message before it is taken for its repetition, and dropped: the second answer to a
        # request that was sent again needs the cover of a batch.
        alone = members[0].id if len(members) == 1 else None
        if alone is not None and alone != self._sent_alone:
            body = messages.single_body(texts[0], self.dcpsid, time, token, self._outbox.nonce)
        else:
            assert self.dcpsid is not None
            body = messages.batch_body(
                texts,
                message_id=self._message_id(),
                dcpsid=self.dcpsid,
                time=time,
                ack_token=token,
                nonce=self._outbox.nonce,
            )
            alone = None
            self._stats.batches_out += 1
        self._sent_alone = alone
        self._stats.messages_out += 1
        frame = signing.seal(self._key, body)
        self._outbox.on_deck = OnDeck(token, frame, members, self._transport, now)
        return Send(frame)

    def _message_id(self) -> str:
        return f"{self._sequence}-{self._count()}-{self._make_token()}"

    def _count(self) -> int:
        self._counter += 1
        return self._counter

    def _queue_request(self, operation: str, data: Any, context: Any, authorize: Sequence[keys.PrivateKey] = ()) -> str:
        message = OutgoingRequest.make(self._message_id(), operation, data, context, authorize)
        self._outbox.put(message)
        self._unanswered[message.id] = context
        self._stats.requests_out += 1
        return message.id

    def _queue_response(self, message_id: str, success: bool, payload: Any) -> list[Action]:
        message = OutgoingResponse.make(message_id, success, payload)
        try:
            self._outbox.put(message)
        except Congested as error:
            # The peer goes on asking without taking the answers.
            return self._fail(error.code, error.message)
        self._stats.responses_out += 1
        return []

    def _queue_error(self, message_id: str, error: OrchestratorError) -> list[Action]:
        return self._queue_response(message_id, False, messages.error_payload(error, self._key.address))

    # --- the end

    def _begin_closing(self, error: ConnectionClosed, now: float) -> list[Action]:
        if self.state in (State.CLOSING, State.CLOSED):
            return []
        contexts = tuple(context for context in self._unanswered.values() if context is not None)
        self.state = State.CLOSING
        self._since = now
        # Answers that still come to requests already sent are taken and forgotten.
        self._unanswered = dict.fromkeys(self._unanswered)
        self._outbox.keep(lambda message: isinstance(message, OutgoingResponse))
        self._in_progress.clear()
        return [Closed(error, contexts)]

    def _fail(self, code: str, message: str) -> list[Action]:
        return self._fail_with(ConnectionClosed(message, code=code))

    def _fail_with(self, error: ConnectionClosed) -> list[Action]:
        """The session is broken: no orderly close is possible. The peer learns it when it tries to resume."""
        return self._begin_closing(error, self._since) + self._end()

    def _end(self) -> list[Action]:
        if self.state is State.CLOSED:
            return []
        self.state = State.CLOSED
        self._outbox.keep(lambda _: False)
        self._outbox.on_deck = None
        self._unanswered.clear()
        return [Ended()]

    # --- for people and machines that look on

    def remembered(self, service: str) -> Remembered | None:
        """What another process needs to bring this session to its end; None before there is a session."""
        last = self._receipts.last
        if self.dcpsid is None or self.peer is None or last is None:
            return None
        return Remembered(self.dcpsid, service, self.peer, *last)

    @property
    def is_closed(self) -> bool:
        return self.state is State.CLOSED

    @property
    def since(self) -> float:
        """When the transport came or went."""
        return self._since

    @property
    def held_characters(self) -> int:
        """Of what waits to be sent, or to be acknowledged."""
        on_deck = self._outbox.on_deck
        return self._outbox.characters + (0 if on_deck is None else len(on_deck.frame))

    def statistics(self) -> dict[str, Any]:
        """Counters and fill levels; the one source for dashboards and metrics."""
        stats = self._stats
        stats.state = self.state
        stats.queued, stats.queued_characters = len(self._outbox), self._outbox.characters
        stats.unanswered, stats.in_progress = len(self._unanswered), len(self._in_progress)
        return {**dataclasses.asdict(stats), "role": str(stats.role), "state": str(stats.state)}

    def validate(self) -> None:
        """Check all invariants; raise `AssertionError`."""
        self._outbox.validate()
        on_deck = self._outbox.on_deck
        if self.state is State.ESTABLISHED:
            assert self.dcpsid is not None
            assert self.peer is not None
            # Whatever can be sent has been sent, but for what awaits a flush.
            assert self._is_heir or on_deck is not None or self._outbox.nonce is not None
        if self.state is State.CLOSED:
            assert not self._outbox
            assert on_deck is None
            assert not self._unanswered
        if on_deck is not None:
            assert on_deck.transport <= self._transport
        assert len(self._in_progress) <= self.limits.requests_in_progress
