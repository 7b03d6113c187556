"""Whether every big value that a row refers to is where it should be, and is what its name says."""

from __future__ import annotations

import asyncio
import dataclasses
import hashlib
import re
from collections.abc import Collection, Mapping
from typing import Any, Final

from orchestrator.database import Database, Transaction
from orchestrator.scheduler.blobs import MARK, BlobStore
from orchestrator.scheduler.store import marks
from orchestrator.task_groups import TaskGroup

AT_ONCE: Final = 4
"""values in memory at a time"""
MOST_SILENT: Final = 20
"""after so many values that cannot be read the store is not asked any more: it is away"""
MOST_LOCKED: Final = 500
"""jobs that are looked at again; of more, retention is not why"""
_MARK: Final = re.compile(rf"{MARK}(?P<name>[0-9a-f]{{64}}):[0-9]+")


@dataclasses.dataclass(slots=True)
class Value:
    """One that is kept, and who refers to it: several may."""

    job: str
    name: str
    """the SHA-256 of its content; empty when the row does not say it"""
    what: str
    """what it is to the first that refers to it"""
    references: int = 1
    problem: str = ""


async def check_values(database: Database, place: str, store: BlobStore | None) -> dict[str, Any]:
    """A report as JSON; `place` says in it where `store` is, None when there is none. Changes nothing.

    Schedulers may be at work: what their retention drops meanwhile is not missing.
    """
    async with database.snapshot() as tx:
        known = await _referred(tx)
    report: dict[str, Any] = {
        "place": place,
        "references": sum(value.references for value in known.values()),
        "values": len(known),
        "checked": 0,
        "bytes": 0,
        "problems": [],
    }
    if store is None:
        return report
    looking = _Looking(store, list(known.values()))
    await looking.all()
    bad = {(value.job, value.name): value for value in known.values() if value.problem}
    if bad:
        owners = sorted({value.job for value in bad.values()})[:MOST_LOCKED]
        async with database.transaction() as tx:
            await marks.undisturbed(tx, owners)
            still = await _referred(tx, owners)
        bad = {key: value for key, value in bad.items() if key in still or value.job not in owners}
    report["checked"], report["bytes"] = looking.checked, looking.bytes
    report["problems"] = [_told(bad[key]) for key in sorted(bad)]
    if looking.left:
        problem = f"{looking.left} more values were not looked at: the store does not answer"
        report["problems"].append({"job": None, "value": None, "what": None, "references": 0, "problem": problem})
    return report


def problem_line(problem: Mapping[str, Any]) -> str:
    """One of the report's problems, for people."""
    if problem["job"] is None:
        return str(problem["problem"])
    others = f", and {problem['references'] - 1} more" if problem["references"] > 1 else ""
    return f"job {problem['job']}: {problem['what']}{others} (SHA-256 {problem['value']}) {problem['problem']}"


def _told(value: Value) -> dict[str, Any]:
    return {
        "job": value.job,
        "value": value.name,
        "what": value.what,
        "references": value.references,
        "problem": value.problem,
    }


async def _referred(tx: Transaction, only: Collection[str] | None = None) -> dict[tuple[str, str], Value]:
    """By job and name."""
    found: dict[tuple[str, str], Value] = {}
    async for one in marks.references(tx, MARK, only):
        read = _MARK.fullmatch(one.mark)
        name = "" if read is None else read["name"]
        known = found.get((one.job, name))
        if known is None:
            found[one.job, name] = Value(one.job, name, one.what)
        else:
            known.references += 1
    return found


class _Looking:
    """Reads values one after the other, several at a time, and notes what is wrong with each."""

    def __init__(self, store: BlobStore, values: list[Value]) -> None:
        self._store = store
        self._rest = values[::-1]
        self._silent = 0
        self.checked = 0
        self.bytes = 0

    @property
    def left(self) -> int:
        return len(self._rest)

    async def all(self) -> None:
        async with TaskGroup() as group:
            for _ in range(AT_ONCE):
                group.create_task(self._some())

    async def _some(self) -> None:
        while self._rest and self._silent < MOST_SILENT:
            value = self._rest.pop()
            value.problem = await self._look(value)
            self.checked += 1

    async def _look(self, value: Value) -> str:
        if not value.name:
            return "is not named: the row has no whole mark"
        try:
            data = await self._store.get(value.job, value.name)
        except OSError as error:
            self._silent += 1
            return f"cannot be read: {error}"
        if data is None:
            return "is not in the store"
        self.bytes += len(data)
        if await asyncio.to_thread(_hash, data) != value.name:
            return "was changed in the store"
        return ""


def _hash(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
