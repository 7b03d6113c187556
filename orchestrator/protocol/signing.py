"""The signed envelope: who sent a message, the proof, and the message.

On the wire it is `{"owner":address,"signature":{r,s,v},"body":{…}}`. The signature covers the UTF-8 text of the body as
JavaScript prints it; r and s are Node Buffers in JSON form (observed with dcp-client 5.6.1; hex text is refused there).
A receiver here checks the body's text as it came, which spares printing it again.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from orchestrator.errors import InvalidInput
from orchestrator.protocol import js_json
from orchestrator.wallet import addresses, keys

__all__ = [
    "Envelope",
    "ForgedMessage",
    "MalformedMessage",
    "open_envelope",
    "recover_signer",
    "seal",
    "signature_object",
    "signature_text",
]

_DECIMALS = tuple(map(str, range(256)))
_BYTES = {text: byte for byte, text in enumerate(_DECIMALS)}
"""as JavaScript writes them; tables take half the time of `str` and `int`"""
# How every known sender writes the head; anything else takes the slow and complete way.
_HEAD = re.compile(
    r'\{"owner":"(0x[0-9a-fA-F]{40})","signature":\{"r":\{"type":"Buffer","data":\[([\d,]{63,127})\]\},'
    r'"s":\{"type":"Buffer","data":\[([\d,]{63,127})\]\},"v":(\d{1,2})\},"body":'
)


class MalformedMessage(InvalidInput):
    """What came over the transport is not a DCP message, or its signature does not fit."""


class ForgedMessage(MalformedMessage):
    """Its signature is not that of the owner whom it names."""


@dataclass(frozen=True, slots=True)
class Envelope:
    """A message whose signature was checked: `body` was signed by `owner` (checksummed address)."""

    owner: str
    body: dict[str, Any]


def seal(key: keys.PrivateKey, body_text: str) -> str:
    """The envelope around a body. `body_text` must be as `js_json.dumps` prints it."""
    return f'{{"owner":"{key.address}","signature":{signature_text(key, body_text)},"body":{body_text}}}'


def signature_text(key: keys.PrivateKey, text: str) -> str:
    """The signature over a text, in the JSON form that JavaScript gives to {r: Buffer, s: Buffer, v: number}."""
    r, s, v = key.sign_digest(keys.message_digest(text.encode()))
    r_text = ",".join(map(_DECIMALS.__getitem__, r))
    s_text = ",".join(map(_DECIMALS.__getitem__, s))
    return f'{{"r":{{"type":"Buffer","data":[{r_text}]}},"s":{{"type":"Buffer","data":[{s_text}]}},"v":{v}}}'


def signature_object(key: keys.PrivateKey, text: str) -> dict[str, Any]:
    """`signature_text` as the value that it reads as."""
    r, s, v = key.sign_digest(keys.message_digest(text.encode()))
    return {"r": {"type": "Buffer", "data": list(r)}, "s": {"type": "Buffer", "data": list(s)}, "v": v}


def open_envelope(frame: str) -> Envelope:
    """Parse a frame and check its signature. Raise `MalformedMessage`; nothing of the frame is to be believed then."""
    try:
        owner, (r, s, v), body_text = _split(frame)
        signer = keys.recover(keys.message_digest(body_text.encode()), r, s, v)
        if signer != owner:
            raise ForgedMessage("the message has an invalid signature")
        body = js_json.loads(body_text)
    except MalformedMessage:
        raise
    except (InvalidInput, UnicodeEncodeError) as error:
        raise MalformedMessage(f"the message cannot be opened: {error}") from error
    if not isinstance(body, dict):
        raise MalformedMessage("the body of a message must be an object")
    return Envelope(owner, body)


def recover_signer(signature: Any, text: str) -> str:
    """The address that signed `text`. Raise `InvalidInput` when the signature is malformed or fits no key."""
    r, s, v = _signature(signature)
    try:
        message = text.encode()
    except UnicodeEncodeError as error:
        raise InvalidInput("the signed text holds lone surrogates") from error
    return keys.recover(keys.message_digest(message), r, s, v)


_Signature = tuple[bytes, bytes, int]


def _split(frame: str) -> tuple[str, _Signature, str]:
    match = _HEAD.match(frame)
    if match is not None and frame.endswith("}"):
        owner, r, s, v = match.groups()
        body_text = frame[match.end() : -1]
        return addresses.checksum(owner), (_bytes(r), _bytes(s), int(v)), body_text
    return _split_any_order(frame)


def _split_any_order(frame: str) -> tuple[str, _Signature, str]:
    """The envelope in another order or notation: its body is printed again, as a JavaScript receiver does."""
    envelope = js_json.loads(frame)
    if not isinstance(envelope, dict) or not isinstance(envelope.get("body"), dict):
        raise MalformedMessage("a message must be an object with owner, signature and body")
    owner = addresses.checksum(envelope.get("owner"))
    return owner, _signature(envelope.get("signature")), js_json.dumps(envelope["body"])


def _signature(signature: Any) -> _Signature:
    if isinstance(signature, str):
        signature = js_json.loads(signature)
    if not isinstance(signature, dict) or not isinstance(signature.get("v"), int):
        raise InvalidInput("a signature must be an object with r, s and v")
    return _buffer(signature.get("r")), _buffer(signature.get("s")), signature["v"]


def _buffer(value: Any) -> bytes:
    """32 bytes from a Buffer in JSON form or from a plain list of numbers."""
    if isinstance(value, dict):
        value = value.get("data")
    if not isinstance(value, list) or len(value) != 32 or not all(type(b) is int and 0 <= b <= 255 for b in value):
        raise InvalidInput("r and s of a signature must be 32 bytes each")
    return bytes(value)


def _bytes(numbers: str) -> bytes:
    try:
        return bytes(map(_BYTES.__getitem__, numbers.split(",")))
    except KeyError as error:
        raise InvalidInput("r and s of a signature must be 32 bytes each") from error
