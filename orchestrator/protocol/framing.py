"""Between messages and socket.io strings: the announcement, fragments, and what else may come in a `message` event.

All lengths on the wire are lengths of JavaScript strings, that is UTF-16 code units, and a fragment may end between the
two halves of a surrogate pair. Observed with dcp-client 5.6.1: `E` + 4 hex digits (length of the header) + a type
letter + header + payload; `P` announces what a side can receive, `C` is a fragment.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

from orchestrator.errors import InvalidInput
from orchestrator.protocol import js_json

__all__ = ["ANNOUNCEMENT", "FramingError", "FramingLimits", "Receiver", "Sender"]

_RX_FRAGMENT_SIZE = 300_000

ANNOUNCEMENT = "E0000P" + js_json.dumps(
    {
        "canOoo": True,
        "canAck": True,
        "wantsConcat": True,
        "wantsAck": False,
        "rxMaxFragmentSize": _RX_FRAGMENT_SIZE,
        "rxMaxFragmentCount": 0,
        "pingInterval": 10100,
        "hasAnnounced": True,
    }
)

_DEFAULT_FRAGMENT_SIZE = 1_000_000
_SMALLEST_FRAGMENT_SIZE = 10_000


class FramingError(InvalidInput):
    """A string that no DCP transport sends, or one beyond the limits. The transport must be closed."""

    code = "DCPC-1102"


@dataclass(frozen=True)
class FramingLimits:
    """What a peer may make us hold. `message`: characters of one message; `partial`: messages in fragments at once."""

    message: int = 64 * 1024 * 1024
    partial: int = 16
    fragments: int = 10_000


class Sender:
    """Cuts messages to what the peer can receive."""

    def __init__(self) -> None:
        # A peer that never announces itself gets the reference's default.
        self.fragment_size = _DEFAULT_FRAGMENT_SIZE
        self._sent = 1  # the announcement is message 1

    def learn(self, announcement: Any) -> None:
        """Take over the peer's announcement; nonsense in it is ignored."""
        if not isinstance(announcement, dict):
            return
        size = announcement.get("rxMaxFragmentSize")
        if isinstance(size, int | float) and not isinstance(size, bool) and size >= 1:
            # A ridiculous size would cost us thousands of packets for one message.
            self.fragment_size = max(_SMALLEST_FRAGMENT_SIZE, min(int(size), _DEFAULT_FRAGMENT_SIZE))

    def frames(self, message: str) -> list[str]:
        """The strings to send for one message, in order."""
        self._sent += 1
        size = self.fragment_size
        # A code point takes at most two units.
        if len(message) <= size // 2 or (length := _units(message)) <= size:
            return [message]
        total = math.ceil(length / size)
        head = f'{{"msgId":{self._sent},"seq":%d,"total":{total}}}'
        return [f"E{len(head % seq):04x}C{head % seq}{piece}" for seq, piece in enumerate(_pieces(message, size))]


