"""What a side has received last, and the ack it gave for it."""

from __future__ import annotations

from dataclasses import dataclass

from orchestrator.protocol import messages, signing
from orchestrator.wallet import keys

__all__ = ["Receipts"]


@dataclass(slots=True)
class _Ack:
    token: str
    message_id: str
    nonce: str
    dcpsid: str | None
    frame: str
    transport: int


class Receipts:
    """The receiving half of stop-and-wait: one ack for each message, kept to be repeated."""

    def __init__(self, key: keys.PrivateKey) -> None:
        self._key = key
        self._last: _Ack | None = None

    @property
    def nonce(self) -> str | None:
        """What the peer's next message must carry."""
        return self._last.nonce if self._last is not None else None

    def has(self, message_id: str) -> bool:
        """Whether this is the message that was received last: the peer sent it again."""
        return self._last is not None and self._last.message_id == message_id

    def give(self, message_id: str, token: str, *, nonce: str, dcpsid: str | None, transport: int) -> str:
        """The ack for a new message."""
        frame = signing.seal(self._key, messages.ack_body(dcpsid, token, nonce, message_id))
        self._last = _Ack(token, message_id, nonce, dcpsid, frame, transport)
        return frame

    def repeat(self, dcpsid: str | None, transport: int) -> str | None:
        """The last ack once more.

        None when there is none, or when it was sent on this transport already: there it will arrive, and repeating it
        would only make the peer repeat its next message.
        """
        ack = self._last
        if ack is None or ack.transport == transport:
            return None
        if ack.dcpsid is None and dcpsid is not None:
            # The very first ack had no session to name, and without the name nobody can resume.
            body = messages.ack_body(dcpsid, ack.token, ack.nonce, ack.message_id)
            ack.frame, ack.dcpsid = signing.seal(self._key, body), dcpsid
        ack.transport = transport
        return ack.frame

    def restore(self, dcpsid: str, token: str, message_id: str, nonce: str) -> None:
        """Take over the ack that an earlier process gave. It counts as sent on no transport yet."""
        frame = signing.seal(self._key, messages.ack_body(dcpsid, token, nonce, message_id))
        self._last = _Ack(token, message_id, nonce, dcpsid, frame, 0)

    @property
    def last(self) -> tuple[str, str, str] | None:
        """Token, message id and nonce of the last ack."""
        return None if self._last is None else (self._last.token, self._last.message_id, self._last.nonce)

    def clear(self) -> None:
        self._last = None
