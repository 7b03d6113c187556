"""The messages inside the envelopes: how we write them, and what we take from those that came.

Requests are written with `payload.jsonData`, the JSON text of `payload.data`, which every known receiver unpacks
(observed with dcp-client 5.6.1 and 4.4.29). The text of a string is the same in Python and in JavaScript whatever the
data holds, so only payloads of responses need the exact encoder. An authorised request keeps `data`: its extra
signature covers the payload as the receiver prints it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from orchestrator.errors import InvalidInput, OrchestratorError
from orchestrator.protocol import js_json, signing
from orchestrator.protocol.validity import DEFAULT_TTL
from orchestrator.wallet import keys

__all__ = [
    "ABSENT",
    "ACCEPTED_VERSION",
    "WIRE_VERSION",
    "OutgoingRequest",
    "OutgoingResponse",
    "Written",
    "ack_body",
    "batch_body",
    "data_of",
    "error_payload",
    "is_compatible",
    "single_body",
]

WIRE_VERSION = "5.3.0"
ACCEPTED_VERSION = "^5.2.0"


class _Absent:
    def __repr__(self) -> str:
        return "ABSENT"


ABSENT: Any = _Absent()
"""A request without data, a response without payload: JavaScript's undefined."""


class Written(str):
    """The payload of an answer, as `js_json.dumps` writes it: one text for several answers."""

    __slots__ = ()


# Any text that reads as the same value will do for jsonData.
_data_encoder = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":"))


@dataclass(slots=True)
class OutgoingRequest:
    """A request that waits to be sent. Its validity is stamped when it leaves, so waiting does not age it."""

    id: str
    operation: str
    context: Any
    data_text: str | None
    authorize: Sequence[keys.PrivateKey] = ()
    # Whether the data stand in the payload as they are, and `data_text` is exact.
    inline: bool = False

    @classmethod
    def make(
        cls,
        message_id: str,
        operation: str,
        data: Any,
        context: Any,
        authorize: Sequence[keys.PrivateKey] = (),
        *,
        inline: bool = False,
    ) -> OutgoingRequest:
        """Encode the data at once. Raise `InvalidInput` when JSON cannot say it."""
        inline = inline or bool(authorize)
        if data is ABSENT:
            text = None
        elif inline:
            text = js_json.dumps(data)
        else:
            try:
                text = _data_encoder.encode(data)
            except (TypeError, ValueError, RecursionError) as error:
                raise InvalidInput(f"the data of {operation} cannot be written as JSON: {error}") from error
        return cls(message_id, operation, context, text, authorize, inline)

    @property
    def size(self) -> int:
        return len(self.data_text or "") + 300

    @property
    def batchable(self) -> bool:
        return not self.authorize

    def text(self, stamp: str, time: str, guardian: str | None, accessor: str) -> str:
        """The message up to `auth`, without the closing brace. `time` is JSON text in seconds."""
        allow = ""
        if self.authorize:
            allow = ",".join(
                f'{{"resource":"{key.address}","guardian":"{guardian}","accessor":"{accessor}"}}'
                for key in self.authorize
            )
        if self.data_text is None:
            data = ""
        elif self.inline:
            data = f',"data":{self.data_text}'
        else:
            data = f',"jsonData":{js_json.string(self.data_text)}'
        payload = (
            f'{{"operation":{js_json.string(self.operation)}{data},"allow":[{allow}],'
            f'"validity":{{"stamp":"{stamp}","ttl":{DEFAULT_TTL},"time":{time}}}}}'
        )
        auth = ",".join(f'"{key.address}":{signing.signature_text(key, payload)}' for key in self.authorize)
        return f'{{"id":"{self.id}","type":"request","payload":{payload},"auth":{{{auth}}}'


@dataclass(slots=True)
class OutgoingResponse:
    """A response that waits to be sent."""

    id: str
    success: bool
    payload_text: str | None

    @classmethod
    def make(cls, message_id: str, success: bool, payload: Any) -> OutgoingResponse:
        """Encode the payload at once; `ABSENT` leaves it out. Raise `InvalidInput` when JSON cannot say it."""
        if payload is ABSENT:
            return cls(message_id, success, None)
        return cls(message_id, success, payload if isinstance(payload, Written) else js_json.dumps(payload))

    @property
    def size(self) -> int:
        return len(self.payload_text or "") + 200

    @property
    def batchable(self) -> bool:
        return True

    @property
    def text(self) -> str:
        """The message up to `auth`, without the closing brace."""
        success = "true" if self.success else "false"
        payload = "" if self.payload_text is None else f',"payload":{self.payload_text}'
        return f'{{"id":{js_json.string(self.id)},"type":"response","success":{success}{payload},"auth":{{}}'


def single_body(text: str, dcpsid: str | None, time: str, ack_token: str, nonce: str | None) -> str:
    """The body of a message that travels alone; `text` is what `OutgoingRequest.text` or its twin gave."""
    session = f',"dcpsid":"{dcpsid}"' if dcpsid else ""
    return f'{text}{session},"time":{time},"ackToken":"{ack_token}","nonce":{_nonce(nonce)}}}'


def batch_body(
    texts: Sequence[str], *, message_id: str, dcpsid: str, time: str, ack_token: str, nonce: str | None
) -> str:
    """The body of a batch. The members carry no ackToken and no nonce: one ack stands for all."""
    tail = f',"dcpsid":"{dcpsid}","time":{time}}}'
    members = (tail + ",").join(texts) + tail
    return (
        f'{{"id":"{message_id}","type":"batch","payload":[{members}],"auth":{{}},"dcpsid":"{dcpsid}",'
        f'"time":{time},"ackToken":"{ack_token}","nonce":{_nonce(nonce)}}}'
    )


def ack_body(dcpsid: str | None, token: str, nonce: str, message_id: str) -> str:
    """The body of an ack. `token` and `message_id` are the peer's, `nonce` is what its next message must carry."""
    session = f'"dcpsid":"{dcpsid}",' if dcpsid else ""
    return (
        f'{{"type":"ack",{session}"token":{js_json.string(token)},"nonce":"{nonce}",'
        f'"messageId":{js_json.string(message_id)}}}'
    )


def error_payload(error: OrchestratorError, origin: str) -> dict[str, Any]:
    """The payload of an error response: the least that dcp-client turns into an error with code and message."""
    payload: dict[str, Any] = {"name": "Error", "message": error.message, "code": error.code, "origin": origin}
    if error.info:
        payload["info"] = error.info
    return payload


def data_of(payload: Mapping[str, Any]) -> Any:
    """The data of a request: `jsonData` unpacked, else `data`, else `ABSENT`. Raise `InvalidInput`."""
    text = payload.get("jsonData")
    if isinstance(text, str) and text:
        return js_json.loads(text)
    return payload.get("data", ABSENT)


def is_compatible(version: Any) -> bool:
    """Whether a peer's wire version satisfies ^5.2.0."""
    if not isinstance(version, str):
        return False
    parts = version.split(".")
    if len(parts) != 3 or not all(part.isascii() and part.isdigit() and len(part) < 6 for part in parts):
        return False
    major, minor, _ = map(int, parts)
    return major == 5 and minor >= 2


def _nonce(nonce: str | None) -> str:
    return "null" if nonce is None else js_json.string(nonce)
