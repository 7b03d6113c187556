"""What clients may send in engine.io and socket.io: a few kinds of packets, and nothing else that the library takes.

Attachments, namespaces, acks and upgrades are ways to make a server keep things; no DCP client uses them (observed with
dcp-client 5.6.1 and 4.4.29). So a packet of another kind, or one that makes no sense, is an offence.
"""

from __future__ import annotations

import enum
import json
import re
from dataclasses import dataclass

from orchestrator.errors import InvalidInput

__all__ = ["Connect", "Disconnect", "Event", "MalformedPacket", "Outer", "engine_packet", "socket_packet"]

_CONNECT = re.compile(r"0(/,)?(\{.{0,1000}\})?", re.DOTALL)
_EVENT = re.compile(r"2(/,)?\d{0,16}(?=\[)")
_SHOWN = 12
_decode = json.JSONDecoder().raw_decode


class MalformedPacket(InvalidInput):
    """A packet that no client sends."""


class Outer(enum.Enum):
    """Kinds of engine.io's packets that clients send."""

    CLOSE = "1"
    PONG = "3"
    MESSAGE = "4"


@dataclass(frozen=True, slots=True)
class Connect:
    """To the root namespace. Who connects is said later, by DCP."""


@dataclass(frozen=True, slots=True)
class Disconnect:
    """From the root namespace."""


@dataclass(frozen=True, slots=True)
class Event:
    """`message` is None when it is not one of DCP, which carries one string."""

    message: str | None


def engine_packet(packet: str | bytes) -> tuple[Outer, str]:
    """Its kind and what it carries. Raises `MalformedPacket`."""
    if not isinstance(packet, str):
        raise MalformedPacket("a binary packet of engine.io: DCP sends text only")
    try:
        return Outer(packet[:1]), packet[1:]
    except ValueError:
        raise MalformedPacket(f"a packet of engine.io must begin with 1, 3 or 4, not {packet[:_SHOWN]!r}") from None


def socket_packet(packet: str) -> Connect | Disconnect | Event:
    """What a message of engine.io carries. Raises `MalformedPacket`."""
    if packet in ("1", "1/,"):
        return Disconnect()
    if _CONNECT.fullmatch(packet):
        return Connect()
    head = _EVENT.match(packet)
    if head is None:
        raise MalformedPacket(
            f"a packet of socket.io must connect (0), disconnect (1) or carry an event of the root namespace (2[…]), "
            f"not {packet[:_SHOWN]!r}"
        )
    try:
        event, end = _decode(packet, head.end())
    except (ValueError, RecursionError) as error:
        raise MalformedPacket(f"an event of socket.io must be a JSON array, not {packet[:_SHOWN]!r}…") from error
    if end != len(packet) or not event or not isinstance(event[0], str):
        raise MalformedPacket(f"an event of socket.io must be one JSON array with a name, not {packet[:_SHOWN]!r}…")
    is_dcp = event[0] == "message" and len(event) == 2 and isinstance(event[1], str)
    return Event(event[1] if is_dcp else None)
