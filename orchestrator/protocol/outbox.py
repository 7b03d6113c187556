"""What waits to be sent in a session, and the one message that waits for its ack."""

from __future__ import annotations

import collections
from collections.abc import Callable
from dataclasses import dataclass

from orchestrator.protocol.errors import Congested
from orchestrator.protocol.messages import OutgoingRequest, OutgoingResponse

__all__ = ["OnDeck", "Outbox", "Outgoing"]

Outgoing = OutgoingRequest | OutgoingResponse


@dataclass(slots=True)
class OnDeck:
    """A message that was sent and not yet acknowledged. `frame` is kept to be sent again as it is."""

    token: str
    frame: str
    members: list[Outgoing]
    # Counts transports: a message is sent at most once on each, because a transport loses nothing but its end.
    transport: int
    sent_at: float


class Outbox:
    """The sending half of stop-and-wait: a queue, first in first out, bounded in number and in characters."""

    def __init__(self, most_messages: int, most_characters: int) -> None:
        self._most_messages = most_messages
        self._most_characters = most_characters
        self._queue: collections.deque[Outgoing] = collections.deque()
        self.characters = 0
        self.on_deck: OnDeck | None = None
        self.nonce: str | None = None
        """What our next message must carry: the peer's last ack brought it."""
        self._acked: str | None = None

    def __len__(self) -> int:
        return len(self._queue)

    def put(self, message: Outgoing) -> None:
        """Raise `Congested` when the queue is full. A single message may be of any size."""
        if len(self._queue) >= self._most_messages or (
            self._queue and self.characters + message.size > self._most_characters
        ):
            raise Congested(
                f"{len(self._queue)} messages ({self.characters} characters) already wait for this peer to take them"
            )
        self._queue.append(message)
        self.characters += message.size

    def take(self, most_messages: int, most_characters: int) -> list[Outgoing]:
        """The members of the next message to send: one, or as many as may share a batch. Empty when nothing waits."""
        taken: list[Outgoing] = []
        characters = 0
        while self._queue and len(taken) < most_messages:
            message = self._queue[0]
            if taken and (not message.batchable or characters + message.size > most_characters):
                break
            self._queue.popleft()
            characters += message.size
            taken.append(message)
            if not message.batchable:
                break
        self.characters -= characters
        return taken

    def acknowledge(self, token: str, nonce: str) -> bool:
        """Take the peer's ack of what is on deck. False when it is not for that."""
        if self.on_deck is None or token != self.on_deck.token:
            return False
        self.on_deck = None
        self.nonce, self._acked = nonce, token
        return True

    def inherit(self, token: str, nonce: str) -> bool:
        """Take the peer's last ack of a message that an earlier process sent. False when we have sent one since."""
        if self.on_deck is not None or self._acked is not None:
            return False
        self.nonce, self._acked = nonce, token
        return True

    def is_repeated(self, token: str) -> bool:
        """Whether the peer has sent an ack with this token before."""
        return token == self._acked

    def retransmit(self, transport: int, now: float) -> str | None:
        """What is on deck, to be sent again on another transport than before; None when there is nothing to repeat."""
        if self.on_deck is None or self.on_deck.transport == transport:
            return None
        self.on_deck.transport, self.on_deck.sent_at = transport, now
        return self.on_deck.frame

    def forget_peer(self) -> None:
        """Begin anew with a peer that knows nothing of what was on deck; what is queued stays."""
        self.on_deck = self.nonce = self._acked = None

    def keep(self, wanted: Callable[[Outgoing], bool]) -> None:
        """Drop what is not wanted any more."""
        self._queue = collections.deque(message for message in self._queue if wanted(message))
        self.characters = sum(message.size for message in self._queue)

    def validate(self) -> None:
        assert self.characters == sum(message.size for message in self._queue)
        assert len(self._queue) <= self._most_messages
        assert self.on_deck is None or self.on_deck.token != self._acked
