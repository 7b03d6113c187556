"""What the gun shoots: the bytes of peers that mean no good, made beforehand."""

from __future__ import annotations

import base64
import dataclasses
import json
import os
import struct
import time
from collections.abc import Sequence

from orchestrator.protocol import js_json, messages, signing
from orchestrator.wallet.keys import PrivateKey

_PATH = "pheme/dcp5/socketio/?EIO=4&transport=websocket"


def websocket_frame(text: str | bytes) -> bytes:
    """A text frame of a client; its mask is zero."""
    data = text.encode() if isinstance(text, str) else text
    return _frame_head(len(data)) + data


def _frame_head(size: int) -> bytes:
    if size < 126:
        head = struct.pack("!BB", 0x81, 0x80 | size)
    elif size < 65_536:
        head = struct.pack("!BBH", 0x81, 0x80 | 126, size)
    else:
        head = struct.pack("!BBQ", 0x81, 0x80 | 127, size)
    return head + bytes(4)


def dcp(message: str) -> bytes:
    return websocket_frame("42" + json.dumps(["message", message]))


def connect_message(key: PrivateKey) -> str:
    token = PrivateKey.generate().address[2:]
    body = {
        "type": "request", "id": f"1-1-{token}", "time": time.time(), "ackToken": f"AT-{token}",
        "payload": {"operation": "connect", "data": {"version": messages.WIRE_VERSION, "sid": token}},
    }  # fmt: skip
    return signing.seal(key, js_json.dumps(body))


def fragment(message_id: int, number: int, total: int, size: int) -> str:
    header = f'{{"msgId":{message_id},"seq":{number},"total":{total}}}'
    return f"E{len(header):04x}C{header}{'x' * size}"


@dataclasses.dataclass(frozen=True)
class Kind:
    """What one connection of the gun writes: some frames once, others again and again.

    With volleys, many at once, waiting for nothing: see `gun.c`.
    """

    name: str
    once: Sequence[bytes]
    repeated: Sequence[bytes]
    reads: bool = True
    in_volleys: bool = False
    leaves: bool = False


def kinds() -> list[Kind]:
    key = base64.b64encode(os.urandom(16)).decode()
    upgrade = (
        f"GET /{_PATH} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
        f"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {key}\r\n\r\n"
    ).encode()
    begin = [upgrade, websocket_frame("40")]
    owner = PrivateKey.generate()
    connect = connect_message(owner)
    forged = connect.replace(owner.address, PrivateKey.generate().address)
    garbage = [dcp(f'{{"owner":"0x{n}","signature":{{}},"body":{{"type":"garbage"}}}}') for n in range(20)]
    rubbish = [websocket_frame(f"42[{n},{{]"[: 2 + n]) for n in range(6)]
    post = f"POST /{_PATH.replace('websocket', 'polling')}&sid=x HTTP/1.1\r\nHost: x\r\nContent-Length: 8000000\r\n\r\n"
    config = b"GET /etc/dcp-config.kvin?ver=2.1.0 HTTP/1.1\r\nHost: x\r\n\r\n"
    return [
        Kind("garbage", begin, garbage, in_volleys=True),
        Kind("no socket.io", begin, rubbish, in_volleys=True, leaves=True),
        Kind("forged", begin, [dcp(forged)], in_volleys=True),
        Kind("replayed", begin, [dcp(connect)], in_volleys=True, leaves=True),
        Kind("giant of fragments", begin, [dcp(fragment(5, n, 10_000, 16_000)) for n in range(20)]),
        Kind("giant frame", [*begin, _frame_head(8_000_000)], [b"x" * 16_000]),
        Kind("half open", [*begin, dcp(connect)], []),
        Kind("silent", [upgrade], []),
        Kind("slow reader", begin, [dcp(connect_message(PrivateKey.generate()))], reads=False),
        Kind("slow request", [b"GET / HTTP/1.1\r\n"], [b"X-A: b\r\n"]),
        Kind("giant body", [post.encode()], [b"x" * 16_000]),
        Kind("configuration", [config], [config], reads=False),
    ]


def ammunition(all_kinds: Sequence[Kind], volley: int) -> bytes:
    """The gun's file; `volley` frames are written at once."""
    parts: list[bytes] = []
    for kind in all_kinds:
        at_once = volley if kind.in_volleys else 0
        parts.append(struct.pack("=5I", len(kind.once), len(kind.repeated), at_once, kind.leaves, kind.reads))
        parts += [struct.pack("=I", len(frame)) + frame for frame in (*kind.once, *kind.repeated)]
    return b"".join(parts)
