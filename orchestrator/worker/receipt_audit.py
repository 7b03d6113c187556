"""Pure: what receipts that others hand in are worth: each is checked, and they are counted together."""

from __future__ import annotations

import collections
import dataclasses
from typing import Any, Final

from orchestrator.errors import InvalidInput
from orchestrator.wallet.keys import keccak256
from orchestrator.worker import receipts

_MOST_FINDINGS: Final = 1000
_MOST_LINE: Final = 64 * 1024


@dataclasses.dataclass(frozen=True)
class Finding:
    """`place` is file and line; `kind` "invalid", "duplicate", "repeated" or "torn"."""

    place: str
    kind: str
    problem: str


class Audit:
    """Lines in, verdict out. Remembers 16 bytes per receipt and per slice, to tell when one comes again.

    A *duplicate* is the same receipt once more. A *repeated* slice has several receipts: it was computed again after a
    lease was lost, or somebody is paid twice: only the Scheduler's books tell, so it is told and not held against them.
    """

    def __init__(self, expected: str | None = None) -> None:
        """`expected` is the address that must have signed; None takes any."""
        self._expected = expected
        self._seen: set[bytes] = set()
        self._slices: set[bytes] = set()
        self.counts: collections.Counter[str] = collections.Counter(valid=0, invalid=0, duplicate=0, repeated=0, torn=0)
        self.signers: collections.Counter[str] = collections.Counter()
        self.findings: list[Finding] = []
        self.first_ms: int | None = None
        self.last_ms: int | None = None
        self.cpu_ns = 0

    def take(self, place: str, line: bytes, *, complete: bool = True) -> dict[str, Any] | None:
        """Judge a line; its receipt when it is valid. Not `complete`: it is a file's last, and has no line feed.

        What is wrong with it is among the findings.
        """
        try:
            if len(line) > _MOST_LINE:
                raise InvalidInput(f"a line of {len(line)} bytes is no receipt")
            receipt = receipts.parse(line.decode("utf-8"))
            address = receipts.signer(receipt)
            if self._expected is not None and address != self._expected:
                raise InvalidInput(f"signed by {address}, not by {self._expected}")
        except (InvalidInput, UnicodeDecodeError) as error:
            problem = error.message if isinstance(error, InvalidInput) else "it is not UTF-8"
            if complete:
                self._find(place, "invalid", problem)
            else:
                self._find(place, "torn", "the last line was cut off: its writer was killed")
            return None
        self._count(place, receipt, address)
        return receipt

    def _count(self, place: str, receipt: dict[str, Any], address: str) -> None:
        mark = keccak256(receipt["signature"].encode())[:16]
        if mark in self._seen:
            self._find(place, "duplicate", f"slice {receipt['slice']} of job {receipt['job']}: the same receipt again")
            return
        self._seen.add(mark)
        self.counts["valid"] += 1
        self.signers[address] += 1
        self.cpu_ns += receipt["metrics"]["cpuNs"]
        self.first_ms = receipt["time"] if self.first_ms is None else min(self.first_ms, receipt["time"])
        self.last_ms = receipt["time"] if self.last_ms is None else max(self.last_ms, receipt["time"])
        place_of_slice = keccak256(f"{address} {receipt['job']} {receipt['slice']}".encode())[:16]
        if place_of_slice in self._slices:
            self._find(place, "repeated", f"slice {receipt['slice']} of job {receipt['job']} has several receipts")
        self._slices.add(place_of_slice)

    def _find(self, place: str, kind: str, problem: str) -> None:
        self.counts[kind] += 1
        if len(self.findings) < _MOST_FINDINGS:
            self.findings.append(Finding(place, kind, problem))

    @property
    def good(self) -> bool:
        """Whether every receipt is valid and there once. Torn lines and repeated slices are told, not held against."""
        return not (self.counts["invalid"] or self.counts["duplicate"])

    def to_json(self) -> dict[str, Any]:
        return {
            "good": self.good,
            **self.counts,
            "signers": dict(self.signers),
            "first": self.first_ms,
            "last": self.last_ms,
            "cpu_s": self.cpu_ns / 1e9,
            "findings": [dataclasses.asdict(finding) for finding in self.findings],
        }
