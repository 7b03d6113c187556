"""Pure: why something could not be fetched, and what the Scheduler is told.

A failure that may pass (server down, too slow, cut off) has the code of what was wanted: another worker, or this one
later, may have more luck. One that will not pass (too large, of a wrong type, undecodable) has the code EFETCH. What
the worker's owner forbids is `OriginForbidden` with EPERM_ORIGIN. See docs/fetching.md.
"""

from __future__ import annotations

import enum
from typing import Final

from orchestrator.errors import Fault, OrchestratorError


class Cause(enum.StrEnum):
    STATUS = "status"
    NETWORK = "network"
    DNS = "dns"
    TIMEOUT = "timeout"
    STALLED = "stalled"
    TRUNCATED = "truncated"
    BACKOFF = "back-off"
    # These do not pass by waiting:
    TOO_LARGE = "too-large"
    REDIRECTS = "redirects"
    TYPE = "type"
    UNDECODABLE = "undecodable"
    URI = "uri"
    FILE = "file"


_PASSING: Final = frozenset(
    {Cause.STATUS, Cause.NETWORK, Cause.DNS, Cause.TIMEOUT, Cause.STALLED, Cause.TRUNCATED, Cause.BACKOFF}
)


class FetchFailed(OrchestratorError):
    """A URI could not be had, or a result not stored.

    `code` is the reason of returned slices; `retry_after_s` says how long the server is left alone now. `retryable`
    is False when the same request cannot have a better answer.
    """

    code = "EFETCH"
    fault = Fault.JOB

    def __init__(self, message: str, cause: Cause, *, code: str | None = None, retry_after_s: float = 0.0) -> None:
        super().__init__(message, code=code, retryable=cause in _PASSING, info={"cause": cause.value})
        self.cause = cause
        self.retry_after_s = retry_after_s

    def told_as(self, passing: str, *, too_large: str = "EFETCH") -> FetchFailed:
        """The same failure under the codes of what was wanted."""
        code = passing if self.retryable else too_large if self.cause is Cause.TOO_LARGE else "EFETCH"
        return FetchFailed(self.message, self.cause, code=code, retry_after_s=self.retry_after_s)
