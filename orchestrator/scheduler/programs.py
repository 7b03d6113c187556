"""Code and arguments of jobs: in the job's row when they are small, else beside the other big values.

What is read often is kept in memory, up to a size.
"""

from __future__ import annotations

import asyncio
import collections
import dataclasses
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from orchestrator.scheduler.blobs import MARK, BlobAway, Blobs
from orchestrator.scheduler.catalog import Job

KEPT = 64_000_000
"""characters of programs that lie outside the rows and are kept in memory"""
_CODE, _ARGUMENTS = "codeLocation", "argumentUris"


@dataclasses.dataclass(frozen=True, slots=True)
class Program:
    code: str
    """URI of the work function"""
    arguments: Sequence[str]
    """URIs"""


class Programs:
    def __init__(self, blobs: Blobs) -> None:
        self._blobs = blobs
        self._kept: collections.OrderedDict[str, tuple[Program, int]] = collections.OrderedDict()
        self._size = 0

    def is_big(self, spec: Mapping[str, Any]) -> bool:
        """Whether `stash` puts something aside."""
        return any(map(self._blobs.is_big, (spec[_CODE], json.dumps(spec[_ARGUMENTS]))))

    async def stash(self, job: str, spec: Mapping[str, Any]) -> Mapping[str, Any]:
        """The same, with marks for what is big. Raises `BlobAway`."""
        arguments = json.dumps(spec[_ARGUMENTS])
        code, listed = await self._blobs.stash(job, [spec[_CODE], arguments])
        return {**spec, _CODE: code, _ARGUMENTS: spec[_ARGUMENTS] if listed == arguments else listed}

    async def of(self, job: Job) -> Program:
        """Raises `BlobAway`."""
        code, arguments = job.spec[_CODE], job.spec[_ARGUMENTS]
        if not isinstance(arguments, str) and not code.startswith(MARK):
            return Program(code, arguments)
        if not self._blobs.is_on:
            problem = f"the program of job {job.id} lies outside the database, and no blob store is set to find it in"
            raise BlobAway(problem)
        kept = self._kept.get(job.id)
        if kept is not None:
            self._kept.move_to_end(job.id)
            return kept[0]
        code = await self._blobs.resolve(job.id, code, "the code")
        if isinstance(arguments, str):
            arguments = json.loads(await self._blobs.resolve(job.id, arguments, "the list of arguments"))
        program = Program(code, arguments)
        self._keep(job.id, program, len(code) + sum(map(len, arguments)))
        return program

    async def unreadable(self, jobs: Iterable[Job]) -> dict[int, BlobAway]:
        """Those whose program cannot be had, and why, by key."""
        wanted = list(jobs)
        outcomes = await asyncio.gather(*map(self.of, wanted), return_exceptions=True)
        found = {}
        for job, outcome in zip(wanted, outcomes, strict=True):
            if isinstance(outcome, BlobAway):
                found[job.key] = outcome
            elif isinstance(outcome, BaseException):
                raise outcome
        return found

    def _keep(self, job: str, program: Program, size: int) -> None:
        if job not in self._kept:
            self._kept[job] = program, size
            self._size += size
        while self._size > KEPT and len(self._kept) > 1:
            self._size -= self._kept.popitem(last=False)[1][1]


def without_program(spec: Mapping[str, Any]) -> Mapping[str, Any]:
    """What stays of an ended job."""
    return {**spec, _CODE: "", _ARGUMENTS: []}
