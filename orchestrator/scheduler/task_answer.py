"""Answers to requests for work: what was leased to the worker, as it reads it."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from orchestrator.scheduler import messages
from orchestrator.scheduler.blobs import BlobAway
from orchestrator.scheduler.catalog import Job
from orchestrator.scheduler.core import Core
from orchestrator.scheduler.lease_book import auth_body, authorization
from orchestrator.scheduler.lost_values import Unreadable
from orchestrator.scheduler.packing import PackingRules, is_long
from orchestrator.scheduler.programs import Program
from orchestrator.scheduler.store.jobs import JobState
from orchestrator.scheduler.store.leases import Lease


@dataclasses.dataclass(slots=True)
class Grant:
    """Slices of one job that were just leased."""

    job: Job
    state: JobState
    numbers: list[int]
    estimation: bool
    group: str
    """the compute group through which the worker gets them"""
    cotasks: int = 0
    """workers that have these slices, too"""


class TaskAnswers:
    def __init__(self, core: Core, rules: PackingRules) -> None:
        self._core = core
        self._rules = rules

    def nothing(self, no_work: Mapping[str, int] | None = None) -> dict[str, Any]:
        """`no_work` says how many jobs wait, by the reason for which this worker gets none of them. It is a field of
        ours that official workers pass over."""
        body = self._body()
        if no_work:
            body["noWork"] = dict(no_work)
        auth = {"workerId": "", "authSlices": {}, "schedulerId": self._core.identity.address}
        return {**authorization(self._core.identity, auth), "body": body}

    async def of(self, lease: Lease, grants: Sequence[Grant], data: Mapping[int, Mapping[int, str]]) -> dict[str, Any]:
        """`data` are the listed inputs of the slices, by job and number. Raises `Unreadable`."""
        data = await self._resolved(grants, data)
        programs = {grant.job.id: await self._program(grant.job) for grant in grants}
        taken = {
            grant.job.id: lease.commissions[grant.job.key] for grant in grants if grant.job.key in lease.commissions
        }
        numbers = {grant.job.id: grant.numbers for grant in grants}
        auth = auth_body(lease, numbers, taken, self._core.identity.address)
        body = self._body()
        body["newJobs"] = {
            grant.job.id: messages.job_message(grant.job, programs[grant.job.id], grant.state, grant.group)
            for grant in grants
        }
        body["task"] = {grant.job.id: self._slices(grant, data.get(grant.job.key, {})) for grant in grants}
        return {**authorization(self._core.identity, auth), "body": body}

    def _body(self) -> dict[str, Any]:
        settings = self._core.settings
        return {
            "computeGroupOrigins": {},
            "pendingNotifications": False,
            "schedulerConfig": {
                "targetTaskDuration": messages.whole(settings.target_task_s),
                "shared": {
                    "frequencyMs": round(settings.beacon_s * 1000),
                    "debuggingFactor": 1,
                    "useLifetimeAnalysis": True,
                    "lifetimeFactor": 1,
                    "slice": {"multiplier": 1.5, "sigmas": 2, "biasMs": 120_000, "factor": 1, "maxCotasking": 2},
                },
            },
        }

    async def _resolved(
        self, grants: Sequence[Grant], data: Mapping[int, Mapping[int, str]]
    ) -> Mapping[int, Mapping[int, str]]:
        """Listed inputs themselves, wherever they are kept."""
        found: dict[int, dict[int, str]] = {}
        failed: dict[int, dict[int, BlobAway]] = {}

        async def resolve(job: Job, number: int, uri: str) -> None:
            try:
                found[job.key][number] = await self._core.blobs.resolve(job.id, uri, f"the input of slice {number}")
            except BlobAway as error:
                failed.setdefault(job.key, {})[number] = error

        wanted = []
        for grant in grants:
            found[grant.job.key] = {}
            wanted += [resolve(grant.job, *listed) for listed in data.get(grant.job.key, {}).items()]
        await asyncio.gather(*wanted)
        if failed:
            raise Unreadable(failed, next(iter(next(iter(failed.values())).values())))
        return found

    async def _program(self, job: Job) -> Program:
        try:
            return await self._core.programs.of(job)
        except BlobAway as error:
            raise Unreadable({job.key: {}}, error) from error

    def _slices(self, grant: Grant, listed: Mapping[int, str]) -> list[dict[str, Any]]:
        long = is_long(slice_seconds(grant.state), self._rules)
        return [
            messages.slice_message(
                grant.job,
                number,
                _datum(grant.job, number, listed),
                estimation=grant.estimation,
                long=long,
                cotasks=grant.cotasks,
            )
            for number in grant.numbers
        ]


def slice_seconds(state: JobState) -> float | None:
    return state.estimate.wall_ms / 1000 if state.estimate.measured else None


def in_range(job: Job, number: int) -> bool:
    """Slices beyond the range of an open job are listed ones."""
    return job.inputs is not None and number <= job.inputs.length


def _datum(job: Job, number: int, listed: Mapping[int, str]) -> str | None:
    if job.inputs is None or not in_range(job, number):
        return listed.get(number)
    return None if job.range_location is not None else job.inputs.uri(number - 1)
