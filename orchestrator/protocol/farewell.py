"""What a server says to a client whose session it does not know."""

from __future__ import annotations

from typing import Any

from orchestrator.protocol import js_json, messages, signing
from orchestrator.protocol.tokens import MakeToken, is_session_id, is_token
from orchestrator.wallet import keys

__all__ = ["farewell"]


def farewell(key: keys.PrivateKey, ack: dict[str, Any], make_token: MakeToken, now: float) -> str | None:
    """A close request that the client's session accepts; it will end and its owner open a new one.

    `ack` is the body of the first message on the client's transport. None when it is not an ack: only an ack brings the
    nonce that is needed.
    """
    dcpsid, nonce = ack.get("dcpsid"), ack.get("nonce")
    if ack.get("type") != "ack" or not is_session_id(dcpsid) or not is_token(nonce):
        return None
    close = messages.OutgoingRequest.make(f"0-1-{make_token()}", "close", "EPIPE", None, inline=True)
    time = js_json.number(round(now, 3))
    text = close.text(make_token(), time, None, key.address)
    return signing.seal(key, messages.single_body(text, dcpsid, time, f"ATt1-{make_token()}", nonce))
