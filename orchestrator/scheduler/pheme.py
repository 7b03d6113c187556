"""The pheme service: reports about jobs, to their owners."""

from __future__ import annotations

import datetime
from collections.abc import Mapping
from typing import Any

from orchestrator.errors import InvalidInput, NotPermitted
from orchestrator.jobs.words import RunStatus
from orchestrator.protocol.server import Request
from orchestrator.scheduler import messages
from orchestrator.scheduler.catalog import Job, build
from orchestrator.scheduler.core import Core, Operations, fields, owns
from orchestrator.scheduler.lifecycle import job_story
from orchestrator.scheduler.settling import facts_of
from orchestrator.scheduler.store import jobs, slices
from orchestrator.scheduler.store.jobs import JobState


class Pheme:
    def __init__(self, core: Core) -> None:
        self._core = core
        self._operations = Operations(
            {
                "listJobs": self.list_jobs,
                "countJobs": self.count_jobs,
                "countSlices": self.count_slices,
                "fetchJobReport": self.fetch_job_report,
                "fetchSliceReport": self.fetch_slice_report,
            }
        )

    async def handle(self, request: Request) -> Any:
        return await self._operations.handle(request)

    async def list_jobs(self, request: Request) -> list[dict[str, Any]]:
        """Jobs of the peer: one by id, or all that were deployed in a time and are in one of some statuses."""
        data = fields(request) if request.data else {}
        statuses = data.get("statuses")
        if statuses is not None:
            known = {str(status) for status in RunStatus}
            if not isinstance(statuses, list) or not set(statuses) <= known:
                raise InvalidInput(f"statuses must be a list of {', '.join(sorted(known))}")
        job_id = data.get("job")
        async with self._core.database.snapshot() as tx:
            found = await jobs.listing(
                tx,
                owner=None if job_id is not None else request.peer,
                job_id=job_id if isinstance(job_id, str) else None,
                statuses=statuses or None,
                created_from=_time("startDeployTime", data.get("startDeployTime")),
                created_to=_time("endDeployTime", data.get("endDeployTime")),
            )
            pairs = [(job, state) for record, state in found if owns(request, job := build(record))]
            held = await self._core.money.held(tx, [job for job, _ in pairs])
        return [_report(job, state, held) for job, state in pairs]

    async def count_jobs(self, request: Request) -> dict[str, int]:
        """Number of the peer's jobs by status."""
        async with self._core.database.snapshot() as tx:
            found = await jobs.listing(tx, owner=request.peer, job_id=None, statuses=None, limit=1_000_000)
        counts: dict[str, int] = {}
        for _, state in found:
            counts[str(state.status)] = counts.get(str(state.status), 0) + 1
        return counts

    async def count_slices(self, request: Request) -> dict[str, Any]:
        job, state = await self._one(request)
        counts = state.counts
        return {
            "job": job.id,
            "total": counts.total,
            "waiting": counts.waiting,
            "distributed": counts.leased,
            "computed": counts.accepted,
            "failed": counts.failed,
        }

    async def fetch_job_report(self, request: Request) -> dict[str, Any]:
        job, state = await self._one(request)
        async with self._core.database.snapshot() as tx:
            held = await self._core.money.held(tx, [job])
        return _report(job, state, held) | {"story": job_story(facts_of(state))}

    async def fetch_slice_report(self, request: Request) -> dict[str, Any]:
        """What happened to a slice (`slice`), or the counts when none is named."""
        job, state = await self._one(request)
        number = fields(request).get("slice")
        if isinstance(number, bool) or not isinstance(number, int):
            return {"job": job.id, "story": job_story(facts_of(state))}
        async with self._core.database.snapshot() as tx:
            return {"job": job.id, **await slices.story(tx, job.key, number)}

    async def _one(self, request: Request) -> tuple[Job, JobState]:
        data: Mapping[str, Any] = fields(request)
        async with self._core.database.snapshot() as tx:
            job = await self._core.catalog.get(tx, data.get("job"))
            if not owns(request, job):
                raise NotPermitted(f"only the owner of job {job.id} may see its reports")
            return job, (await jobs.states(tx, [job.key]))[job.key]


def _report(job: Job, state: JobState, held: Mapping[int, int]) -> dict[str, Any]:
    return messages.job_report(job, state) | messages.money_of(job, state, held.get(job.key, 0))


def _time(field: str, value: Any) -> float | None:
    """Seconds since 1970 from milliseconds or ISO text. Raises `InvalidInput`."""
    if value is None:
        return None
    if isinstance(value, int | float) and not isinstance(value, bool):
        return value / 1000
    try:
        moment = datetime.datetime.fromisoformat(value)
    except (TypeError, ValueError):
        raise InvalidInput(f"{field} is {value!r:.40}; it must be milliseconds since 1970 or an ISO date") from None
    return (moment if moment.tzinfo is not None else moment.replace(tzinfo=datetime.UTC)).timestamp()
