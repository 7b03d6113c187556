"""Results that the Scheduler did not want: work that was done for nothing, each with the reason."""

from __future__ import annotations

import collections
import dataclasses
import json
import logging
import pathlib
from typing import Any, Final

log = logging.getLogger(__name__)

FILE: Final = "late-results.jsonl"
KEPT: Final = 100
_MOST_BYTES: Final = 1024 * 1024


@dataclasses.dataclass(frozen=True, slots=True)
class LateResult:
    """`at` and `finished_at` are Unix times: when it was refused, when it was computed."""

    job: str
    slice: int
    code: str
    message: str
    at: float
    finished_at: float


class LateResults:
    """A file of one JSON object per line in the state folder (and one older file), and the latest in memory."""

    def __init__(self, folder: pathlib.Path) -> None:
        self._path = folder / FILE
        self._latest: collections.deque[LateResult] = collections.deque(maxlen=KEPT)
        self.count = 0

    def note(self, one: LateResult) -> None:
        """Remember it, and say so in the log. No I/O: see `write`."""
        self.count += 1
        self._latest.append(one)
        log.warning(
            "result_refused", extra={"job": one.job, "slice": one.slice, "code": one.code, "error": one.message}
        )

    def write(self, some: list[LateResult]) -> None:
        """Blocking. A file that cannot be written is logged, and otherwise does no harm: the log has it as well."""
        text = "".join(json.dumps(dataclasses.asdict(one), ensure_ascii=False) + "\n" for one in some)
        try:
            if self._path.exists() and self._path.stat().st_size > _MOST_BYTES:
                self._path.replace(self._path.with_name(FILE + ".1"))
            with self._path.open("a", encoding="utf-8") as file:
                file.write(text)
        except OSError as error:
            log.warning("late_results_not_written", extra={"file": str(self._path), "error": error.strerror})

    def latest(self) -> list[dict[str, Any]]:
        """The newest first."""
        return [dataclasses.asdict(one) for one in reversed(self._latest)]