class Receiver:
    """Puts messages together again. Messages come out in the order in which their first fragments came in."""

    def __init__(self, limits: FramingLimits | None = None) -> None:
        self.limits = limits or FramingLimits()
        self._partial: dict[int, _Partial] = {}  # insertion order is delivery order
        self._held: list[_Partial | str] = []
        self._characters = 0  # of all that is held

    @property
    def characters(self) -> int:
        """Of all that is held until more comes."""
        return self._characters

    def receive(self, packet: str, sender: Sender | None = None) -> list[str]:
        """The messages that are complete now. An announcement goes to `sender`. Raise `FramingError`."""
        first = packet[:1]
        if first == "{":
            if len(packet) > self.limits.message:
                raise FramingError(
                    f"a message may have {self.limits.message} characters, not {len(packet)}", code="DCP-1112"
                )
            if not self._held:
                return [packet]
            self._hold(packet)
            return []
        if first == "E":
            return self._extended(packet, sender)
        if first in ("A", "T"):  # transport acks and debugging aids
            return []
        raise FramingError(f"a packet must start with {{, E, A or T, not {packet[:8]!r}")

    def _extended(self, packet: str, sender: Sender | None) -> list[str]:
        try:
            header_units = int(packet[1:5], 16)
        except ValueError as error:
            raise FramingError(f"an extended packet must start with E and 4 hex digits, not {packet[:8]!r}") from error
        kind = packet[5:6]
        header = packet[6 : 6 + header_units]
        if not header.isascii():
            raise FramingError("the header of an extended packet must be ASCII")
        payload = packet[6 + header_units :]
        if kind == "P":
            if sender is not None:
                sender.learn(_json(payload))
            return []
        if kind == "C":
            return self._fragment(_json(header), payload)
        if kind == "O" and payload:
            return [payload]
        return []

    def _fragment(self, header: Any, payload: str) -> list[str]:
        fields = header if isinstance(header, dict) else {}
        message_id, seq, total = (fields.get(name) for name in ("msgId", "seq", "total"))
        if type(message_id) is not int or type(seq) is not int or type(total) is not int:
            raise FramingError("a fragment's header must have the integers msgId, seq and total")
        if not 0 <= seq < total <= self.limits.fragments:
            raise FramingError(f"fragment {seq} of {total}: at most {self.limits.fragments} allowed", code="DCP-1112")
        partial = self._partial.get(message_id)
        if partial is None:
            if len(self._partial) >= self.limits.partial:
                raise FramingError(f"more than {self.limits.partial} messages in fragments at once", code="DCP-1112")
            partial = self._partial[message_id] = _Partial(total)
            self._held.append(partial)
        if partial.total != total or seq in partial.pieces:
            raise FramingError(f"fragment {seq} of message {message_id} contradicts an earlier one")
        partial.pieces[seq] = payload
        partial.characters += len(payload)
        self._count(len(payload))
        if len(partial.pieces) == total:
            del self._partial[message_id]
        return self._release()

    def _hold(self, packet: str) -> None:
        self._held.append(packet)
        self._count(len(packet))
        if len(self._held) > self.limits.fragments:
            raise FramingError(f"more than {self.limits.fragments} messages wait behind a fragment", code="DCP-1112")

    def _count(self, characters: int) -> None:
        self._characters += characters
        if self._characters > self.limits.message:
            raise FramingError(f"more than {self.limits.message} characters wait for a fragment", code="DCP-1112")

    def _release(self) -> list[str]:
        ready: list[str] = []
        for item in self._held:
            if isinstance(item, str):
                self._characters -= len(item)
                ready.append(item)
            elif item.is_complete:
                self._characters -= item.characters
                ready.append(item.text())
            else:
                break
        del self._held[: len(ready)]
        return ready


@dataclass(slots=True)
class _Partial:
    total: int
    pieces: dict[int, str] = field(default_factory=dict)
    characters: int = 0

    @property
    def is_complete(self) -> bool:
        return len(self.pieces) == self.total

    def text(self) -> str:
        return _pair_surrogates("".join(self.pieces[seq] for seq in range(self.total)))


def _json(text: str) -> Any:
    try:
        return js_json.loads(text)
    except InvalidInput as error:
        raise FramingError(f"an extended packet holds no JSON: {error.message}") from error


def _units(text: str) -> int:
    return len(text) if text.isascii() else len(text.encode("utf-16-le", "surrogatepass")) // 2


def _pieces(text: str, size: int) -> list[str]:
    if text.isascii():
        return [text[i : i + size] for i in range(0, len(text), size)]
    data = text.encode("utf-16-le", "surrogatepass")
    return [data[i : i + 2 * size].decode("utf-16-le", "surrogatepass") for i in range(0, len(data), 2 * size)]


def _pair_surrogates(text: str) -> str:
    """Join halves of surrogate pairs that a cut had parted: they arrive as two lone surrogates."""
    if js_json.is_wire_text(text):
        return text
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "surrogatepass")
