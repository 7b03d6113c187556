"""One tree of errors: a stable code, whose fault it is, and whether trying again can help.

Every error that crosses a component's border is an `OrchestratorError`. `code` is what travels on the wire
(`payload.code` of a DCP error response, `reason` of a returned slice), so it never changes once published.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from typing import Any


class Fault(enum.StrEnum):
    """Who has to act to make the error go away."""

    JOB = "job"
    WORKER = "worker"
    SCHEDULER = "scheduler"
    NETWORK = "network"
    USER = "user"


class OrchestratorError(Exception):
    """Base of all our errors.

    `message` is a sentence for a person: it names the field, the value and the remedy.
    `info` holds JSON-able details that travel with the error.
    """

    code: str = "EINTERNAL"
    fault: Fault = Fault.SCHEDULER
    retryable: bool = False

    def __init__(
        self,
        message: str,
        *,
        code: str | None = None,
        fault: Fault | None = None,
        retryable: bool | None = None,
        info: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        if code is not None:
            self.code = code
        if fault is not None:
            self.fault = fault
        if retryable is not None:
            self.retryable = retryable
        self.info: dict[str, Any] = dict(info or {})

    def __str__(self) -> str:
        return f"{self.message} [{self.code}]"


class InvalidInput(OrchestratorError):
    """A value from outside is not what its field allows. The message names field, value and remedy."""

    code = "EINVAL"
    fault = Fault.USER


class NotPermitted(OrchestratorError):
    """The peer is who it says, but may not do this."""

    code = "EPERM"
    fault = Fault.USER


class NotFound(OrchestratorError):
    code = "ENOENT"
    fault = Fault.USER


class NotEnoughFunds(OrchestratorError):
    code = "ENOFUNDS"
    fault = Fault.USER


class NetworkFailure(OrchestratorError):
    """The other side could not be reached or went away; nothing is known about what it did."""

    code = "ENETWORK"
    fault = Fault.NETWORK
    retryable = True
