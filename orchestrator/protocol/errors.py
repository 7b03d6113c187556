"""What can go wrong between two DCP peers, for those who send requests."""

from __future__ import annotations

from typing import Any

from orchestrator.errors import Fault, NetworkFailure, OrchestratorError

__all__ = ["ClosedByPeer", "Congested", "ConnectionClosed", "ConnectionLost", "PeerChanged", "RemoteError"]


class RemoteError(OrchestratorError):
    """The peer answered a request with an error. `code`, `message` and `info` are the peer's."""

    fault = Fault.SCHEDULER

    def __init__(self, payload: Any) -> None:
        fields = payload if isinstance(payload, dict) else {}
        message, code, info = fields.get("message"), fields.get("code"), fields.get("info")
        super().__init__(
            message if isinstance(message, str) else f"the peer answered with an error: {str(payload)[:200]}",
            code=code if isinstance(code, str) and code else "EREMOTE",
            info=info if isinstance(info, dict) else None,
        )
        self.payload = payload


class ConnectionClosed(NetworkFailure):
    """The session is over. Whether the peer acted on requests without an answer is not known.

    `code` says why: EPIPE (closed here), ECONNRESET (closed by the peer), ETIMEDOUT (the transport did not come back),
    or the rule of the protocol that was broken (EINVAL, EDCPSID, DCPC-1026, …).
    """

    code = "ECONNRESET"


class ClosedByPeer(ConnectionClosed):
    """The peer ended the session in order: it has had every answer that it waited for."""


class ConnectionLost(ConnectionClosed):
    """A client's session ended without its wish. The next request opens a new one."""


class PeerChanged(ConnectionClosed):
    """The service signs with another key than it did before: somebody else answers at this address.

    `info` holds both addresses: {before, now}.
    """

    code = "EADDRCHANGE"
    retryable = False


class Congested(OrchestratorError):
    """The peer takes messages slower than they are made; nothing was sent. Wait for earlier requests to be answered."""

    code = "ENOBUFS"
    fault = Fault.NETWORK
    retryable = True
