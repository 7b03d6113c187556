"""What a check is, and what all of them together say."""

from __future__ import annotations

import enum
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any


class Status(enum.StrEnum):
    OK = "ok"
    WARN = "warn"
    """The Worker runs, with something weaker, slower or less exact than it could be."""
    FAIL = "fail"
    """The Worker cannot run, or not safely."""
    SKIP = "skip"
    """It could not be judged from here, or was not asked for; `found` says why."""


@dataclass(frozen=True)
class Check:
    """One prerequisite. `name` is stable; `found`, `wanted` and `remedy` are for people; an ok check has no remedy."""

    name: str
    status: Status
    found: str
    wanted: str = ""
    remedy: str = ""

    def to_json(self) -> dict[str, str]:
        return {
            "name": self.name,
            "status": str(self.status),
            "found": self.found,
            "wanted": self.wanted,
            "remedy": self.remedy,
        }


def ok(name: str, found: str, wanted: str = "") -> Check:
    return Check(name, Status.OK, found, wanted)


def warn(name: str, found: str, wanted: str, remedy: str) -> Check:
    return Check(name, Status.WARN, found, wanted, remedy)


def fail(name: str, found: str, wanted: str, remedy: str) -> Check:
    return Check(name, Status.FAIL, found, wanted, remedy)


def skip(name: str, why: str) -> Check:
    return Check(name, Status.SKIP, why)


@dataclass(frozen=True)
class Examination:
    """Everything that was judged."""

    checks: Sequence[Check]

    def counts(self) -> dict[str, int]:
        counted = Counter(check.status for check in self.checks)
        return {str(status): counted[status] for status in Status}

    def good(self, *, strict: bool = False) -> bool:
        """Whether nothing failed; if `strict`, nothing is to be warned of either."""
        bad = {Status.FAIL, Status.WARN} if strict else {Status.FAIL}
        return not any(check.status in bad for check in self.checks)

    def to_json(self, *, strict: bool = False) -> dict[str, Any]:
        return {
            "good": self.good(strict=strict),
            "counts": self.counts(),
            "checks": [check.to_json() for check in self.checks],
        }
