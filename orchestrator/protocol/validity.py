"""Whether a request is fresh: not from the past, not from the future, not seen before.

The rules and their figures are the reference's: a stamp, a time in seconds and a time to live; clocks may differ by ten
minutes.
"""

from __future__ import annotations

import math
from typing import Any, TypeGuard

from orchestrator.errors import Fault, OrchestratorError

__all__ = ["DEFAULT_TTL", "InvalidRequestTime", "Stamps", "stale_at", "used_before"]

DEFAULT_TTL = 120
_MIN_TTL = 15
_MAX_TTL = 600
_SLOP = 600
_LONGEST_STAMP = 64


class InvalidRequestTime(OrchestratorError):
    """The request's validity is missing (EINVAL), over (EEXPIRED), to come (ETIMETRAVEL) or used up (EDUP)."""

    code = "EINVAL"
    fault = Fault.USER


class Stamps:
    """The stamps that one process has seen, in all its sessions.

    Memory is bounded: two generations of at most `capacity` stamps each; when the younger is full, or older than any
    stamp can live, the older is forgotten. Replays of whole messages are caught earlier, by their nonce; what this
    catches is a stamp used again in a new message.
    """

    def __init__(self, capacity: int = 65_536) -> None:
        self._capacity = capacity
        self._young: set[str] = set()
        self._old: set[str] = set()
        self._since = -math.inf

    def __len__(self) -> int:
        return len(self._young) + len(self._old)

    def check(self, validity: Any, now: float) -> None:
        """Raise `InvalidRequestTime` unless this is a request's first and timely appearance; remember its stamp."""
        if not isinstance(validity, dict):
            raise InvalidRequestTime("a request must carry payload.validity")
        stamp, time, ttl = validity.get("stamp"), validity.get("time"), validity.get("ttl")
        if not isinstance(stamp, str) or not 0 < len(stamp) <= _LONGEST_STAMP:
            raise InvalidRequestTime("payload.validity.stamp must be a string of 1 to 64 characters")
        if not _is_number(time):
            raise InvalidRequestTime("payload.validity.time must be a number of seconds")
        ttl = _ttl(ttl)
        if time > now + _SLOP:
            raise InvalidRequestTime("the request comes from the future: set the clock", code="ETIMETRAVEL")
        if time + ttl < now - _SLOP:
            raise InvalidRequestTime(
                "the request has expired: set the clock, or send it again as a new request",
                code="EEXPIRED",
                info={"timestamp": now, "offset": time - now},
            )
        if stamp in self._young or stamp in self._old:
            raise used_before()
        self._remember(stamp, now)

    def _remember(self, stamp: str, now: float) -> None:
        # time <= now + slop and ttl <= max, so a stamp is refused by its time alone after two slops and one ttl.
        if len(self._young) >= self._capacity or now - self._since > 2 * _SLOP + _MAX_TTL:
            self._old, self._young, self._since = self._young, set(), now
        self._young.add(stamp)


def used_before() -> InvalidRequestTime:
    return InvalidRequestTime("payload.validity.stamp was used before", code="EDUP")


def stale_at(validity: Any) -> float:
    """From when on a request that `Stamps.check` has passed is refused by its time alone."""
    return float(validity["time"]) + _ttl(validity.get("ttl")) + _SLOP


def _ttl(said: Any) -> float:
    return min(max(said, _MIN_TTL), _MAX_TTL) if _is_number(said) else DEFAULT_TTL


def _is_number(value: Any) -> TypeGuard[float]:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
