"""Pure: why slices went back, requests failed and sandboxes idled: counted by code and job, bounded, for `explain`."""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Iterable
from typing import Final

MOST_RECORDS: Final = 500
_LONGEST_DETAIL: Final = 400


class Kind(enum.StrEnum):
    """What was refused."""

    SLICE = "slice"  # slices went back to the Scheduler, or their results were not taken
    REQUEST = "request"  # the Scheduler gave no work
    IDLE = "idle"  # a sandbox's place stood empty


@dataclasses.dataclass(slots=True)
class Record:
    """One reason. `count` is slices, or requests; of idle places it is how often they were seen idle, and `seconds` how
    long, summed over places. Times are the supervisor's clock."""

    kind: Kind
    code: str
    job: str
    first_at: float
    last_at: float
    count: int = 0
    seconds: float = 0.0
    detail: str = ""


class Refusals:
    """Records by (kind, code, job); the one that was quiet for longest makes room for a new one."""

    def __init__(self, most: int = MOST_RECORDS) -> None:
        self._most = most
        self._records: dict[tuple[Kind, str, str], Record] = {}

    def note(
        self,
        kind: Kind,
        code: str,
        now: float,
        *,
        job: str = "",
        count: int = 1,
        seconds: float = 0.0,
        detail: str | None = None,
    ) -> None:
        """Count it. `detail` (a sentence for people, cut when it is long) replaces the one before, if given."""
        key = (kind, code, job)
        record = self._records.pop(key, None)
        if record is None:
            record = Record(kind, code, job, now, now)
            if len(self._records) >= self._most:
                del self._records[next(iter(self._records))]
        self._records[key] = record
        record.last_at = now
        record.count += count
        record.seconds += seconds
        if detail is not None:
            record.detail = detail[:_LONGEST_DETAIL]

    def records(self) -> tuple[Record, ...]:
        """Copies, the newest last."""
        return tuple(dataclasses.replace(record) for record in self._records.values())


def totals(records: Iterable[Record], kind: Kind) -> dict[str, int]:
    """Counts of one kind by code, over all jobs."""
    found: dict[str, int] = {}
    for record in records:
        if record.kind is kind:
            found[record.code] = found.get(record.code, 0) + record.count
    return found
