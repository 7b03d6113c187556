"""The unchanging part of jobs, parsed once and kept for those that are in use."""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any

from orchestrator.database import Database, Transaction
from orchestrator.errors import InvalidInput, NotFound
from orchestrator.jobs.ranges import InputSet, LocatedRange, parse_input_set
from orchestrator.scheduler import redundancy
from orchestrator.scheduler.store import jobs
from orchestrator.scheduler.store.jobs import JobRecord

KEPT = 5000
"""jobs kept parsed; the rest is read again when needed"""


@dataclasses.dataclass(frozen=True, slots=True)
class Job:
    """A deployed job as the services see it."""

    record: JobRecord
    inputs: InputSet | None
    """None when inputs are listed in rows"""

    @property
    def key(self) -> int:
        return self.record.key

    @property
    def id(self) -> str:
        return self.record.id

    @property
    def owner(self) -> str:
        return self.record.owner

    @property
    def payment_account(self) -> str:
        return self.record.payment_account

    @property
    def slice_price(self) -> int:
        return self.record.slice_price

    @property
    def rule(self) -> redundancy.Rule | None:
        """How many workers must agree on a slice; None when one is enough."""
        told = self.record.spec.get("redundancy")
        return None if told is None else redundancy.read_rule(told)

    @property
    def slice_cost(self) -> int:
        """The most that a slice may cost: its price, as often as it may be paid."""
        rule = self.rule
        return self.slice_price if rule is None else self.slice_price * rule.of

    @property
    def spec(self) -> Mapping[str, Any]:
        return self.record.spec

    @property
    def range_location(self) -> str | None:
        """URI of a range that only the deployer's own worker can read; its slices carry no datum of their own."""
        return self.inputs.location if isinstance(self.inputs, LocatedRange) else None


def build(record: JobRecord) -> Job:
    inputs = None if record.input_set is None else parse_input_set(record.input_set, seed=record.id)
    return Job(record, inputs)


class Catalog:
    def __init__(self) -> None:
        self._by_id: collections.OrderedDict[str, Job] = collections.OrderedDict()
        self._by_key: dict[int, Job] = {}

    def add(self, record: JobRecord) -> Job:
        job = build(record)
        self._by_id[job.id] = job
        self._by_key[job.key] = job
        while len(self._by_id) > KEPT:
            _, oldest = self._by_id.popitem(last=False)
            self._by_key.pop(oldest.key, None)
        return job

    def cached(self, job_id: str) -> Job | None:
        job = self._by_id.get(job_id)
        if job is not None:
            self._by_id.move_to_end(job_id)
        return job

    async def find(self, tx: Transaction, job_id: Any) -> Job | None:
        if not isinstance(job_id, str):
            raise InvalidInput(f"job is {job_id!r}; it must be a job id")
        job = self.cached(job_id)
        if job is None:
            record = await jobs.record_by_id(tx, job_id)
            job = None if record is None else self.add(record)
        return job

    async def get(self, tx: Transaction, job_id: Any) -> Job:
        """Raises `NotFound`."""
        job = await self.find(tx, job_id)
        if job is None:
            raise NotFound(f"there is no job {job_id}", info={"job": job_id})
        return job

    async def known(self, database: Database, keys: Iterable[int]) -> dict[int, Job]:
        """`by_keys` that asks the database only where it must."""
        wanted = set(keys)
        if wanted <= self._by_key.keys():
            return {key: self._by_key[key] for key in wanted}
        async with database.snapshot() as tx:
            return await self.by_keys(tx, wanted)

    async def by_keys(self, tx: Transaction, keys: Iterable[int]) -> dict[int, Job]:
        wanted = set(keys)
        missing = [key for key in wanted if key not in self._by_key]
        if missing:
            for record in await jobs.records(tx, missing):
                self.add(record)
        return {key: self._by_key[key] for key in wanted if key in self._by_key}
