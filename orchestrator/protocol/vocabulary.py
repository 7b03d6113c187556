"""What goes into a session machine and what comes out of it: events, actions, limits and counters."""

from __future__ import annotations

import enum
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from orchestrator.errors import OrchestratorError
from orchestrator.protocol import signing
from orchestrator.protocol.errors import ConnectionClosed
from orchestrator.wallet import keys


class Role(enum.StrEnum):
    INITIATOR = "initiator"
    TARGET = "target"


class State(enum.StrEnum):
    CONNECTING = "connecting"
    """No session yet: only the connect request and its answer may pass."""
    ESTABLISHED = "established"
    CLOSING = "closing"
    """The application is done with the session; the last messages are exchanged."""
    CLOSED = "closed"


@dataclass(frozen=True)
class SessionLimits:
    """Times in seconds, sizes in characters. The times are the reference's."""

    max_rtt: float = 120
    connect_timeout: float = 60
    reconnect_timeout: float = 7200
    linger_timeout: float = 7300
    close_timeout: float = 7
    # A round trip each: on a machine that is busy they, not the work, limit how many results arrive.
    batch_messages: int = 500
    batch_characters: int = 1_000_000
    queue_messages: int = 20_000
    queue_characters: int = 64 * 1024 * 1024
    requests_in_progress: int = 20_000


# --- events


@dataclass(frozen=True, slots=True)
class TransportUp:
    """A transport is open: a new one for the initiator, one whose first message named this session for the target."""


@dataclass(frozen=True, slots=True)
class TransportDown:
    """The transport is gone; what was sent on it may or may not have arrived."""


@dataclass(frozen=True, slots=True)
class Received:
    envelope: signing.Envelope


@dataclass(frozen=True, slots=True)
class Breach:
    """The peer sent what is no message at all, or one whose signature does not fit."""

    error: OrchestratorError


@dataclass(frozen=True, slots=True)
class Ask:
    """Queue a request. `context` comes back in `Answered`.

    May raise `InvalidInput`, `Congested` or `ConnectionClosed`; then nothing is queued.
    """

    operation: str
    data: Any
    context: Any
    authorize: Sequence[keys.PrivateKey] = ()


@dataclass(slots=True)  # not frozen: freezing costs four times as much, and these are made for every request
class Respond:
    """Queue the answer to a request that `Requested` delivered. A payload that is no JSON becomes an error answer."""

    id: str
    success: bool
    payload: Any


@dataclass(frozen=True, slots=True)
class Flush:
    """Send what is queued. Kept apart from `Ask` and `Respond` so that what belongs together leaves together."""


@dataclass(frozen=True, slots=True)
class Close:
    """End the session in order: say so to the peer and wait a little for its answer."""


@dataclass(frozen=True, slots=True)
class Tick:
    """Time has passed."""


Event = TransportUp | TransportDown | Received | Breach | Ask | Respond | Flush | Close | Tick

# --- actions


@dataclass(frozen=True, slots=True)
class Send:
    """Send this message on the transport."""

    frame: str


@dataclass(frozen=True, slots=True)
class Opened:
    """The session is established."""


@dataclass(slots=True)  # not frozen: freezing costs four times as much, and these are made for every request
class IncomingRequest:
    """A request to answer with `Respond`. `data` is `messages.ABSENT` when there is none."""

    id: str
    operation: str
    data: Any
    authorized: frozenset[str]
    stamp: str = ""
    stale_at: float = math.inf
    """from when on its time alone would have it refused, if it came again"""


@dataclass(frozen=True, slots=True)
class Requested:
    """The requests of one received message."""

    requests: tuple[IncomingRequest, ...]


@dataclass(frozen=True, slots=True)
class Answer:
    context: Any
    success: bool
    payload: Any


@dataclass(frozen=True, slots=True)
class Answered:
    """The answers in one received message to requests of ours."""

    answers: tuple[Answer, ...]


@dataclass(frozen=True, slots=True)
class Offended:
    """The peer itself has signed, for this session and under its latest nonce, what no honest peer signs. Nobody else
    can have made it do so: not by repeating what it said before, nor by passing on what it says to others."""

    what: str


@dataclass(frozen=True, slots=True)
class DropTransport:
    """Close the transport; the session may live on."""

    reason: str


@dataclass(frozen=True, slots=True)
class Closed:
    """The application can do nothing more with the session: its open requests (`contexts`) fail with `error`."""

    error: ConnectionClosed
    contexts: tuple[Any, ...]


@dataclass(frozen=True, slots=True)
class Ended:
    """The last action of a session: close its transport and forget it. `Closed` has come before."""


Action = Send | Opened | Requested | Answered | Offended | DropTransport | Closed | Ended


@dataclass
class SessionStatistics:
    """Counters since the session began, and what it holds now."""

    role: str
    state: str = State.CONNECTING
    messages_in: int = 0
    messages_out: int = 0
    requests_in: int = 0
    requests_out: int = 0
    responses_in: int = 0
    responses_out: int = 0
    batches_in: int = 0
    batches_out: int = 0
    notifications_in: int = 0
    duplicates_in: int = 0
    retransmissions: int = 0
    transports: int = 0
    queued: int = 0
    queued_characters: int = 0
    unanswered: int = 0
    in_progress: int = 0
